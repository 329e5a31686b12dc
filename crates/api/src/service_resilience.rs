//! `ServiceResilience`: what a workload's failures and those of its dependencies may cost,
//! enforced.

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;
use mrg_policy::{Dependency, Inbound, OverrideSpec};

/// What a workload's failures and those of its dependencies may cost.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "mrg.bluebird.id",
    version = "v1alpha1",
    kind = "ServiceResilience",
    plural = "serviceresiliences",
    shortname = "sres",
    category = "mrg",
    doc = "Probes, replicas and disruption budget of one workload; and for each of its dependencies timeouts, retries, breakers, providers in order and a fallback, enforced by a sidecar.",
    namespaced,
    status = "ServiceResilienceStatus",
    derive = "PartialEq",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Enforced", type_ = "string", json_path = ".status.conditions[?(@.type==\"Enforced\")].status", description = "Whether every pod runs the newest configuration"),
    printcolumn(name = "Pods", type_ = "string", json_path = ".status.pods.summary", description = "Pods that run the newest configuration, of all"),
    printcolumn(name = "Breakers", type_ = "string", json_path = ".status.breakersSummary", description = "Breakers that are not closed, of all"),
    printcolumn(name = "Provider", type_ = "string", json_path = ".status.providerSummary", description = "Providers that serve in place of the first"),
    printcolumn(name = "Queue", type_ = "integer", json_path = ".status.queue.depth", description = "Requests that wait"),
    printcolumn(name = "Score", type_ = "integer", json_path = ".status.audit.score"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 50").message(
        "metadata.name is longer than 50 characters; ConfigMaps and Secrets add to it: choose a shorter name"
    ),
)]
#[x_kube(
    validation = Rule::new("!has(self.dependencies) || self.dependencies.all(a, self.dependencies.exists_one(b, b.name == a.name))").message(
        "spec.dependencies has a name twice; give each dependency a name of its own"
    ),
    validation = Rule::new("!has(self.dependencies) || self.dependencies.all(a, self.dependencies.exists_one(b, b.port == a.port))").message(
        "spec.dependencies has a port twice; give each dependency a port of its own"
    ),
    validation = Rule::new("!has(self.dependencies) || self.dependencies.all(d, d.port < 15020 || d.port > 15029)").message(
        "spec.dependencies: ports 15020 to 15029 are the proxy's own; choose another"
    ),
    validation = Rule::new("!has(self.dependencies) || self.dependencies.all(d, d.providers.all(a, d.providers.exists_one(b, b.name == a.name)))").message(
        "spec.dependencies has a provider twice; name each provider once"
    ),
    validation = Rule::new("!has(self.dependencies) || self.dependencies.all(d, !has(d.timeout) || !has(d.timeout.attempt) || !has(d.timeout.connect) || duration(d.timeout.attempt) >= duration(d.timeout.connect))").message(
        "spec.dependencies: timeout.attempt is shorter than timeout.connect, and an attempt includes connecting; raise attempt or lower connect"
    ),
    validation = Rule::new("!has(self.dependencies) || self.dependencies.all(d, !has(d.timeout) || !has(d.timeout.total) || !has(d.timeout.attempt) || duration(d.timeout.total) >= duration(d.timeout.attempt))").message(
        "spec.dependencies: timeout.total is shorter than timeout.attempt; raise total or lower attempt"
    ),
    validation = Rule::new("!has(self.dependencies) || self.dependencies.all(d, !has(d.fallback) || (has(d.fallback.queue) ? 1 : 0) + (has(d.fallback.stale) ? 1 : 0) + (has(d.fallback.static) ? 1 : 0) <= 1)").message(
        "spec.dependencies: fallback.queue, fallback.stale and fallback.static exclude each other; keep one"
    ),
    validation = Rule::new("!has(self.dependencies) || self.dependencies.all(d, !has(d.onAmbiguous) || d.onAmbiguous != 'Queue' || (has(d.fallback) && has(d.fallback.queue)))").message(
        "spec.dependencies: onAmbiguous Queue needs fallback.queue; add it, or choose Fail"
    ),
    validation = Rule::new("!has(self.dependencies) || self.dependencies.all(d, !has(d.onAmbiguous) || d.onAmbiguous != 'Failover' || size(d.providers) > 1)").message(
        "spec.dependencies: onAmbiguous Failover needs a second provider; add one, or choose Fail"
    ),
    validation = Rule::new("!has(self.dependencies) || !self.dependencies.exists(d, has(d.fallback) && has(d.fallback.queue)) || has(self.queue)").message(
        "spec.queue says where queued requests are kept, and a fallback.queue needs it; add spec.queue with a database, a volume, or both"
    ),
    validation = Rule::new("!has(self.overrides) || self.overrides.all(o, has(self.dependencies) && self.dependencies.exists(d, d.name == o.dependency))").message(
        "spec.overrides names a dependency that is not in spec.dependencies; correct the name or take the override out"
    ),
    validation = Rule::new("!has(self.inbound) || self.inbound.port != (has(self.inbound.targetPort) ? self.inbound.targetPort : 8080)").message(
        "spec.inbound.port is where the workload itself listens; choose another"
    ),
    validation = Rule::new("self.targetRef == oldSelf.targetRef").message(
        "spec.targetRef cannot change: its pods would keep a sidecar that nobody configures; create another ServiceResilience"
    ),
)]
pub struct ServiceResilienceSpec {
    /// The workload, in the same namespace.
    pub target_ref: TargetRef,

