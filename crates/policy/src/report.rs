//! What a proxy says of itself; the operator reads it into the status.

use serde::{Deserialize, Serialize};

use super::Forced;
use mrg_breaker::{Counts, State};

/// A proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Grows with every change that is worth telling.
    pub version: u64,
    /// Whose calls it makes.
    pub workload: String,
    /// The configuration that it runs.
    pub config_hash: String,
    /// Why it refused a newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Whether it takes no new connections any more.
    pub draining: bool,
    /// The dependencies.
    pub dependencies: Vec<DependencyReport>,
    /// The canary beside its workload.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryReport>,
    /// Its routes, in their order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<CanaryReport>,
}

/// How a canary and the version beside it fare, counted since this proxy heard of the trial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryReport {
    /// The trial.
    pub trial: String,
    /// Percent of the requests that the canary gets.
    pub share: u8,
    /// How often its breaker opened: then all requests go to the other version.
    pub opened: u64,
    /// The canary.
    pub canary: LaneReport,
    /// The version beside it.
    pub stable: LaneReport,
}

/// How a version fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LaneReport {
    /// Requests that it got and that ended.
    pub requests: u64,
    /// Those answered with 5xx or not at all.
    pub failed: u64,
    /// Answers by how long they took: one number for each bound of the metrics' histogram, and one
    /// for longer ones.
    pub latencies: Vec<u64>,
}

/// A dependency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DependencyReport {
    /// Its name.
    pub name: String,
    /// Requests under way.
    pub in_flight: u32,
    /// The first provider in the order of this moment; none while all breakers are open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<String>,
    /// The providers.
    pub providers: Vec<ProviderReport>,
    /// What waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueReport>,
}

/// A provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProviderReport {
    /// Its name.
    pub name: String,
    /// What callers feel.
    pub state: State,
    /// Since when its breaker is as it is.
    pub since: String,
    /// Why.
    pub why: String,
    /// What is forced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<Forced>,
    /// Whether its health check speaks against it.
    pub unhealthy: bool,
    /// What its breaker counts now.
    pub counts: Counts,
    /// When an open breaker lets some requests through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_probe: Option<String>,
}

/// A queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueReport {
    /// Requests that wait to be sent.
    pub waiting: u64,
    /// Requests that people must ask about: they may have been processed.
    pub inquiry: u64,
    /// Since when the oldest of both is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
    /// Those of them that are on this pod's disk only.
    pub on_disk: u64,
    /// Why nothing can be kept now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}
