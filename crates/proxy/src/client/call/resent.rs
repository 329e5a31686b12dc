//! Requests from the queue: they are sent like any other.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::Call;
use super::providers::pinned;
use crate::body::Sent;
use crate::head::Head;
use crate::routes::route::Route;
use mrg_base::Millis;
use mrg_policy::Reason;

/// How sending a request from the queue ended.
pub(crate) enum Resent {
    /// A provider answered with this status.
    Answered(u16),
    /// No provider served it; after this time it may be sent again, if that is known.
    Unserved(Reason, Option<Millis>),
}

/// Sends a request from the queue.
pub(crate) async fn send_again(route: &Arc<Route>, head: Head, body: Bytes) -> Resent {
    let deadline = Instant::now() + route.spec.timeout.total.0.duration();
    let keyed = route
        .idempotency
        .as_ref()
        .is_some_and(|name| head.headers.contains_key(name));
    let traits = mrg_policy::Request {
        safe: false,
        repeatable: keyed,
    };
    let pinned = pinned(route, &head.headers);
    let body = if body.is_empty() {
        Sent::Empty
    } else {
        Sent::Whole(body)
    };
    let call = Call {
        route,
        head,
        body,
        traits,
        pinned,
    };
    match call.providers(deadline, None).await {
        Ok(response) => {
            let status = response.status().as_u16();
            // Its body tells the breaker how it ended.
            let _ = tokio::time::timeout_at(deadline, response.into_body().collect()).await;
            Resent::Answered(status)
        }
        Err(why) => Resent::Unserved(why.reason, why.retry_after),
    }
}
