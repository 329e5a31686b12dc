//! `OrderServiceSet`: the whole platform from one object.

mod alerting;
mod canary;
mod read_split;
mod status;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    EnvFromSource, EnvVar, LocalObjectReference, ResourceRequirements, Toleration,
};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;
use crate::service_resilience::Probes;
use mrg_policy::{Accepts, Credentials, Dependency, HealthCheck, OverrideSpec, Url};

pub use alerting::{Alerting, Language};
pub use canary::{Canary, Command};
pub use read_split::{OrderArchive, ReadSplit};
pub use status::{
    BlastRow, CanaryPhase, CanaryStatus, ObjectiveRow, OrderServiceSetStatus, Phase, ServiceStatus,
    StoreStatus,
};

/// The ten services of MRG.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "mrg.bluebird.id",
    version = "v1alpha1",
    kind = "OrderServiceSet",
    plural = "orderservicesets",
    shortname = "oss",
    category = "mrg",
    doc = "The ten services of MRG, with all that the analysis of its single points of failure asks for: replicas, priorities, budgets, resilience, order of start, blast radius, objectives. What is left out comes from the catalog.",
    namespaced,
    status = "OrderServiceSetStatus",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "Services that are ready, of those that are deployed"),
    printcolumn(name = "P0", type_ = "string", json_path = ".status.p0", description = "Of those without which nobody can order or pay"),
    printcolumn(name = "P1", type_ = "string", json_path = ".status.p1"),
    printcolumn(name = "P2", type_ = "string", json_path = ".status.p2"),
    printcolumn(name = "Rollout", type_ = "string", json_path = ".status.rollout", description = "What is being changed"),
    printcolumn(name = "Risk", type_ = "string", json_path = ".status.risk", description = "What fails now, and how much of the platform goes with it"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40").message(
        "metadata.name is longer than 40 characters; Secrets and labels add to it: choose a shorter name"
    ),
)]
#[x_kube(
    validation = Rule::new("!has(self.services) || self.services.all(a, self.services.exists_one(b, b.name == a.name))").message(
        "spec.services names a service twice; keep one entry for each"
    ),
    validation = Rule::new("!has(self.providers) || self.providers.all(a, self.providers.exists_one(b, b.name == a.name))").message(
        "spec.providers names a provider twice; keep one entry for each"
    ),
    validation = Rule::new("!has(self.objectives) || self.objectives.all(a, self.objectives.exists_one(b, b.part == a.part))").message(
        "spec.objectives names a part twice; keep one entry for each"
    ),
    validation = Rule::new("!has(self.readSplit) || has(self.database)").message(
        "spec.readSplit needs spec.database: name the pools that orders are read through"
    ),
    validation = Rule::new("has(self.template.image) || (has(self.services) && size(self.services.filter(s, has(s.image) || (has(s.deploy) && !s.deploy))) == 10)").message(
        "spec.template.image is missing, and not every service has an image of its own; write one, with {service} where its name goes"
    ),
)]
pub struct OrderServiceSetSpec {
    /// What all services have, unless they say otherwise.
    pub template: ServiceTemplate,

    /// What single services have in place of the catalog's values. Services that are not named are
    /// deployed as the catalog says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub services: Vec<ServiceSpec>,

    /// Where others' systems are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 15))]
    pub providers: Vec<ProviderAddress>,

    /// The database, by its pools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,

    /// Redis, or what speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Store>,

    /// RabbitMQ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<Store>,

    /// Who may reach the services.
    #[serde(default)]
    pub network_policy: NetworkPolicyMode,

    /// In which order services start.
    #[serde(default)]
    pub start: Start,

    /// How a changed service reaches its pods.
    #[serde(default)]
    pub rollout: Rollout,

    /// Objectives in place of the catalog's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 30))]
    pub objectives: Vec<ObjectiveSpec>,

    /// Reads of orders, split into those under way and those that have ended; left out: the Order
    /// Orchestrator answers all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_split: Option<ReadSplit>,

