//! What a workload gets when no provider serves its request.

use super::headers::headers;
use crate::check::{Found, Rejected};
use crate::values::{HeaderName, HeaderValue, StatusCode};
use crate::{Dependency, Fallback, StaticAnswer};
use mrg_base::Millis;

/// A static answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: String,
}

pub(super) fn queue(
    found: &mut Found,
    at: &str,
    dependency: &Dependency,
) -> Option<Result<HeaderName, Rejected>> {
    let queue = dependency.fallback.queue.as_ref()?;
    if dependency.http2 {
        found.add(
            format!("{at}.fallback.queue"),
            "a gRPC call cannot be queued: its caller waits for the message itself".to_owned(),
        );
    }
    let parsed = HeaderName::new(&queue.idempotency_header);
    if parsed.is_none() {
        found.add(
            format!("{at}.fallback.queue.idempotencyHeader"),
            format!(
                "`{}` is no name of a header: a queue must know what it holds already",
                queue.idempotency_header
            ),
        );
    }
    Some(parsed.ok_or(Rejected))
}

pub(super) fn fallback(
    found: &mut Found,
    at: &str,
    fallback: &Fallback,
) -> Option<Result<CheckedAnswer, Rejected>> {
    let given = usize::from(fallback.queue.is_some())
        + usize::from(fallback.stale.is_some())
        + usize::from(fallback.fixed.is_some());
    if given > 1 {
        found.add(
            format!("{at}.fallback"),
            "queue, stale and static exclude each other: keep one".to_owned(),
        );
    }
    if let Some(stale) = &fallback.stale
        && stale.max_age.0 == Millis(0)
    {
        found.add(
            format!("{at}.fallback.stale.maxAge"),
            "0s would never give an answer: raise it".to_owned(),
        );
    }
    let fixed = fallback.fixed.as_ref()?;
    Some(static_answer(
        found,
        &format!("{at}.fallback.static"),
        fixed,
    ))
}

fn static_answer(
    found: &mut Found,
    at: &str,
    answer: &StaticAnswer,
) -> Result<CheckedAnswer, Rejected> {
    let status = StatusCode::new(answer.status);
    if status.is_none() {
        found.add(
            format!("{at}.status"),
            format!(
                "{} is no status of an answer: give one from 200 to 599",
                answer.status
            ),
        );
    }
    let headers = headers(found, &format!("{at}.headers"), &answer.headers);
    Ok(CheckedAnswer {
        status: status.ok_or(Rejected)?,
        headers: headers?,
        body: answer.body.clone(),
    })
}
