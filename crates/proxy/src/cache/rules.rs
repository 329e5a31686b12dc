//! Which answers may stand in for later ones, and for whose requests: those of a shared cache that
//! is used for nothing but `stale-if-error` (RFC 9111; RFC 5861, 4).

#![deny(clippy::indexing_slicing, clippy::panic)]

use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, PRAGMA, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderName};

use crate::digest::short_digest;

/// What the name of a field has that tells one principal from another. Where it is in doubt, answers
/// are kept apart.
const PRINCIPAL: &[&str] = &[
    "api-key",
    "apikey",
    "auth",
    "customer",
    "identity",
    "principal",
    "session",
    "tenant",
    "token",
    "user",
];

/// Whether `User-Agent` and the like tell nothing of a principal.
fn is_of_a_principal(name: &HeaderName) -> bool {
    let text = name.as_str();
    *name == AUTHORIZATION
        || *name == COOKIE
        || text != "user-agent" && PRINCIPAL.iter().any(|part| text.contains(part))
}

/// What a kept answer is found by: the path, and whose request it was, if that can be told.
pub(crate) fn key(path: &str, request: &HeaderMap) -> String {
    let mut names: Vec<&HeaderName> = request
        .keys()
        .filter(|name| is_of_a_principal(name))
        .collect();
    if names.is_empty() {
        return path.to_owned();
    }
    names.sort_by_key(|name| name.as_str());
    let whose = digest(request, names);
    format!("{path}\0{whose}")
}

/// What tells the variants of an answer apart: the values of the fields that `Vary` names.
pub(crate) fn variant(names: &[HeaderName], request: &HeaderMap) -> String {
    digest(request, names)
}

fn digest<'a>(headers: &HeaderMap, names: impl IntoIterator<Item = &'a HeaderName>) -> String {
    let mut all = Vec::new();
    // Lengths first, so that no value can pose as two.
    let mut add = |bytes: &[u8]| {
        all.extend((bytes.len() as u64).to_be_bytes());
        all.extend(bytes);
    };
    for name in names {
        add(name.as_str().as_bytes());
        let values: Vec<_> = headers.get_all(name).iter().collect();
        add(&(values.len() as u64).to_be_bytes());
        for value in values {
            add(value.as_bytes());
        }
    }
    short_digest(all, 32)
}

/// The fields that an answer depends on, if it may be kept at all.
pub(crate) fn storable(request: &HeaderMap, response: &HeaderMap) -> Option<Vec<HeaderName>> {
    // A stale answer may not be given where any of the last four forbids it (RFC 9111, 4.2.4).
    const FORBIDDING: &[&str] = &[
        "no-store",
        "private",
        "no-cache",
        "must-revalidate",
        "proxy-revalidate",
        "s-maxage",
    ];
    let forbidden = directives(response).any(|given| FORBIDDING.contains(&given.as_str()));
    let unwanted = directives(request).any(|given| given == "no-store");
    let no_cache = response
        .get(PRAGMA)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"no-cache"));
    if forbidden || unwanted || no_cache || response.contains_key(SET_COOKIE) {
        return None;
    }
    let mut names = Vec::new();
    for value in response.get_all(VARY) {
        for name in value.to_str().ok()?.split(',').map(str::trim) {
            if !name.is_empty() {
                // `*`, among others, is no name.
                names.push(name.parse().ok().filter(|_| name != "*")?);
            }
        }
    }
    names.sort_by(|left: &HeaderName, right| left.as_str().cmp(right.as_str()));
    names.dedup();
    Some(names)
}

/// The names of the directives of `Cache-Control`, in small letters.
fn directives(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let values = headers.get_all(CACHE_CONTROL).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(|directive| {
            let name = directive.split('=').next().unwrap_or_default();
            name.trim().to_ascii_lowercase()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let parsed = fields.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        });
        parsed.collect()
    }

    #[test]
    fn what_is_marked_as_one_persons_is_not_kept() {
        for (request, response, kept) in [
            (("accept", "*/*"), ("content-type", "text/plain"), true),
            (
                ("accept", "*/*"),
                ("cache-control", "public, max-age=60"),
                true,
            ),
            (("accept", "*/*"), ("cache-control", "Private"), false),
            (
                ("accept", "*/*"),
                ("cache-control", "max-age=0, no-store"),
                false,
            ),
            (
                ("accept", "*/*"),
                ("cache-control", "private=\"set-cookie\""),
                false,
            ),
            (
                ("accept", "*/*"),
                ("cache-control", "max-age=0, must-revalidate"),
                false,
            ),
            (("accept", "*/*"), ("pragma", "no-cache"), false),
            (("accept", "*/*"), ("set-cookie", "a=b"), false),
            (("accept", "*/*"), ("vary", "*"), false),
            (("accept", "*/*"), ("vary", "accept, *"), false),
            (
                ("cache-control", "no-store"),
                ("content-type", "text/plain"),
                false,
            ),
        ] {
            let seen = storable(&headers(&[request]), &headers(&[response]));
            assert_eq!(seen.is_some(), kept, "{request:?} {response:?}");
        }
    }

    #[test]
    fn each_principal_has_a_key_of_its_own() {
        let anonymous = key("/me", &headers(&[("accept", "*/*"), ("user-agent", "a")]));
        assert_eq!(anonymous, "/me");
        let mut keys = vec![anonymous];
        for fields in [
            &[("authorization", "Bearer alice")][..],
            &[("authorization", "Bearer bob")],
            &[("cookie", "Bearer bob")],
            &[("x-user-id", "7")],
            &[("x-api-key", "7")],
            &[("cookie", "a"), ("x-user-id", "b")],
            &[("cookie", "ab")],
        ] {
            keys.push(key("/me", &headers(fields)));
        }
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count);
        assert!(keys.iter().all(|key| !key.contains("alice")));
    }

    #[test]
    fn variants_differ_by_what_vary_names_and_by_nothing_else() {
        let response = headers(&[("vary", "Accept-Language, accept")]);
        let names = storable(&HeaderMap::new(), &response).unwrap();
        let of = |language: &str, other: &str| {
            let request = headers(&[("accept-language", language), ("x-other", other)]);
            variant(&names, &request)
        };
        assert_eq!(of("id", "1"), of("id", "2"));
        assert_ne!(of("id", "1"), of("en", "1"));
    }
}
