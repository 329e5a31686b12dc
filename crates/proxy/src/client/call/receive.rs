//! The body of a request before its first attempt.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use crate::answer::own;
use crate::body::{Answer, Sent};
use crate::headers::is_grpc;
use crate::routes::route::Route;

/// How long a body of unknown length is waited for before it is streamed.
const GATHER_WITHIN: Duration = Duration::from_millis(500);

/// Reads the whole body where the request may be sent again or queued and the body is short enough;
/// any other body is streamed.
///
/// # Errors
/// The answer to the caller, if the body does not come in time or ends early.
pub(super) async fn receive(
    route: &Route,
    traits: mrg_policy::Request,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Sent, Response<Answer>> {
    if body.is_end_stream() {
        return Ok(Sent::Empty);
    }
    let spec = &route.spec;
    let again = (traits.repeatable && spec.retry.attempts > 1) || spec.providers.len() > 1;
    let queued = route
        .queue_key
        .as_ref()
        .filter(|name| headers.contains_key(*name))
        .and(spec.fallback.queue.as_ref());
    let limit = if again {
        u64::from(spec.retry.max_body_bytes)
    } else {
        0
    };
    let limit = limit.max(queued.map_or(0, |queue| u64::from(queue.max_body_bytes)));
    let known = headers
        .get(CONTENT_LENGTH)
        .and_then(|_| body.size_hint().exact());
    // A call that streams in both directions may wait for an answer before it goes on.
    let unknown = known.is_none() && limit > 0 && !is_grpc(headers);
    if !unknown && known.is_none_or(|length| length > limit) {
        return Ok(Sent::streaming(body));
    }
    let slow = || {
        own(
            StatusCode::REQUEST_TIMEOUT,
            "text/plain",
            "the request's body did not come in time\n".to_owned(),
        )
    };
    let broken = || {
        own(
            StatusCode::BAD_REQUEST,
            "text/plain",
            "the request's body ended early\n".to_owned(),
        )
    };
    if unknown {
        return Sent::gathered(body, limit, GATHER_WITHIN)
            .await
            .map_err(|_| broken());
    }
    let collected = tokio::time::timeout(spec.timeout.total.0.duration(), body.collect())
        .await
        .map_err(|_| slow())?;
    let bytes: Bytes = collected.map_err(|_| broken())?.to_bytes();
    Ok(Sent::Whole(bytes))
}