    /// How much depends on it. P0: customers cannot order or pay without it.
    #[serde(default)]
    pub priority: Priority,

    /// `Enforce`: all of this is done. `Audit`: nothing is changed, and everything that would be is
    /// told.
    #[serde(default)]
    pub mode: Mode,

    /// How the kubelet asks the workload for its health.
    #[serde(default)]
    pub probes: Probes,

    /// How many pods there are, and how many of them may go at a time.
    #[serde(default)]
    pub availability: Availability,

    /// What is done for those who call the workload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<Inbound>,

    /// What the workload calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub dependencies: Vec<Dependency>,

    /// Where queued requests are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueStore>,

    /// Breakers that people force open or closed, for a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub overrides: Vec<OverrideSpec>,

    /// Checks that do not count, with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub exemptions: Vec<Exemption>,

    /// How pods that lack the sidecar get it.
    #[serde(default)]
    pub convergence: Convergence,

    /// Resources of the sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// A workload in the same namespace.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct TargetRef {
    /// What it is.
    #[serde(default)]
    pub kind: TargetKind,
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// What a workload is.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize)]
pub enum TargetKind {
    /// A Deployment.
    #[default]
    Deployment,
    /// A StatefulSet.
    StatefulSet,
}

impl TargetKind {
    /// As the API server names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
        }
    }
}

/// How much depends on a workload.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Priority {
    /// Customers cannot order or pay without it.
    P0,
    /// Much is worse without it.
    #[default]
    P1,
    /// It can be away for a while.
    P2,
}

/// Whether things are done, or only told.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Mode {
    /// All of it is done.
    #[default]
    Enforce,
    /// Nothing is changed.
    Audit,
}

/// How the kubelet asks a workload for its health. The defaults are the analysis'.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.liveness) || !has(self.readiness) || self.liveness.path != self.readiness.path").message(
    "spec.probes: liveness and readiness ask the same path; a workload that waits for a dependency would be restarted for it: give them paths of their own"
))]
pub struct Probes {
    /// `Enforce`: pods get these probes whatever their template says. `Ignore`: they keep their
    /// own.
    #[serde(default)]
    pub mode: ProbeMode,
    /// The container; the first if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The port of the workload.
    #[serde(default = "eight_thousand_eighty")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// A workload that fails it is restarted. It must not ask dependencies.
    #[serde(default = "liveness")]
    pub liveness: Probe,
    /// A workload that fails it gets no requests.
    #[serde(default = "readiness")]
    pub readiness: Probe,
}

