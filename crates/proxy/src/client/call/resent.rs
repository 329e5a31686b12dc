//! Requests from the queue: they are sent like any other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use tokio::time::Instant;

use super::Call;
use super::providers::pinned;
use crate::body::{Answer, Sent};
use crate::head::Head;
use crate::retry_after::retry_after;
use crate::routes::route::Route;
use mrg_base::Millis;
use mrg_policy::Reason;

/// Bytes of an answer's body that are kept for people.
const WORDS_MOST: usize = 200;

/// How sending a request from the queue ended.
pub(crate) enum Resent {
    /// A provider answered.
    Answered {
        /// Its status.
        status: u16,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
        /// How its body begins, if that is text.
        words: String,
    },
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
            let retry_after = retry_after(response.headers(), Timestamp::now());
            let words = words(response.into_body(), deadline).await;
            Resent::Answered {
                status,
                retry_after,
                words,
            }
        }
        Err(why) => Resent::Unserved(why.reason, why.retry_after),
    }
}

/// How a body begins, without line ends. It is read to its end, in time, since that tells the breaker
/// how the call ended.
async fn words(mut body: Answer, deadline: Instant) -> String {
    let mut begins = Vec::new();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout_at(deadline, body.frame()).await {
        if let Some(data) = frame.data_ref() {
            let room = WORDS_MOST.saturating_sub(begins.len());
            begins.extend(data.iter().take(room));
        }
    }
    let text = String::from_utf8_lossy(&begins);
    text.chars()
        .map(|each| if each.is_control() { ' ' } else { each })
        .collect::<String>()
        .trim()
        .to_owned()
}