    /// Alert rules, a dashboard, and the words of an incident; left out: no rules are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerting: Option<Alerting>,
}

/// What all services have.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceTemplate {
    /// The image; `{service}` stands for the service's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 300))]
    pub image: Option<String>,
    /// When it is pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Always", "IfNotPresent", "Never"]))]
    pub image_pull_policy: Option<String>,
    /// Secrets for the registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The command; `{service}` stands for the service's name. The image's own if not given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Environment from `ConfigMap`s and Secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env_from: Vec<EnvFromSource>,
    /// Resources of the service's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// The user that it runs as; pods pass the `restricted` Pod Security Standard.
    #[serde(default = "nobody")]
    #[schemars(range(min = 1))]
    pub run_as_user: i64,
    /// Nodes for the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that they bear.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// How long a stopping pod may take.
    #[serde(default = "grace")]
    #[schemars(range(min = 10, max = 600))]
    pub termination_grace_period_seconds: i64,
}

fn nobody() -> i64 {
    65_532
}

fn grace() -> i64 {
    45
}

/// One of the ten.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.autoscaling) || !has(self.replicas)").message(
        "spec.services: replicas and autoscaling exclude each other; remove replicas, and give autoscaling.minReplicas"
    ),
    validation = Rule::new("!has(self.autoscaling) || !has(self.autoscaling.minReplicas) || self.autoscaling.maxReplicas >= self.autoscaling.minReplicas").message(
        "spec.services: autoscaling.maxReplicas is below minReplicas; raise it"
    ),
    validation = Rule::new("!has(self.port) || self.port != 15080 && (self.port < 15020 || self.port > 15029)").message(
        "spec.services: port 15080 and 15020 to 15029 are the sidecar's own; choose another"
    ),
)]
pub struct ServiceSpec {
    /// Which.
    #[schemars(extend("enum" = [
        "orderorchestrator", "paymentprocessor", "taxipartnergateway", "userservice", "sessionmanager", "authservice", "configservice",
        "notificationcenter", "fds", "hogateway"
    ]))]
    pub name: String,
    /// `false`: it runs elsewhere, and is not deployed. Others go on calling it by its name.
    #[serde(default = "yes")]
    pub deploy: bool,
    /// Its image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 300))]
    pub image: Option<String>,
    /// Its command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Further environment; a name that the template has, too, gets this value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// Resources of its container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Pods; the tier's fewest if not given: 3 for P0, 2 for the others. Fewer than those are
    /// refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub replicas: Option<i32>,
    /// As many pods as the load wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Where its container listens.
    #[serde(default = "eight_thousand_eighty")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: u16,
    /// How the kubelet asks for its health.
    #[serde(default)]
    pub probes: Probes,
    /// Calls of the catalog that it does not make.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub without: Vec<String>,
    /// Further calls that it makes. One of the catalog's name takes that one's place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub dependencies: Vec<Dependency>,
    /// Breakers that people force open or closed, for a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub overrides: Vec<OverrideSpec>,
}

fn yes() -> bool {
    true
}

fn eight_thousand_eighty() -> u16 {
    8080
}

impl ServiceSpec {
    /// A service of which nothing was said.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            deploy: true,
            image: None,
            command: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            resources: None,
            replicas: None,
            autoscaling: None,
            port: eight_thousand_eighty(),
            probes: Probes::default(),
            without: Vec::new(),
            dependencies: Vec::new(),
            overrides: Vec::new(),
        }
    }
}

/// As many pods as the load wants.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Autoscaling {
    /// At least; the tier's fewest if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: Option<i32>,
    /// At most.
    #[schemars(range(min = 1, max = 1000))]
    pub max_replicas: i32,
    /// The share of the requested CPU that pods should use; percent.
    #[serde(default = "seventy")]
    #[schemars(range(min = 1, max = 100))]
    pub target_cpu_percent: i32,
}