fn eight_thousand_eighty() -> u16 {
    8080
}

fn liveness() -> Probe {
    Probe {
        path: "/health".to_owned(),
        initial_delay_seconds: 30,
        period_seconds: 10,
        timeout_seconds: 2,
        failure_threshold: 3,
    }
}

fn readiness() -> Probe {
    Probe {
        path: "/ready".to_owned(),
        initial_delay_seconds: 10,
        period_seconds: 5,
        timeout_seconds: 2,
        failure_threshold: 2,
    }
}

impl Default for Probes {
    fn default() -> Self {
        Self {
            mode: ProbeMode::Enforce,
            container: None,
            port: 8080,
            liveness: liveness(),
            readiness: readiness(),
        }
    }
}

/// Whether pods get the probes.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum ProbeMode {
    /// Whatever their template says.
    #[default]
    Enforce,
    /// They keep their own.
    Ignore,
}

/// One probe.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.timeoutSeconds <= self.periodSeconds").message(
    "spec.probes: timeoutSeconds is longer than periodSeconds; the next probe would begin before the last has ended"
))]
pub struct Probe {
    /// What is asked for.
    #[schemars(length(min = 1, max = 200), regex(pattern = "^/"))]
    pub path: String,
    /// Before the first.
    #[schemars(range(min = 0, max = 3600))]
    pub initial_delay_seconds: i32,
    /// How often.
    #[schemars(range(min = 1, max = 3600))]
    pub period_seconds: i32,
    /// How long the answer may take.
    #[schemars(range(min = 1, max = 3600))]
    pub timeout_seconds: i32,
    /// So many in a row.
    #[schemars(range(min = 1, max = 100))]
    pub failure_threshold: i32,
}

/// How many pods there are.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Availability {
    /// No fewer than this; if not given, 3 for P0 and 2 for the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub min_replicas: Option<i32>,
    /// So many may be evicted at a time; 0 is no disruption budget.
    #[schemars(range(min = 0, max = 1000))]
    pub max_unavailable: i32,
    /// How pods are spread over nodes.
    pub spread: Spread,
    /// How long a pod that stops waits before it is told to, so that nobody calls it any more;
    /// seconds.
    #[schemars(range(min = 0, max = 60))]
    pub drain_seconds: i64,
}

impl Default for Availability {
    fn default() -> Self {
        Self {
            min_replicas: None,
            max_unavailable: 1,
            spread: Spread::Preferred,
            drain_seconds: 5,
        }
    }
}

/// How pods are spread over nodes.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Spread {
    /// Not at all.
    None,
    /// As well as it goes.
    #[default]
    Preferred,
    /// A pod that would make it uneven waits.
    Required,
}

/// Where queued requests are kept.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.database) || has(self.volume)").message(
    "spec.queue has neither database nor volume; name at least one"
))]
pub struct QueueStore {
    /// A database: every pod sees what waits, and what waits outlives the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<SecretKey>,
    /// A log on a volume of the pod, for the time when the database cannot be reached. It is lost
    /// with the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<QueueVolume>,
}

/// A key of a Secret in the same namespace.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// The Secret.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
    /// The key; its value is `postgres://user:password@host:port/database`.
    #[serde(default = "dsn")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn dsn() -> String {
    "dsn".to_owned()
}

/// A volume of the pod.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueVolume {
    /// How much it may hold.
    #[serde(default = "size")]
    #[schemars(length(min = 1, max = 32))]
    pub size_limit: String,
}

fn size() -> String {
    "256Mi".to_owned()
}

/// A check that does not count.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exemption {
    /// Which.
    pub check: Check,
    /// Why.
    #[schemars(length(min = 3, max = 300))]
    pub reason: String,
}

/// The checks of the analysis.
#[derive(
    JsonSchema, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize,
)]
pub enum Check {
    /// Every call has an end.
    Timeout,
    /// Calls to what is down are not made.
    CircuitBreaker,
    /// There is another way.
    Fallback,
    /// What failed by chance is tried again.
    Retry,
    /// Part of the service goes on.
    GracefulDegradation,
}

