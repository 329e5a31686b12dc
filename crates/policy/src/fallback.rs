//! What a workload gets when no provider served its request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use mrg_base::Duration;

/// At most one of these; none: an error with status 503 or 504 that says why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Fallback {
    /// The request is kept, the workload gets 202 and a ticket, and it is sent when the dependency
    /// is back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
    /// The last good answer to the same GET, where nobody answers or the answer is 500, 502, 503 or
    /// 504.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    /// An answer that is always the same, where nobody answers or the answer is 500, 502, 503 or
    /// 504.
    #[serde(rename = "static", skip_serializing_if = "Option::is_none")]
    pub fixed: Option<StaticAnswer>,
}

/// Requests that wait for a dependency to come back. Durable before the workload gets its 202.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Queue {
    /// The header that names what is asked for: a request with a name that is queued already gets
    /// the same ticket. Without it nothing is queued.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 100)))]
    pub idempotency_header: String,
    /// Methods that are queued.
    #[serde(default = "writes")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 10)))]
    pub methods: Vec<String>,
    /// So many wait at most; the next gets 503.
    #[serde(default = "ten_thousand")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_000_000)))]
    pub capacity: u32,
    /// Those older than this are not sent any more; people decide about them.
    #[serde(default = "day")]
    pub max_age: Duration,
    /// A request that failed again is sent again after this, or when a breaker that has opened lets
    /// somebody through again.
    #[serde(default = "five_minutes")]
    pub retry_after: Duration,
    /// So many a second are sent at most once the dependency is back.
    #[serde(default = "ten")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1000)))]
    pub per_second: u32,
    /// Longer bodies are not queued.
    #[serde(default = "quarter_mebibyte")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 1_048_576)))]
    pub max_body_bytes: u32,
}

fn writes() -> Vec<String> {
    vec!["POST".to_owned()]
}

fn ten_thousand() -> u32 {
    10_000
}

fn day() -> Duration {
    Duration::seconds(86_400)
}

fn five_minutes() -> Duration {
    Duration::seconds(300)
}

fn ten() -> u32 {
    10
}

fn quarter_mebibyte() -> u32 {
    262_144
}

/// Answers that were good once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Stale {
    /// They are given no longer than this after they came.
    pub max_age: Duration,
    /// So many are kept in a pod; the oldest goes.
    #[serde(default = "thousand")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100_000)))]
    pub max_entries: u32,
    /// Longer answers are not kept.
    #[serde(default = "sixty_four_kibibytes")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 1_048_576)))]
    pub max_body_bytes: u32,
}

fn thousand() -> u32 {
    1000
}

fn sixty_four_kibibytes() -> u32 {
    65_536
}

/// An answer that is always the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StaticAnswer {
    /// Its status.
    #[serde(default = "ok")]
    #[cfg_attr(feature = "schema", schemars(range(min = 200, max = 599)))]
    pub status: u16,
    /// Its headers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Its body.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(length(max = 65_536)))]
    pub body: String,
}

fn ok() -> u16 {
    200
}
