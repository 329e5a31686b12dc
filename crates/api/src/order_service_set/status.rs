//! What is the case with the platform.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::service_resilience::Priority;

/// What is the case.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderServiceSetStatus {
    /// The generation that the rest speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Services that are ready, of those that are deployed: `10/10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// Those of tier P0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p0: Option<String>,
    /// Those of tier P1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p1: Option<String>,
    /// Those of tier P2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p2: Option<String>,
    /// What is being changed: `userservice 1/2`, or what it waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// What fails now, and how much of the platform goes with it: `60% (taxipartnergateway)`; `-`
    /// if nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<String>,
    /// Where the split of order reads stands; its weight is what the two deployments answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_split: Option<CanaryStatus>,
    /// Each service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServiceStatus>,
    /// Cache and broker, as they answer this operator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<StoreStatus>,
    /// What goes with each part that fails, the widest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blast_radius: Vec<BlastRow>,
    /// What each part is to achieve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<ObjectiveRow>,
    /// Ready, Reconciling, Stalled, Degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// Where a service stands.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Phase {
    /// All its pods are ready and as they should be.
    Ready,
    /// Pods are missing, and enough are there.
    Degraded,
    /// No pod is ready.
    Down,
    /// It waits for its turn at the start.
    #[default]
    Waiting,
    /// Its pods are being changed.
    Progressing,
    /// Its pods are to be changed when it is its turn.
    Pending,
    /// Its new pods did not become ready in time; the old ones serve.
    Stuck,
    /// Its change was tried out and taken back; the old pods serve.
    Aborted,
}

/// A service.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// How much depends on it.
    pub tier: Priority,
    /// Where it stands.
    pub phase: Phase,
    /// Ready pods, of all: `3/3`.
    pub ready: String,
    /// What its pods were made from; short.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// Its breakers that are open: `taxipartnergateway/taxipartnergateway`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breakers_open: Vec<String>,
    /// Requests that wait for those that it calls.
    #[serde(default)]
    pub queued: i64,
    /// Since when it has no ready pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_since: Option<String>,
    /// What it waits for, or what is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The change that is being tried out, or the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryStatus>,
}

/// Where a trial stands.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum CanaryPhase {
    /// Its pods start, and then its weight reaches the sidecars.
    #[default]
    Starting,
    /// Its answers are counted.
    Baking,
    /// It waits for people; its weight stays.
    Paused,
    /// It has passed, and the service's pods are replaced one by one.
    Promoting,
    /// It has failed: it gets nothing, and its pods are gone.
    Aborted,
}

/// The trial of a change.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStatus {
    /// What is tried.
    pub revision: String,
    /// Where it stands.
    pub phase: CanaryPhase,
    /// Percent of the traffic that it gets.
    pub weight: i32,
    /// The step, from 0.
    pub step: i32,
    /// How many there are, the replacement of all pods included.
    pub steps: i32,
    /// When this phase began; seconds since 1970.
    pub since: i64,
    /// Why.
    pub message: String,
}

/// A cache or broker that somebody else runs.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// `redis` or `rabbitmq`.
    pub name: String,
    /// Whether it answers.
    pub answers: bool,
    /// Since when.
    pub since: String,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What goes with a part that fails.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlastRow {
    /// The part.
    pub part: String,
    /// The share of what customers do that goes with it, if nothing holds it up; percent.
    pub radius: u32,
    /// The same with all that does; percent.
    pub remaining: u32,
    /// What does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contained_by: Vec<String>,
    /// Services that fail with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fails: Vec<String>,
    /// What customers cannot do, or do worse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<String>,
}

/// What a part is to achieve, and what was measured.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectiveRow {
    /// The part.
    pub part: String,
    /// The longest time away that is accepted.
    pub rto: String,
    /// The longest time whose data may be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<String>,
    /// How long it was away the last time; seconds are rounded up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// The longest of all times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst: Option<String>,
    /// When the last time ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Whether all that was measured is within the objective; `None` before anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
}
