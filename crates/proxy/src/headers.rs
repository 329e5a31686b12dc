//! Headers: those between sidecars and workloads, and those that belong to one connection, not to
//! the message (RFC 9110, 7.6.1).

#![deny(clippy::indexing_slicing, clippy::panic)]

use http::header::{CONNECTION, CONTENT_TYPE, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use http_body::Body;

/// Why this answer is what it is; one of [`mrg_policy::Reason`].
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-mrg-reason");
/// Which provider answered.
pub(crate) const PROVIDER: HeaderName = HeaderName::from_static("x-mrg-provider");
/// How old a stale answer is; seconds.
pub(crate) const STALE: HeaderName = HeaderName::from_static("x-mrg-stale");
/// The sidecar before a workload says that the workload did not get the request. It is good for one
/// hop: a workload that passes on what another's sidecar said to it would speak of another request.
pub(crate) const NOT_PROCESSED: HeaderName = HeaderName::from_static("x-mrg-not-processed");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// How the names begin of fields that are for the recipient of the message. A caller that names one
/// in `Connection` must not have it removed: it may be what the recipient decides by.
const END_TO_END: &[&str] = &[
    "accept",
    "access-control-",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-",
    "cookie",
    "date",
    "etag",
    "expires",
    "forwarded",
    "from",
    "grpc-",
    "host",
    "idempotency-key",
    "if-",
    "last-modified",
    "location",
    "origin",
    "pragma",
    "range",
    "referer",
    "retry-after",
    "server",
    "set-cookie",
    "traceparent",
    "tracestate",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
    "x-forwarded-",
    "x-mrg-",
    "x-real-ip",
    "x-request-id",
];

/// The elements of a field that is a list (RFC 9110, 5.6.1).
fn elements<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).iter();
    let texts = lines.filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

/// Whether a message is gRPC's. gRPC-Web's is not: its trailers are part of the body.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    let Some((media_type, rest)) = value.as_bytes().split_at_checked(GRPC.len()) else {
        return false;
    };
    media_type.eq_ignore_ascii_case(GRPC)
        && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

/// What the request wants its connection to become, such as `websocket`. An offer may be ignored (RFC
/// 9110, 7.8), and is where it would cost the request's body, comes with HTTP/1.0, or is of HTTP/2.
pub(crate) fn upgrade_of<B: Body>(request: &Request<B>) -> Option<HeaderValue> {
    let headers = request.headers();
    let upgrades =
        elements(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"));
    if !upgrades || request.version() != Version::HTTP_11 || !request.body().is_end_stream() {
        return None;
    }
    let protocols: Vec<&str> = elements(headers, &UPGRADE)
        .filter(|protocol| !protocol.eq_ignore_ascii_case("h2c"))
        .collect();
    HeaderValue::try_from(protocols.join(", "))
        .ok()
        .filter(|value| !value.is_empty())
}

/// Names the framing of a request's body where hyper would leave the body out: it takes one of
/// unknown length for none if the method rarely has one.
pub(crate) fn name_framing(method: &Method, headers: &mut HeaderMap) {
    if matches!(*method, Method::GET | Method::HEAD) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Removes what was meant only for the connection that the message came by.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let is_end_to_end = |name: &HeaderName| {
            END_TO_END
                .iter()
                .any(|begin| name.as_str().starts_with(begin))
        };
        let named: Vec<HeaderName> = elements(headers, &CONNECTION)
            .filter_map(|option| option.parse().ok())
            .filter(|name| !is_end_to_end(name))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
        TRANSFER_ENCODING,
        UPGRADE,
        NOT_PROCESSED,
    ] {
        headers.remove(name);
    }
    // Without it a gRPC server refuses a call.
    if headers.get(TE).is_some_and(|value| value != "trailers") {
        headers.remove(TE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_connection_is_taken_out_with_what_it_names() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (
                "connection",
                "close, X-Mine, Authorization, x-forwarded-for, X-Mrg-Reason",
            ),
            ("authorization", "Bearer a"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("te", "trailers"),
            ("x-mrg-not-processed", "1"),
            ("accept", "*/*"),
        ] {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "authorization", "te", "x-forwarded-for"]);
    }

    #[test]
    fn only_grpc_itself_is_grpc() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC; charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web-text+proto", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            let value = HeaderValue::from_static(content_type);
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, value)]);
            assert_eq!(is_grpc(&headers), expected, "{content_type}");
        }
    }

    #[test]
    fn only_a_real_upgrade_becomes_a_tunnel() {
        let empty = http_body_util::Empty::<bytes::Bytes>::new;
        let offer = |protocols: &str, version| {
            let request = Request::builder()
                .version(version)
                .header(CONNECTION, "Upgrade, HTTP2-Settings")
                .header(UPGRADE, protocols);
            request.body(empty()).unwrap()
        };
        for (protocols, expected) in [
            ("websocket", Some("websocket")),
            ("h2c", None),
            ("h2c, websocket", Some("websocket")),
            ("", None),
        ] {
            let upgrade = upgrade_of(&offer(protocols, Version::HTTP_11));
            let upgrade = upgrade.as_ref().map(|value| value.to_str().unwrap());
            assert_eq!(upgrade, expected, "{protocols}");
        }
        assert_eq!(upgrade_of(&offer("websocket", Version::HTTP_10)), None);
        let with_body = offer("websocket", Version::HTTP_11)
            .map(|_| http_body_util::Full::new(bytes::Bytes::from_static(b"x")));
        assert_eq!(upgrade_of(&with_body), None);
    }
}
