//! What is wrong with a request as a message, before anything looks at what it asks for.

#![deny(clippy::indexing_slicing, clippy::panic)]

use http::header::{HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode, Version};
use serde_json::json;

use crate::answer::own;
use crate::body::Answer;

/// Why a request is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    status: StatusCode,
    detail: &'static str,
}

impl Fault {
    const fn new(status: StatusCode, detail: &'static str) -> Self {
        Self { status, detail }
    }

    pub(super) fn answer(self) -> Response<Answer> {
        let body = json!({
            "type": "urn:mrg:Malformed",
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        own(self.status, "application/problem+json", body.to_string())
    }
}

/// The first fault of a request's head.
pub(super) fn fault<B>(request: &Request<B>) -> Option<Fault> {
    if request.method() == Method::CONNECT {
        const DETAIL: &str = "CONNECT is not served: this is no forward proxy";
        return Some(Fault::new(StatusCode::NOT_IMPLEMENTED, DETAIL));
    }
    let headers = request.headers();
    let mut hosts = headers.get_all(HOST).iter();
    let (host, another) = (hosts.next(), hosts.next());
    let is_valid = |host: &http::HeaderValue| {
        host.is_empty()
            || Authority::try_from(host.as_bytes())
                .is_ok_and(|authority| !authority.as_str().contains('@'))
    };
    // RFC 9112, 3.2.
    let needed = request.version() == Version::HTTP_11;
    if another.is_some() || needed && host.is_none() || !host.is_none_or(is_valid) {
        const DETAIL: &str = "a request has exactly one valid Host field";
        return Some(Fault::new(StatusCode::BAD_REQUEST, DETAIL));
    }
    let coded = headers.get_all(TRANSFER_ENCODING).iter().any(|value| {
        let codings = value.to_str().unwrap_or("?").split(',').map(str::trim);
        codings
            .filter(|coding| !coding.is_empty())
            .any(|coding| !coding.eq_ignore_ascii_case("chunked"))
    });
    // RFC 9112, 6.1.
    coded.then(|| {
        let detail = "the only transfer coding that is understood is chunked; use Content-Encoding";
        Fault::new(StatusCode::NOT_IMPLEMENTED, detail)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(method: &str, version: Version, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().method(method).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        fault(&request.body(()).unwrap()).map(|fault| fault.status.as_u16())
    }

    type Row = (
        &'static str,
        Version,
        &'static [(&'static str, &'static str)],
        Option<u16>,
    );

    #[test]
    fn a_request_has_one_valid_host_and_no_coding_that_would_be_lost() {
        let (old, new, next) = (Version::HTTP_10, Version::HTTP_11, Version::HTTP_2);
        let rows: &[Row] = &[
            ("GET", new, &[("host", "a.example:80")], None),
            ("GET", new, &[("host", "[::1]:80")], None),
            ("GET", new, &[("host", "")], None),
            ("GET", new, &[], Some(400)),
            ("GET", old, &[], None),
            ("GET", next, &[], None),
            ("GET", new, &[("host", "a"), ("host", "a")], Some(400)),
            ("GET", old, &[("host", "a"), ("host", "b")], Some(400)),
            ("GET", new, &[("host", "a b")], Some(400)),
            ("GET", new, &[("host", "user@a")], Some(400)),
            ("CONNECT", new, &[("host", "a")], Some(501)),
            (
                "POST",
                new,
                &[("host", "a"), ("transfer-encoding", "chunked")],
                None,
            ),
            (
                "POST",
                new,
                &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
                Some(501),
            ),
        ];
        for (method, version, headers, expected) in rows {
            let seen = status(method, *version, headers);
            assert_eq!(seen, *expected, "{method} {version:?} {headers:?}");
        }
    }
}
