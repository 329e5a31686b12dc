//! The proxy's file, and what is pushed to it.

use serde::{Deserialize, Serialize};

use super::Dependency;
use crate::base::Duration;

/// Everything that a proxy does for its workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The workload, in metrics and logs.
    pub workload: String,
    /// What it calls.
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
    /// What people have forced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<OverrideSpec>,
    /// What calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<Inbound>,
}

/// A breaker that is forced open or closed, for a reason and for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "full", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OverrideSpec {
    /// Whose breaker: a dependency's name.
    pub dependency: String,
    /// Which provider's; all of them if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// What is forced.
    pub state: Forced,
    /// Why; shown wherever the breaker is.
    #[cfg_attr(feature = "full", schemars(length(min = 3, max = 300)))]
    pub reason: String,
    /// Until when, as `2026-11-22T18:00:00Z`. Then the breaker decides again by itself.
    #[cfg_attr(feature = "full", schemars(extend("format" = "date-time")))]
    pub until: String,
}

/// What is forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "full", derive(schemars::JsonSchema))]
pub enum Forced {
    /// Nothing is let through.
    Open,
    /// Everything is.
    Closed,
}

/// What is done for those who call the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "full", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inbound {
    /// Where the proxy listens for them.
    #[cfg_attr(feature = "full", schemars(range(min = 1024, max = 65535)))]
    pub port: u16,
    /// Where the workload itself listens.
    #[serde(default = "eight_thousand_eighty")]
    #[cfg_attr(feature = "full", schemars(range(min = 1, max = 65535)))]
    pub target_port: u16,
    /// So many requests may be under way; more get 503 at once.
    #[serde(default = "two_hundred_fifty_six")]
    #[cfg_attr(feature = "full", schemars(range(min = 1, max = 100_000)))]
    pub max_concurrent: u32,
    /// How long the workload may take for an answer's head.
    #[serde(default = "thirty_seconds")]
    pub timeout: Duration,
}

fn eight_thousand_eighty() -> u16 {
    8080
}

fn two_hundred_fifty_six() -> u32 {
    256
}

fn thirty_seconds() -> Duration {
    Duration::seconds(30)
}
