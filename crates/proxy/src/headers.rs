//! Headers: those between sidecars and workloads, and those that belong to one connection, not to
//! the message (RFC 9110, 7.6.1).

#![deny(clippy::indexing_slicing, clippy::panic)]

use http::header::{CONNECTION, CONTENT_TYPE, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};

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
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Whether a message is gRPC's.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// What the message wants its connection to become, such as `websocket`.
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let options = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let upgrades = options
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(UPGRADE).filter(|_| upgrades).cloned()
}

/// Removes what was meant only for the connection that the message came by.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|token| token.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
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
            ("connection", "close, X-Mine"),
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
        let left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["te", "accept"]);
    }
}
