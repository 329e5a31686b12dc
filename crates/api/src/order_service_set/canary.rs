//! How a change is tried out.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// A change gets a growing share of the traffic beside the old version, and all of it if its
/// answers are as good.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.steps.all(s, s >= 1 && s <= 99)").message(
        "spec.rollout.canary.steps: each is a share from 1 to 99 percent; the last step, all of the traffic, comes by itself"
    ),
    validation = Rule::new("self.steps.map(s, self.steps.filter(t, t <= s).size()) == self.steps.map(s, self.steps.indexOf(s) + 1)").message(
        "spec.rollout.canary.steps do not rise; write them like [10, 25, 50]"
    ),
    validation = Rule::new("duration(self.bake) >= duration('5s') && duration(self.bake) <= duration('24h')").message(
        Message::Expression("'spec.rollout.canary.bake ' + self.bake + ' is not between 5s and 24h'".into())
    ),
)]
pub struct Canary {
    /// Percent of the traffic, step by step; rising. After the last one all pods are replaced.
    #[serde(default = "steps")]
    #[schemars(length(min = 1, max = 10))]
    pub steps: Vec<i32>,
    /// How long each step lasts at least.
    #[serde(default = "bake")]
    pub bake: Duration,
    /// So many requests must have reached the new version in a step before it is judged. If they do
    /// not come within three times `bake`, people are asked.
    #[serde(default = "samples")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub minimum_samples: u64,
    /// How many more of a hundred requests may fail than with the old version.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 50))]
    pub maximum_error_increase: u32,
    /// How high the 99th percentile of the answer times may be at the end of a step, in percent of
    /// the old version's; differences below 50 ms count as none. If the 95th percentile is within
    /// the limit, the step bakes for up to three times `bake` before the change is rolled back.
    #[serde(default = "half_as_much_more")]
    #[schemars(range(min = 100, max = 1000))]
    pub maximum_latency_percent: u32,
}

fn steps() -> Vec<i32> {
    vec![10, 25, 50]
}

fn bake() -> Duration {
    Duration::seconds(120)
}

fn samples() -> u64 {
    100
}

fn one() -> u32 {
    1
}

fn half_as_much_more() -> u32 {
    150
}

impl Default for Canary {
    fn default() -> Self {
        Self {
            steps: steps(),
            bake: bake(),
            minimum_samples: samples(),
            maximum_error_increase: one(),
            maximum_latency_percent: half_as_much_more(),
        }
    }
}

/// What people may say to a trial, by an annotation `mrg.bluebird.id/rollout-SERVICE`.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Skip what is left: all pods become the new version.
    Promote,
    /// Stay as it is.
    Pause,
    /// Go on, with this step from its beginning.
    Resume,
    /// Take the new version away.
    Abort,
    /// Try an aborted change once more.
    Retry,
}
