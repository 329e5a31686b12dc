//! What the types alone do not refuse: values that contradict each other.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;

use super::{Config, Dependency, OnAmbiguous, Provider};
use mrg_base::Millis;

/// A value that cannot be, with the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands.
    pub field: String,
    /// What is wrong with it, the value included, and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// All that is wrong; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            write!(f, "{}{problem}", if index > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A configuration that was checked. Only these run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked(Config);

impl Deref for Checked {
    type Target = Config;

    fn deref(&self) -> &Config {
        &self.0
    }
}

impl TryFrom<Config> for Checked {
    type Error = Problems;

    fn try_from(config: Config) -> Result<Self, Problems> {
        let mut found = Found(check_dependencies(&config.dependencies));
        for (index, forced) in config.overrides.iter().enumerate() {
            let field = |name: &str| format!("overrides[{index}].{name}");
            match config
                .dependencies
                .iter()
                .find(|dependency| dependency.name == forced.dependency)
            {
                None => found.add(
                    field("dependency"),
                    format!(
                        "no dependency is named `{}`: name one of {}",
                        forced.dependency,
                        names(&config.dependencies)
                    ),
                ),
                Some(dependency) => {
                    if let Some(wanted) = &forced.provider
                        && !dependency
                            .providers
                            .iter()
                            .any(|provider| provider.name == *wanted)
                    {
                        let known: Vec<&str> = dependency
                            .providers
                            .iter()
                            .map(|provider| provider.name.as_str())
                            .collect();
                        found.add(
                            field("provider"),
                            format!(
                                "`{}` has no provider `{wanted}`: name one of {}, or none for all",
                                dependency.name,
                                known.join(", ")
                            ),
                        );
                    }
                }
            }
        }
        for (field, canary) in config.inbound.iter().flat_map(beside) {
            if canary.share > 100 {
                found.add(
                    format!("{field}.share"),
                    format!("{} is more than 100 percent: give 0 to 100", canary.share),
                );
            }
            if canary.url.tls || !canary.url.base.is_empty() {
                let message = format!(
                    "{} is not of the form http://HOST:PORT: it is called as its neighbour is",
                    canary.url
                );
                found.add(format!("{field}.url"), message);
            }
        }
        for (index, route) in config
            .inbound
            .iter()
            .flat_map(|inbound| &inbound.routes)
            .enumerate()
        {
            if let Some(path) = route.paths.iter().find(|path| !path.starts_with('/')) {
                found.add(
                    format!("inbound.routes[{index}].paths"),
                    format!("`{path}` does not begin with /: write it like /orders/{{id}}"),
                );
            }
        }
        if let Some(inbound) = &config.inbound {
            if inbound.port == inbound.target_port {
                found.add(
                    "inbound.port".to_owned(),
                    format!(
                        "{} is where the workload itself listens: choose another",
                        inbound.port
                    ),
                );
            }
            if let Some(other) = config
                .dependencies
                .iter()
                .find(|dependency| dependency.port == inbound.port)
            {
                found.add(
                    "inbound.port".to_owned(),
                    format!(
                        "{} is the port of the dependency `{}`: choose another",
                        inbound.port, other.name
                    ),
                );
            }
        }
        if found.0.is_empty() {
            Ok(Self(config))
        } else {
            Err(Problems(found.0))
        }
    }
}

/// Whoever answers beside the workload, with the field that says so.
fn beside(inbound: &super::Inbound) -> Vec<(String, &super::Canary)> {
    let canary = inbound
        .canary
        .iter()
        .map(|canary| ("inbound.canary".to_owned(), canary));
    let routes = inbound
        .routes
        .iter()
        .enumerate()
        .map(|(index, route)| (format!("inbound.routes[{index}].to"), &route.to));
    canary.chain(routes).collect()
}

fn names(dependencies: &[Dependency]) -> String {
    dependencies
        .iter()
        .map(|dependency| dependency.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, field: String, message: String) {
        self.0.push(Problem { field, message });
    }
}

