//! Dependencies: their times and numbers checked, their headers, methods and statuses parsed.

mod fallback;
mod headers;
mod provider;

use std::collections::BTreeSet;

use super::{Found, Rejected};
use crate::values::{HeaderName, Method};
use crate::{BreakerPolicy, Dependency, OnAmbiguous, Retry, Timeouts};
use fallback::{fallback, queue};
use headers::header;
use mrg_base::Millis;
use provider::providers;

pub use fallback::CheckedAnswer;
pub use provider::CheckedProvider;

/// What was parsed of a dependency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedDependency {
    /// Its providers, in the order of the configuration.
    pub providers: Vec<CheckedProvider>,
    /// Methods whose requests may be sent twice.
    pub retry_methods: Vec<Method>,
    /// Requests that have this header may be sent twice to the same provider.
    pub idempotency_header: Option<HeaderName>,
    /// The header that names what a request is about.
    pub pin_header: Option<HeaderName>,
    /// The header by which the queue knows a request.
    pub queue_header: Option<HeaderName>,
    /// The answer that is always the same.
    pub static_answer: Option<CheckedAnswer>,
}

/// Checks all dependencies; `dependencies[0].timeout.attempt` and the like say where a problem is.
///
/// # Errors
/// If a part could not be parsed; each cause is in `found`.
pub(super) fn dependencies(
    found: &mut Found,
    dependencies: &[Dependency],
) -> Result<Vec<CheckedDependency>, Rejected> {
    let (mut ports, mut known) = (BTreeSet::new(), BTreeSet::new());
    let mut checked = Vec::new();
    for (index, dependency) in dependencies.iter().enumerate() {
        let at = format!("dependencies[{index}]");
        if !known.insert(&dependency.name) {
            found.add(
                format!("{at}.name"),
                format!(
                    "`{}` is there twice: give each dependency a name of its own",
                    dependency.name
                ),
            );
        }
        if !ports.insert(dependency.port) {
            found.add(
                format!("{at}.port"),
                format!(
                    "{} is another dependency's port: give each one of its own",
                    dependency.port
                ),
            );
        }
        if dependency.port < 1024 || (15_020..=15_029).contains(&dependency.port) {
            found.add(
                format!("{at}.port"),
                format!("{} is reserved: below 1024 for root, 15020 to 15029 for the proxy itself; choose another", dependency.port),
            );
        }
        checked.push(self::dependency(found, &at, dependency));
    }
    checked.into_iter().collect()
}

fn dependency(
    found: &mut Found,
    at: &str,
    dependency: &Dependency,
) -> Result<CheckedDependency, Rejected> {
    let providers = providers(found, at, dependency);
    times(found, at, &dependency.timeout);
    breaker(found, at, &dependency.breaker);
    let retry_methods = retry(found, at, &dependency.retry);
    let idempotency_header = dependency
        .retry
        .idempotency_header
        .as_ref()
        .map(|name| header(found, format!("{at}.retry.idempotencyHeader"), name));
    let pin_header = dependency
        .pin
        .as_ref()
        .map(|pin| header(found, format!("{at}.pin.header"), &pin.header));
    ambiguous(found, at, dependency);
    let queue_header = queue(found, at, dependency);
    let static_answer = fallback(found, at, &dependency.fallback);
    Ok(CheckedDependency {
        providers: providers?,
        retry_methods: retry_methods?,
        idempotency_header: idempotency_header.transpose()?,
        pin_header: pin_header.transpose()?,
        queue_header: queue_header.transpose()?,
        static_answer: static_answer.transpose()?,
    })
}

fn times(found: &mut Found, at: &str, times: &Timeouts) {
    if times.connect.0 == Millis(0) {
        found.add(
            format!("{at}.timeout.connect"),
            "0s would never let a connection stand: give at least 1ms".to_owned(),
        );
    }
    if times.attempt < times.connect {
        found.add(
            format!("{at}.timeout.attempt"),
            format!(
                "{} is shorter than timeout.connect, {}: an attempt includes connecting; raise it or lower connect",
                times.attempt, times.connect
            ),
        );
    }
    if times.total < times.attempt {
        found.add(
            format!("{at}.timeout.total"),
            format!(
                "{} is shorter than timeout.attempt, {}: raise it or lower attempt",
                times.total, times.attempt
            ),
        );
    }
}

fn breaker(found: &mut Found, at: &str, breaker: &BreakerPolicy) {
    if breaker.timeout.0 == Millis(0) {
        found.add(
            format!("{at}.breaker.timeout"),
            "0s would mean gobreaker's default of 60s: write what you mean".to_owned(),
        );
    }
    if let Some(bucket) = breaker.bucket {
        if bucket.0 == Millis(0) || bucket > breaker.interval {
            found.add(
                format!("{at}.breaker.bucket"),
                format!(
                    "{bucket} must be above 0s and at most breaker.interval, {}",
                    breaker.interval
                ),
            );
        } else if breaker.interval.0.0 / bucket.0.0 > 600 {
            found.add(
                format!("{at}.breaker.bucket"),
                format!(
                    "{bucket} makes more than 600 steps of {}: make it longer",
                    breaker.interval
                ),
            );
        }
    }
    if breaker.min_requests == 0 {
        found.add(
            format!("{at}.breaker.minRequests"),
            "0 is no number of requests: give at least 1".to_owned(),
        );
    }
}

fn retry(found: &mut Found, at: &str, retry: &Retry) -> Result<Vec<Method>, Rejected> {
    if retry.attempts == 0 {
        found.add(
            format!("{at}.retry.attempts"),
            "0 would send nothing: 1 is once, without retries".to_owned(),
        );
    }
    if retry.backoff.max < retry.backoff.initial {
        found.add(
            format!("{at}.retry.backoff.max"),
            format!(
                "{} is shorter than initial, {}: raise it",
                retry.backoff.max, retry.backoff.initial
            ),
        );
    }
    let mut methods = Vec::new();
    for method in &retry.methods {
        let parsed = Method::new(method);
        if parsed.is_none() {
            found.add(
                format!("{at}.retry.methods"),
                format!("`{method}` is no method: write it in capitals, such as GET"),
            );
        }
        methods.push(parsed.ok_or(Rejected));
    }
    methods.into_iter().collect()
}

fn ambiguous(found: &mut Found, at: &str, dependency: &Dependency) {
    if dependency.on_ambiguous == OnAmbiguous::Queue && dependency.fallback.queue.is_none() {
        found.add(
            format!("{at}.onAmbiguous"),
            "Queue needs fallback.queue: add it, or choose Fail".to_owned(),
        );
    }
    if dependency.on_ambiguous == OnAmbiguous::Failover && dependency.providers.len() < 2 {
        found.add(
            format!("{at}.onAmbiguous"),
            "Failover needs a second provider: add one, or choose Fail".to_owned(),
        );
    }
}
