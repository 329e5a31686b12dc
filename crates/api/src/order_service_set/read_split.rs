//! Reads of orders, split by what they are about.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

/// Orders under way are read from the leader, those that have ended from copies, standbys and the
/// archive: by two deployments of `mrg-orders` with credentials of their own. The bounds are the
/// analysis'.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.activeTtl) >= duration('10s') && duration(self.activeTtl) <= duration('30s')").message(
        Message::Expression("'spec.readSplit.activeTtl ' + self.activeTtl + ' is not between 10s and 30s'".into())
    ),
    validation = Rule::new("duration(self.historyTtl) >= duration('1h') && duration(self.historyTtl) <= duration('24h')").message(
        Message::Expression("'spec.readSplit.historyTtl ' + self.historyTtl + ' is not between 1h and 24h'".into())
    ),
    validation = Rule::new("duration(self.maximumLag) >= duration('1s') && duration(self.maximumLag) <= duration('5s')").message(
        Message::Expression("'spec.readSplit.maximumLag ' + self.maximumLag + ' is not between 1s and 5s'".into())
    ),
)]
pub struct ReadSplit {
    /// Percent of the reads of orders that the two deployments answer; the Order Orchestrator
    /// answers the rest, as it always did. Left out: 10, 25, 50 and then 100, judged like any
    /// change by `rollout.canary`. 0 is the way back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub weight: Option<i32>,
    /// The image with `mrg-orders`; the operator's own if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 300))]
    pub image: Option<String>,
    /// Pods for orders under way.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 100))]
    pub active_replicas: i32,
    /// Pods for orders that have ended.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 100))]
    pub history_replicas: i32,
    /// How long a copy of an order under way counts as fresh, as long as changes are heard.
    #[serde(default = "thirty_seconds")]
    pub active_ttl: Duration,
    /// How long a copy of an order that has ended is kept.
    #[serde(default = "a_day")]
    pub history_ttl: Duration,
    /// A standby's answer that may be older than this is not a good one.
    #[serde(default = "five_seconds")]
    pub maximum_lag: Duration,
    /// Where orders go that ended long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<OrderArchive>,
}

/// Object storage for orders that ended long ago.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.url.startsWith('s3://') || self.url.startsWith('file:///')").message(
        "spec.readSplit.archive.url is neither s3://BUCKET/PREFIX nor file:///PATH"
    ),
    validation = Rule::new("!self.url.startsWith('file://') || has(self.claimName)").message(
        "spec.readSplit.archive: a file:// archive needs claimName, a PersistentVolumeClaim that several pods may mount; it is mounted at the url's path"
    ),
    validation = Rule::new("duration(self.after) >= duration('24h')").message(
        Message::Expression("'spec.readSplit.archive.after ' + self.after + ' is shorter than 24h: customers still look at such orders'".into())
    ),
)]
pub struct OrderArchive {
    /// `s3://BUCKET/PREFIX`, or `file:///PATH` on a volume.
    #[schemars(length(min = 6, max = 500))]
    pub url: String,
    /// Orders that ended longer ago are moved.
    #[serde(default = "thirty_days")]
    pub after: Duration,
    /// When, as cron writes it.
    #[serde(default = "at_three")]
    #[schemars(length(min = 9, max = 100))]
    pub schedule: String,
    /// A Secret with `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, and where needed `AWS_REGION`,
    /// `AWS_ENDPOINT`, `AWS_ALLOW_HTTP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: Option<String>,
    /// The volume of a `file://` archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: Option<String>,
}

fn two() -> i32 {
    2
}

fn thirty_seconds() -> Duration {
    Duration::seconds(30)
}

fn a_day() -> Duration {
    Duration::seconds(86_400)
}

fn five_seconds() -> Duration {
    Duration::seconds(5)
}

fn thirty_days() -> Duration {
    Duration::seconds(30 * 86_400)
}

fn at_three() -> String {
    "0 3 * * *".to_owned()
}
