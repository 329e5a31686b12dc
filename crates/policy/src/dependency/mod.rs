//! One dependency: where it is, how long it may take, how often it is asked, and when it is not
//! asked at all.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::{Fallback, Url};
use mrg_base::{Duration, Millis};
use mrg_breaker::{Mode, Ratio, Settings};

/// Something that the workload calls over HTTP or gRPC. It is reached at `http://127.0.0.1:PORT` in
/// the workload's pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dependency {
    /// Its name in status, metrics and logs.
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 1, max = 40),
            regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
        )
    )]
    pub name: String,
    /// The port on 127.0.0.1 in the workload's pods at which it is reached.
    #[cfg_attr(feature = "schema", schemars(range(min = 1024, max = 65535)))]
    pub port: u16,
    /// Who provides it, in the order of preference.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 8)))]
    pub providers: Vec<Provider>,
    /// Whether providers are asked in HTTP/2 without TLS, as gRPC needs it. With TLS it is
    /// negotiated.
    #[serde(default)]
    pub http2: bool,
    /// How long things may take.
    #[serde(default)]
    pub timeout: Timeouts,
    /// How often a request is sent.
    #[serde(default)]
    pub retry: Retry,
    /// When requests are not sent; each provider has a breaker of its own.
    #[serde(default)]
    pub breaker: BreakerPolicy,
    /// How many requests may be under way to this dependency in a pod; more are refused with 503.
    #[serde(default = "hundred")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100_000)))]
    pub max_concurrent: u32,
    /// Answers with these statuses say that a provider did certainly not process the request: the
    /// next one is asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(length(max = 20), inner(range(min = 400, max = 599)))
    )]
    pub not_accepted: Vec<u16>,
    /// What happens to a request that was sent and whose answer did not come: it may have been
    /// processed.
    #[serde(default)]
    pub on_ambiguous: OnAmbiguous,
    /// A later request about the same thing goes to the provider that served the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pin: Option<Pin>,
    /// When a provider that was left is returned to.
    #[serde(default)]
    pub failback: Failback,
    /// What the workload gets when nobody could serve it.
    #[serde(default)]
    pub fallback: Fallback,
}

fn hundred() -> u32 {
    100
}

/// One who provides a dependency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    /// Its name in status, metrics and logs.
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 1, max = 40),
            regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
        )
    )]
    pub name: String,
    /// Where it is: `http://host:port` or `https://host/base`.
    pub url: Url,
    /// Headers that are set on every request to it, in place of what the workload sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// A header from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Only requests whose header has one of these values are for it; if not given, all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepts: Option<Accepts>,
    /// It is asked for its health all the time, and tried last while it is not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

/// A header whose value stands in a Secret of the workload's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credentials {
    /// The Secret.
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 1, max = 253),
            regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
        )
    )]
    pub secret_name: String,
    /// The key in it.
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1, max = 253), regex(pattern = "^[A-Za-z0-9._-]+$"))
    )]
    pub key: String,
    /// The header.
    #[serde(default = "authorization")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 100)))]
    pub header: String,
    /// What stands before the value, such as `Bearer `.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 100)))]
    pub prefix: String,
}

fn authorization() -> String {
    "authorization".to_owned()
}

/// Which requests a provider is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Accepts {
    /// The header, such as the payment method.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 100)))]
    pub header: String,
    /// Its values.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 50)))]
    pub values: Vec<String>,
}

/// How a provider is asked for its health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// GET; any status below 500 is well.
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1, max = 500), regex(pattern = "^/"))
    )]
    pub path: String,
    /// How often.
    #[serde(default = "ten_seconds")]
    pub interval: Duration,
    /// How long the answer may take.
    #[serde(default = "two_seconds")]
    pub timeout: Duration,
    /// So many in a row change the mind.
    #[serde(default = "two")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10)))]
    pub threshold: u32,
}

fn ten_seconds() -> Duration {
    Duration::seconds(10)
}

fn two_seconds() -> Duration {
    Duration::seconds(2)
}

fn two() -> u32 {
    2
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Until one attempt has an answer's head, its body included for gRPC.
    pub attempt: Duration,
    /// Until the workload has an answer's head, all attempts and pauses included.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration(Millis(500)),
            attempt: Duration::seconds(2),
            total: Duration::seconds(5),
        }
    }
}

/// What is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum RetryOn {
    /// No connection: the request was certainly not processed, so any request is tried again.
    ConnectFailure,
    /// The connection broke before an answer. Only requests that may be sent twice.
    Reset,
    /// The attempt took too long. Only requests that may be sent twice.
    Timeout,
    /// An answer with one of `statuses`, or gRPC's UNAVAILABLE without a body. Only requests that
    /// may be sent twice.
    Status,
}