fn seventy() -> i32 {
    70
}

/// Where somebody else's system is.
#[derive(JsonSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProviderAddress {
    /// Which.
    #[schemars(extend("enum" = [
        "bbd", "partner-fleet", "midtrans", "xendit", "nicepay", "google-maps", "here-maps", "twilio", "infobip", "sendgrid", "ses", "fcm",
        "apns", "whatsapp", "head-office"
    ]))]
    pub name: String,
    /// Its address.
    pub url: Url,
    /// Headers that are set on every request to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// A header from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Which requests it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepts: Option<Accepts>,
    /// It is asked for its health all the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

/// The database, by its pools.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// The PgBouncerPool for writes.
    pub write: PoolRef,
    /// The PgBouncerPool for reads; the one for writes if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<PoolRef>,
    /// The user; the owner of the write pool's first database if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub user: Option<String>,
}

/// A PgBouncerPool in the same namespace.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PoolRef {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// A cache or broker that somebody else runs.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// A Secret in the same namespace with its address, such as `redis://:password@redis:6379/0` or
    /// `amqp://user:password@rabbitmq:5672/`.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
    /// The key.
    #[serde(default = "url")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// Whether it fails over by itself: Sentinel, a cluster, quorum queues. The blast radius is
    /// counted accordingly.
    #[serde(default)]
    pub fails_over: bool,
}

fn url() -> String {
    "url".to_owned()
}

/// Who may reach the services.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum NetworkPolicyMode {
    /// Services that customers do not call are reached by those that the catalog or the spec lets
    /// call them, and by the operator.
    #[default]
    Declared,
    /// Everybody.
    Off,
}

/// In which order services start.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.patience) <= duration('30m')").message(
    "spec.start.patience is longer than 30m: so long nobody could order because of a service that they may not even need"
))]
pub struct Start {
    /// How long a service that was never there waits for those that it calls, and for the database,
    /// before it starts all the same.
    #[serde(default = "patience")]
    pub patience: Duration,
}

fn patience() -> Duration {
    Duration::seconds(90)
}

impl Default for Start {
    fn default() -> Self {
        Self {
            patience: patience(),
        }
    }
}

/// How a changed service reaches its pods.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.progressDeadline) >= duration('30s') && duration(self.progressDeadline) <= duration('1h')").message(
    Message::Expression("'spec.rollout.progressDeadline ' + self.progressDeadline + ' is not between 30s and 1h; it should be longer than a pod takes to become ready'".into())
))]
pub struct Rollout {
    /// P2 before P1 before P0, one P0 at a time, and none while a P0 breaker is open; `false`: all
    /// at once, as Deployments do by themselves.
    #[serde(default = "yes")]
    pub ordered: bool,
    /// A changed service is tried out beside the old one with a growing share of the traffic, and
    /// judged by its answers; left out: its pods are replaced one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// A service that is not ready with its new pods after this holds the others up and is told;
    /// its old pods go on.
    #[serde(default = "ten_minutes")]
    pub progress_deadline: Duration,
}

fn ten_minutes() -> Duration {
    Duration::seconds(600)
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            ordered: true,
            canary: None,
            progress_deadline: ten_minutes(),
        }
    }
}

/// An objective in place of the catalog's.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.rto) > duration('0s')").message(
    "spec.objectives: rto 0s can be met by nothing; give at least 1s"
))]
pub struct ObjectiveSpec {
    /// A service, or `postgresql`, `redis`, `rabbitmq`, `kubernetes`.
    #[schemars(extend("enum" = [
        "orderorchestrator", "paymentprocessor", "taxipartnergateway", "userservice", "sessionmanager", "authservice", "configservice",
        "notificationcenter", "fds", "hogateway", "postgresql", "redis", "rabbitmq", "kubernetes"
    ]))]
    pub part: String,
    /// The longest time away.
    pub rto: Duration,
    /// The longest time whose data may be lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpo: Option<Duration>,
}