/// Everything that is wrong with dependencies; `dependencies[0].timeout.attempt` and the like say
/// where.
pub fn check_dependencies(dependencies: &[Dependency]) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    let (mut ports, mut known) = (BTreeSet::new(), BTreeSet::new());
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
        providers(&mut found, &at, dependency);
        times(&mut found, &at, dependency);
        repeats(&mut found, &at, dependency);
        fallback(&mut found, &at, dependency);
    }
    found.0
}

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

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn header(found: &mut Found, field: String, name: &str) {
    if !is_token(name) {
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
}

fn providers(found: &mut Found, at: &str, dependency: &Dependency) {
    if dependency.providers.is_empty() {
        found.add(
            format!("{at}.providers"),
            "there is none: name at least one, with its url".to_owned(),
        );
    }
    let (mut names, mut urls) = (BTreeSet::new(), BTreeSet::new());
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
        provider_headers(found, &at, provider);
        if let Some(check) = &provider.health_check
            && (check.timeout > check.interval || check.interval.0 < Millis(100))
        {
            found.add(
                format!("{at}.healthCheck"),
                format!(
                    "timeout {} must be at most interval {}, and that at least 100ms",
                    check.timeout, check.interval
                ),
            );
        }
    }
}

fn provider_headers(found: &mut Found, at: &str, provider: &Provider) {
    for (name, value) in &provider.headers {
        header(found, format!("{at}.headers"), name);
        if value.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            found.add(
                format!("{at}.headers.{name}"),
                "its value has control characters; take them out".to_owned(),
            );
        }
    }
    if let Some(credentials) = &provider.credentials {
        header(
            found,
            format!("{at}.credentials.header"),
            &credentials.header,
        );
    }
    if let Some(accepts) = &provider.accepts
        && (!is_token(&accepts.header) || accepts.values.is_empty())
    {
        found.add(
            format!("{at}.accepts"),
            "it needs the name of a header and at least one value".to_owned(),
        );
    }
}

fn times(found: &mut Found, at: &str, dependency: &Dependency) {
    let times = &dependency.timeout;
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
    let breaker = &dependency.breaker;
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

fn repeats(found: &mut Found, at: &str, dependency: &Dependency) {
    let retry = &dependency.retry;
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
    for method in &retry.methods {
        if !is_token(method) || method.to_ascii_uppercase() != *method {
            found.add(
                format!("{at}.retry.methods"),
                format!("`{method}` is no method: write it in capitals, such as GET"),
            );
        }
    }
    if let Some(name) = &retry.idempotency_header {
        header(found, format!("{at}.retry.idempotencyHeader"), name);
    }
    if let Some(pin) = &dependency.pin {
        header(found, format!("{at}.pin.header"), &pin.header);
    }
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

fn fallback(found: &mut Found, at: &str, dependency: &Dependency) {
    let fallback = &dependency.fallback;
    let given = usize::from(fallback.queue.is_some())
        + usize::from(fallback.stale.is_some())
        + usize::from(fallback.fixed.is_some());
    if given > 1 {
        found.add(
            format!("{at}.fallback"),
            "queue, stale and static exclude each other: keep one".to_owned(),
        );
    }
    if let Some(queue) = &fallback.queue {
        if !is_token(&queue.idempotency_header) {
            found.add(
                format!("{at}.fallback.queue.idempotencyHeader"),
                format!(
                    "`{}` is no name of a header: a queue must know what it holds already",
                    queue.idempotency_header
                ),
            );
        }
        if dependency.http2 {
            found.add(
                format!("{at}.fallback.queue"),
                "a gRPC call cannot be queued: its caller waits for the message itself".to_owned(),
            );
        }
    }
    if let Some(stale) = &fallback.stale
        && stale.max_age.0 == Millis(0)
    {
        found.add(
            format!("{at}.fallback.stale.maxAge"),
            "0s would never give an answer: raise it".to_owned(),
        );
    }
    if let Some(fixed) = &fallback.fixed {
        for name in fixed.headers.keys() {
            header(found, format!("{at}.fallback.static.headers"), name);
        }
    }
}