/// How often a request is sent to one provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Retry {
    /// At most so often, the first time included.
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10)))]
    pub attempts: u32,
    /// The pause in between.
    pub backoff: Backoff,
    /// Retries for a hundred requests, over ten seconds.
    #[cfg_attr(feature = "schema", schemars(range(max = 100)))]
    pub budget_percent: u32,
    /// Retries a second that are allowed whatever the budget says.
    #[cfg_attr(feature = "schema", schemars(range(max = 1000)))]
    pub min_per_second: u32,
    /// What is tried again.
    pub on: Vec<RetryOn>,
    /// Statuses that are tried again.
    #[cfg_attr(
        feature = "schema",
        schemars(length(max = 20), inner(range(min = 400, max = 599)))
    )]
    pub statuses: Vec<u16>,
    /// Methods whose requests may be sent twice.
    #[cfg_attr(feature = "schema", schemars(length(max = 10)))]
    pub methods: Vec<String>,
    /// A request of any method that has this header may be sent twice to the same provider: the
    /// provider knows by it what it has done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 100)))]
    pub idempotency_header: Option<String>,
    /// Requests with a longer body are sent once: bodies are not kept beyond this.
    #[cfg_attr(feature = "schema", schemars(range(max = 1_048_576)))]
    pub max_body_bytes: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 3,
            backoff: Backoff::default(),
            budget_percent: 20,
            min_per_second: 10,
            on: vec![RetryOn::ConnectFailure, RetryOn::Reset, RetryOn::Status],
            statuses: vec![502, 503, 504],
            methods: ["GET", "HEAD", "OPTIONS"].map(str::to_owned).to_vec(),
            idempotency_header: None,
            max_body_bytes: 65_536,
        }
    }
}

/// The pause before a retry: random between zero and `initial`, doubled each time up to `max`.
/// `Retry-After` prolongs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Backoff {
    /// Before the second attempt.
    pub initial: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            initial: Duration(Millis(50)),
            max: Duration::seconds(1),
        }
    }
}

/// When a provider is not asked at all. The defaults are the analysis' `tpg-bbd`; the semantics are
/// gobreaker's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BreakerPolicy {
    /// So many requests are let through half-open, and so many successes in a row close it.
    pub max_requests: NonZeroU32,
    /// How long a closed breaker counts before it begins anew; `0s`: it never does.
    pub interval: Duration,
    /// The window rolls in steps of this length; if not given it is fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<Duration>,
    /// How long it stays open.
    pub timeout: Duration,
    /// It opens no earlier than after so many requests.
    pub min_requests: u32,
    /// It opens when this share of them failed.
    // The API server takes 0 for no number below the minimum.
    #[cfg_attr(
        feature = "schema",
        schemars(
            with = "f64",
            range(max = 1.0),
            extend("x-kubernetes-validations" = [{
                "rule": "self > 0.0",
                "message": "failureRatio is a share above 0 and at most 1, such as 0.5"
            }])
        )
    )]
    pub failure_ratio: Ratio,
    /// `Enforce`: it refuses. `Shadow`: it counts and says when it would have refused. `Off`:
    /// neither.
    pub mode: Mode,
    /// Statuses below 500 that count as failures, such as 429. 5xx do, except 501.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(length(max = 20), inner(range(min = 400, max = 499)))
    )]
    pub failure_statuses: Vec<u16>,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            max_requests: settings.max_requests,
            interval: Duration(settings.interval),
            bucket: None,
            timeout: Duration(settings.timeout),
            min_requests: settings.min_requests,
            failure_ratio: settings.failure_ratio,
            mode: Mode::Enforce,
            failure_statuses: Vec::new(),
        }
    }
}

impl BreakerPolicy {
    /// For the machine.
    pub fn settings(&self) -> Settings {
        Settings {
            max_requests: self.max_requests,
            interval: self.interval.0,
            bucket: self.bucket.map_or(Millis(0), |bucket| bucket.0),
            timeout: self.timeout.0,
            min_requests: self.min_requests,
            failure_ratio: self.failure_ratio,
        }
    }
}

/// What happens to a request that was sent and whose answer did not come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum OnAmbiguous {
    /// The workload gets 504 and is told that it may have been processed.
    #[default]
    Fail,
    /// It goes into the queue as one that a person must ask about; it is never sent again by
    /// itself.
    Queue,
    /// The next provider is asked: processing it twice, with two providers, must do no harm.
    Failover,
}

/// Which requests are about the same thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pin {
    /// The header whose value names the thing, such as the order.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 100)))]
    pub header: String,
    /// How long the provider is remembered after it was last used.
    #[serde(default = "day")]
    pub keep: Duration,
}

fn day() -> Duration {
    Duration::seconds(86_400)
}

/// When a provider that was left is returned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Failback {
    /// Not before this has passed; then its breaker lets a few requests through.
    pub min_hold: Duration,
}

impl Default for Failback {
    fn default() -> Self {
        Self {
            min_hold: Duration::seconds(60),
        }
    }
}