/// How pods that lack the sidecar get it.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Convergence {
    /// They are evicted one at a time, as the disruption budget allows.
    #[default]
    Evict,
    /// Whenever they are replaced.
    Wait,
}

impl ServiceResilienceSpec {
    /// The fewest pods.
    pub fn min_replicas(&self) -> i32 {
        let by_priority = if self.priority == Priority::P0 { 3 } else { 2 };
        self.availability.min_replicas.unwrap_or(by_priority)
    }
}

/// What is the case.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceResilienceStatus {
    /// The generation that the rest speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The configuration that proxies should run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_hash: Option<String>,
    /// The pods.
    #[serde(default)]
    pub pods: PodsStatus,
    /// `1 open/4`, or `4 closed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breakers_summary: Option<String>,
    /// `payment: xendit` where another than the first provider serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_summary: Option<String>,
    /// Every breaker, over all pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breakers: Vec<BreakerStatus>,
    /// What waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueStatus>,
    /// What others changed and what became of it; the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<Drift>,
    /// What the workload's template says of the probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_probes: Option<TemplateProbes>,
    /// The checklist of the analysis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
    /// `Ready`, `Reconciling`, `Stalled`, `Degraded`, `Enforced`, `FieldConflict`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// The pods of a workload.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodsStatus {
    /// Pods that run the newest configuration, of all: `3/3`.
    #[serde(default)]
    pub summary: String,
    /// Pods.
    #[serde(default)]
    pub all: i32,
    /// Pods with a sidecar.
    #[serde(default)]
    pub injected: i32,
    /// Pods that run the newest configuration.
    #[serde(default)]
    pub acknowledged: i32,
    /// Pods whose calls nobody watches over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bypassing: Vec<String>,
}

/// A breaker, over all pods.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerStatus {
    /// Of which dependency.
    pub dependency: String,
    /// Of which provider.
    pub provider: String,
    /// The worst of all pods: `Open`, `HalfOpen`, `Closed`; `ForcedOpen` and `ForcedClosed` where
    /// people did that.
    pub state: String,
    /// In how many pods it is open.
    pub open: i32,
    /// In how many it lets a few requests through.
    pub half_open: i32,
    /// In how many it is closed.
    pub closed: i32,
    /// Since when it is as it is in the pod that changed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the first pod lets requests through again; cut to seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_probe: Option<String>,
}

/// What waits.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// Requests that wait to be sent.
    pub depth: i64,
    /// Requests about which people must decide.
    pub inquiry: i64,
    /// Of all of these, those that are on pods' volumes only.
    pub on_volumes: i64,
    /// Since when the oldest is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<String>,
    /// Why something cannot be kept now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What somebody changed.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Drift {
    /// On which object.
    pub object: String,
    /// Which field.
    pub field: String,
    /// What it was changed to.
    pub found: String,
    /// What became of it.
    pub outcome: String,
    /// By whom, as the API server knows it.
    pub manager: String,
    /// When.
    pub at: String,
}

/// What a template says of the probes.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum TemplateProbes {
    /// It has them.
    Match,
    /// It has others.
    Differ,
    /// It has none.
    Missing,
}

/// The checklist of the analysis.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// Of a hundred: what is enforced counts whole, what is configured half, what is exempt not at
    /// all.
    pub score: i32,
    /// The checks.
    pub rows: Vec<AuditRow>,
}

/// A check.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditRow {
    /// Which.
    pub check: Check,
    /// What was found.
    pub state: AuditState,
    /// Where it is missing, or why it does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What was found.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum AuditState {
    /// Every pod does it.
    Enforced,
    /// It is in the spec, and not every pod does it.
    Configured,
    /// It is not there.
    Missing,
    /// It does not count.
    Exempt,
}

/// How long a drift stays in the status.
pub const DRIFT_KEPT: Duration = Duration::seconds(86_400);
