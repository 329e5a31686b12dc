//! How often a request is sent to one provider.

use serde::{Deserialize, Serialize};

use mrg_base::{Duration, Millis};

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
