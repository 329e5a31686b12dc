//! One dependency: where it is, how long it may take, how often it is called, and when it is not
//! called at all.

mod breaker;
mod provider;
mod retry;

use serde::{Deserialize, Serialize};

use crate::Fallback;
use mrg_base::{Duration, Millis};

pub use breaker::BreakerPolicy;
pub use provider::{Accepts, Credentials, HealthCheck, Provider};
pub use retry::{Backoff, Retry, RetryOn};

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
