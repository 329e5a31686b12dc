//! The one place where the values of a checked configuration become the HTTP library's types. It
//! cannot fail: [`mrg_policy`]'s values are valid by construction, by the same grammar, and the
//! tests here hold every character of every one of them against the library.

use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// The name of a header; the library writes it in small letters.
pub(crate) fn header_name(name: &mrg_policy::HeaderName) -> HeaderName {
    name.as_str().parse().expect("a checked header name parses")
}

/// The value of a header.
pub(crate) fn header_value(value: &mrg_policy::HeaderValue) -> HeaderValue {
    value
        .as_str()
        .parse()
        .expect("a checked header value parses")
}

/// Headers; of two with the same name the last one counts.
pub(crate) fn headers(headers: &[(mrg_policy::HeaderName, mrg_policy::HeaderValue)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(header_name(name), header_value(value));
    }
    map
}

/// A method.
pub(crate) fn method(method: &mrg_policy::Method) -> Method {
    method.as_str().parse().expect("a checked method parses")
}

/// The status of an answer.
pub(crate) fn status(status: mrg_policy::StatusCode) -> StatusCode {
    StatusCode::from_u16(status.get()).expect("a checked status is in range")
}

/// Where a server is.
pub(crate) fn authority(authority: &mrg_policy::Authority) -> Authority {
    authority
        .as_str()
        .parse()
        .expect("a checked authority parses")
}

/// What a request asks for.
pub(crate) fn path(path: &mrg_policy::RequestPath) -> PathAndQuery {
    path.as_str().parse().expect("a checked path parses")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every character that could be in a value, and some beyond.
    fn texts() -> impl Iterator<Item = String> {
        let one = (0..=0x17f_u32).filter_map(char::from_u32);
        one.flat_map(|c| {
            [
                format!("{c}"),
                format!("A{c}"),
                format!("/{c}a"),
                format!("/{c}"),
            ]
        })
        .chain(["A".repeat(65_535), format!("/{}", "a".repeat(4095))])
    }

    #[test]
    fn every_name_value_and_method_that_is_checked_is_one_of_the_library() {
        for text in texts() {
            if let Some(checked) = mrg_policy::HeaderName::new(&text) {
                assert!(header_name(&checked).as_str().eq_ignore_ascii_case(&text));
            }
            if let Some(checked) = mrg_policy::HeaderValue::new(&text) {
                assert_eq!(header_value(&checked), text.as_str());
            }
            if let Some(checked) = mrg_policy::Method::new(&text) {
                assert_eq!(method(&checked), text.as_str());
            }
            if let Some(checked) = mrg_policy::RequestPath::new(&text) {
                assert_eq!(path(&checked), text.as_str());
            }
            if let Some(checked) = mrg_policy::BasePath::new(&text) {
                let whole = format!("{}/x", checked.as_str());
                assert_eq!(whole.parse::<PathAndQuery>().unwrap(), whole.as_str());
            }
        }
        for number in 0..=u16::MAX {
            if let Some(checked) = mrg_policy::StatusCode::new(number) {
                assert_eq!(status(checked).as_u16(), number);
            }
        }
    }

    #[test]
    fn every_authority_that_is_checked_is_one_of_the_library() {
        let names = texts().map(|text| (text, 8080));
        let long = ["a".repeat(253), "[::1]".to_owned(), "[fe80::1]".to_owned()];
        let others = long
            .into_iter()
            .flat_map(|host| [(host.clone(), 80), (host, u16::MAX)]);
        for (host, port) in names.chain(others) {
            let (tls, base) = (false, String::new());
            let url = mrg_policy::Url {
                tls,
                host,
                port,
                base,
            };
            let checked = mrg_policy::Authority::of(&url);
            for checked in checked
                .iter()
                .chain(&mrg_policy::Authority::with_port(&url))
            {
                assert_eq!(authority(checked), checked.as_str());
            }
        }
        let loopback = mrg_policy::Authority::loopback(8080);
        assert_eq!(authority(&loopback), "127.0.0.1:8080");
    }
}
