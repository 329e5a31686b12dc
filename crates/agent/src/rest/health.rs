//! Health checks: the status code is the response (Patroni, `do_GET`). Paths are matched leniently,
//! as load balancers expect.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;

use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};

use crate::context::Status;
use crate::rest::Api;
use crate::rest::reports::{is_sync, leads, member_report};
use mrg_base::Moment;
use mrg_dcs::tags::flag;
use mrg_election::{Mode, Postgres, WalReceiver};

/// Every path that has no route of its own.
pub(super) async fn check(
    State(api): State<Api>,
    method: Method,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    if !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return (StatusCode::NOT_IMPLEMENTED, "unsupported method").into_response();
    }
    let status = api.context.status();
    let healthy = match uri.path().trim_matches('/') {
        "liveness" => is_live(&status),
        "readiness" => is_ready(&status, &query),
        path => is_role(&api, &status, path, &query),
    };
    let code = if healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    if method == Method::GET {
        (code, axum::Json(member_report(&api))).into_response()
    } else {
        code.into_response()
    }
}

/// Whether the agent's loop ran within the last ttl; on a replica within the last two.
fn is_live(status: &Status) -> bool {
    let ttl = status.settings.failover.ttl;
    let limit = if leads(status) { ttl } else { ttl.times(2) };
    status.settings.paused || mrg_clock::now().since(Moment(status.loop_ran)) <= limit
}

fn is_ready(status: &Status, query: &BTreeMap<String, String>) -> bool {
    leads(status) || is_streaming(status) && lag_fits(status, query)
}

fn is_streaming(status: &Status) -> bool {
    matches!(&status.postgres, Postgres::Standby(standby) if standby.receiver == WalReceiver::Streaming)
}

/// Whether the lag is within `?lag=`; true without a readable limit.
fn lag_fits(status: &Status, query: &BTreeMap<String, String>) -> bool {
    let Some(limit) = query.get("lag").and_then(|text| bytes(text)) else {
        return true;
    };
    let Postgres::Standby(standby) = &status.postgres else {
        return true;
    };
    match (status.cluster.optime, standby.position) {
        (Some(head), Some(position)) => head.bytes_since(position.flushed) <= limit,
        _ => false,
    }
}

/// A number of bytes, or with kB, MB, GB.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.strip_prefix(digits)?.trim().to_ascii_lowercase();
    let factor = match unit.as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn is_role(api: &Api, status: &Status, path: &str, query: &BTreeMap<String, String>) -> bool {
    let config = &api.context.config;
    let standby = matches!(status.postgres, Postgres::Standby(_))
        && !flag(&status.tags, "noloadbalance")
        && lag_fits(status, query);
    let wanted_state = query
        .get("replication_state")
        .is_none_or(|state| state == "streaming" && is_streaming(status));
    let standby = standby && wanted_state;
    let sync = is_sync(&status.cluster, &config.name);
    let quorum_mode = status.settings.replication.mode == Mode::Quorum;
    match path {
        "" | "primary" | "master" | "read-write" | "leader" => leads(status),
        "replica" => standby,
        "read-only" => leads(status) || standby,
        "sync" | "synchronous" => standby && sync && !quorum_mode,
        "read-only-sync" | "read-only-synchronous" => {
            leads(status) || standby && sync && !quorum_mode
        }
        "quorum" => standby && sync && quorum_mode,
        "read-only-quorum" => leads(status) || standby && sync && quorum_mode,
        "async" | "asynchronous" => standby && !sync,
        "health" => matches!(status.postgres, Postgres::Primary(_) | Postgres::Standby(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn lag_limits_are_read_as_patroni_reads_them() {
        assert_eq!(bytes("10MB"), Some(10 << 20));
        assert_eq!(bytes("1048576"), Some(1_048_576));
        assert_eq!(bytes("16 kB"), Some(16 << 10));
        for text in ["soon", "", "MB", "1TB", "1.5MB", "-1", "20000000000GB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
