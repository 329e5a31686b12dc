//! Dependencies: their times and numbers checked, their headers, methods and statuses parsed.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::{Found, Rejected};
use crate::values::{
    Authority, BasePath, HeaderName, HeaderValue, Method, RequestPath, StatusCode,
};
use crate::{
    Accepts, Dependency, Fallback, HealthCheck, OnAmbiguous, Provider, Retry, StaticAnswer,
};
use crate::{BreakerPolicy, Timeouts};
use mrg_base::Millis;

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

/// What was parsed of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedProvider {
    /// Its name, as answers carry it.
    pub name: HeaderValue,
    /// Where it is.
    pub authority: Authority,
    /// What every path to it begins with.
    pub base: BasePath,
    /// What is set on every request to it.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The header of its credentials.
    pub credentials_header: Option<HeaderName>,
    /// Only requests whose header has one of the values are for it; `None`: all are.
    pub accepts: Option<(HeaderName, Vec<HeaderValue>)>,
    /// What its health is asked at.
    pub health_path: Option<RequestPath>,
}

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

/// Headers that the proxy makes itself.
const RESERVED_HEADERS: [&str; 8] = [
    "host",
    "connection",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
];

/// Checks all dependencies; `dependencies[0].timeout.attempt` and the like say where a problem is.
/// Rejected only if a problem
/// was found.
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

fn header(found: &mut Found, field: String, name: &str) -> Result<HeaderName, Rejected> {
    let parsed = HeaderName::new(name);
    if parsed.is_none() {
        found.add(
            field,
            format!("`{name}` is no name of a header: use letters, digits and -"),
        );
    } else if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
        found.add(
            field,
            format!("`{name}` is made by the proxy itself; take it out"),
        );
    }
    parsed.ok_or(Rejected)
}

fn value(found: &mut Found, field: String, text: &str) -> Result<HeaderValue, Rejected> {
    let parsed = HeaderValue::new(text);
    if parsed.is_none() {
        let message = if text.is_ascii() {
            "its value has control characters; take them out".to_owned()
        } else {
            format!("`{text}` has characters beyond ASCII, which no header carries; encode them")
        };
        found.add(field, message);
    }
    parsed.ok_or(Rejected)
}

fn headers(
    found: &mut Found,
    field: &str,
    headers: &BTreeMap<String, String>,
) -> Result<Vec<(HeaderName, HeaderValue)>, Rejected> {
    let mut parsed = Vec::new();
    for (name, text) in headers {
        let header = header(found, field.to_owned(), name);
        let value = value(found, format!("{field}.{name}"), text);
        parsed.push(header.and_then(|header| Ok((header, value?))));
    }
    parsed.into_iter().collect()
}

fn providers(
    found: &mut Found,
    at: &str,
    dependency: &Dependency,
) -> Result<Vec<CheckedProvider>, Rejected> {
    if dependency.providers.is_empty() {
        found.add(
            format!("{at}.providers"),
            "there is none: name at least one, with its url".to_owned(),
        );
    }
    let (mut names, mut urls) = (BTreeSet::new(), BTreeSet::new());
    let mut checked = Vec::new();
    for (index, provider) in dependency.providers.iter().enumerate() {
        let at = format!("{at}.providers[{index}]");
        if !names.insert(&provider.name) {
            found.add(
                format!("{at}.name"),
                format!(
                    "`{}` is there twice: name each provider once",
                    provider.name
                ),
            );
        }
        if !urls.insert((
            provider.url.to_string(),
            provider.headers.clone(),
            provider.accepts.as_ref().map(|accepts| &accepts.values),
        )) {
            found.add(
                format!("{at}.url"),
                format!(
                    "{} is another provider's too: failing over to it would ask the same one again",
                    provider.url
                ),
            );
        }
        checked.push(self::provider(found, &at, provider));
    }
    checked.into_iter().collect()
}

fn health_check(found: &mut Found, at: &str, check: &HealthCheck) -> Result<RequestPath, Rejected> {
    if check.timeout > check.interval || check.interval.0 < Millis(100) {
        found.add(
            format!("{at}.healthCheck"),
            format!(
                "timeout {} must be at most interval {}, and that at least 100ms",
                check.timeout, check.interval
            ),
        );
    }
    let path = RequestPath::new(&check.path);
    if path.is_none() {
        found.add(
            format!("{at}.healthCheck.path"),
            format!(
                "`{}` is no path of a request: begin with /, and write other characters as %XX",
                check.path
            ),
        );
    }
    path.ok_or(Rejected)
}

fn provider(found: &mut Found, at: &str, provider: &Provider) -> Result<CheckedProvider, Rejected> {
    let name = value(found, format!("{at}.name"), &provider.name);
    let authority = Authority::of(&provider.url);
    if authority.is_none() {
        found.add(
            format!("{at}.url"),
            format!(
                "`{}` is neither the name nor the address of a host: write it like bbd.dispatch or [::1]",
                provider.url.host
            ),
        );
    }
    let base = BasePath::new(&provider.url.base);
    if base.is_none() {
        found.add(
            format!("{at}.url"),
            format!(
                "`{}` is no path that requests can begin with: write other characters as %XX",
                provider.url.base
            ),
        );
    }
    let headers = headers(found, &format!("{at}.headers"), &provider.headers);
    let credentials_header = provider.credentials.as_ref().map(|credentials| {
        let field = format!("{at}.credentials.header");
        header(found, field, &credentials.header)
    });
    let accepts = provider
        .accepts
        .as_ref()
        .map(|accepts| self::accepts(found, at, accepts));
    let health_path = provider
        .health_check
        .as_ref()
        .map(|check| health_check(found, at, check));
    Ok(CheckedProvider {
        name: name?,
        authority: authority.ok_or(Rejected)?,
        base: base.ok_or(Rejected)?,
        headers: headers?,
        credentials_header: credentials_header.transpose()?,
        accepts: accepts.transpose()?,
        health_path: health_path.transpose()?,
    })
}

fn accepts(
    found: &mut Found,
    at: &str,
    accepts: &Accepts,
) -> Result<(HeaderName, Vec<HeaderValue>), Rejected> {
    let name = HeaderName::new(&accepts.header);
    if name.is_none() || accepts.values.is_empty() {
        found.add(
            format!("{at}.accepts"),
            "it needs the name of a header and at least one value".to_owned(),
        );
    }
    let values: Vec<Result<HeaderValue, Rejected>> = accepts
        .values
        .iter()
        .map(|text| value(found, format!("{at}.accepts.values"), text))
        .collect();
    let values: Result<_, Rejected> = values.into_iter().collect();
    Ok((name.ok_or(Rejected)?, values?))
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

fn queue(
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

fn fallback(
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
