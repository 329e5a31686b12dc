//! `PostgresCluster`: a PostgreSQL cluster whose members elect their leader over etcd.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;

mod etcd_rebuild;
pub use etcd_rebuild::{
    EtcdRebuild, EtcdRebuildPhase, InvalidRebuildRequest, REBUILD_ETCD_ANNOTATION, RebuildRequest,
};

/// A PostgreSQL cluster: one leader, streaming replicas, automatic failover over etcd in Patroni's
/// manner.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "mrg.bluebird.id",
    version = "v1alpha1",
    kind = "PostgresCluster",
    plural = "postgresclusters",
    shortname = "pgc",
    category = "mrg",
    doc = "A PostgreSQL cluster: one leader, streaming replicas, automatic failover over etcd in Patroni's manner.",
    namespaced,
    status = "PostgresClusterStatus",
    derive = "PartialEq",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "Members that lead or stream, of all"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader", description = "The member that accepts writes"),
    printcolumn(name = "Sync", type_ = "string", json_path = ".status.sync", description = "Members that may take over without loss"),
    printcolumn(name = "Timeline", type_ = "integer", json_path = ".status.timeline", description = "Rises with each failover"),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.lag", description = "Of the member that is furthest behind"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 40").message(
        "metadata.name is longer than 40 characters; pods, services and volumes add to it: choose a shorter name"
    ),
)]
#[x_kube(
    validation = Rule::new("!has(oldSelf.scope) || has(self.scope) && self.scope == oldSelf.scope").message(
        "spec.scope cannot change: it is the cluster's place in etcd; create a new PostgresCluster instead"
    ),
    validation = Rule::new("has(oldSelf.scope) == has(self.scope)").message(
        "spec.scope cannot be added or removed later: it is the cluster's place in etcd; create a new PostgresCluster instead"
    ),
    validation = Rule::new("!(has(self.replication.strict) && self.replication.strict) || self.replication.mode == 'Async' || self.replicas > self.replication.count").message(
        "spec.replication.strict: true needs spec.replicas to be greater than spec.replication.count, or no commit could ever be acknowledged; raise spec.replicas or set strict: false"
    ),
    validation = Rule::new("self.replication.mode == 'Async' || self.replication.count < 2 || self.replicas > self.replication.count").message(
        "spec.replication.count asks for more standbys than spec.replicas leaves besides the leader; lower count or raise spec.replicas"
    ),
    validation = Rule::new("has(self.etcd.managed) == has(oldSelf.etcd.managed)").message(
        "spec.etcd cannot switch between managed and external while the cluster runs; create a new PostgresCluster and copy the data"
    ),
)]
pub struct PostgresClusterSpec {
    /// Members, the leader among them. A single member has nobody to fail over to.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 15))]
    pub replicas: i32,

    /// An image with PostgreSQL's programs on its PATH. The agent is copied into the pod by an init
    /// container.
    #[schemars(length(min = 1, max = 300))]
    pub image: String,

    /// Where the programs are, if they are not on the image's PATH.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 200))]
    pub bin_directory: Option<String>,

    /// The user that PostgreSQL runs as; the image must know it (999 in the official image).
    #[serde(default = "postgres_user")]
    #[schemars(range(min = 1))]
    pub run_as_user: i64,

    /// The cluster's name in etcd; `metadata.name` if not given. Cannot change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-zA-Z0-9][a-zA-Z0-9._-]*$")
    )]
    pub scope: Option<String>,

    /// The data volume of each member.
    pub storage: Storage,

    /// Resources of the postgres container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Where members may run.
    #[serde(default)]
    pub scheduling: Scheduling,

    /// The etcd that holds the leader key.
    #[serde(default)]
    pub etcd: Etcd,

    /// When and how a member takes over.
    #[serde(default)]
    pub failover: Failover,

    /// What has to be on standbys before a commit is acknowledged.
    #[serde(default)]
    pub replication: Replication,

    /// The server's settings.
    #[serde(default)]
    pub postgresql: Postgresql,

    /// What is made when the cluster is made; without effect later.
    #[serde(default)]
    pub bootstrap: Bootstrap,

    /// What happens to the volumes when this object is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

fn three() -> i32 {
    3
}

fn postgres_user() -> i64 {
    999
}

fn one() -> i32 {
    1
}

fn yes() -> bool {
    true
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks for a reference"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// A volume.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("isQuantity(self.size) && quantity(self.size).isGreaterThan(quantity('0'))").message(
        Message::Expression("'storage.size ' + self.size + ' is not a size such as 10Gi; write a number with Ki, Mi, Gi or Ti'".into())
    ),
    validation = Rule::new("!isQuantity(self.size) || !isQuantity(oldSelf.size) || quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0").message(
        Message::Expression("'storage.size cannot shrink from ' + oldSelf.size + ' to ' + self.size + ': volumes only grow; restore into a new cluster instead'".into())
    ),
    validation = Rule::new("has(self.storageClassName) == has(oldSelf.storageClassName) && (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)").message(
        "storage.storageClassName cannot change: existing volumes keep their class; create a new PostgresCluster instead"
    ),
)]
pub struct Storage {
    /// Its size, e.g. `10Gi`. It may grow later.
    #[schemars(length(min = 1, max = 32))]
    pub size: String,
    /// Its class; the cluster's default class if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub storage_class_name: Option<String>,
}

/// Where members may run.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// Labels that a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints to live with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Whether two members may share a node.
    #[serde(default)]
    pub spread: Spread,
    /// The priority class of database and etcd pods; the chart's class if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
}

/// Whether two members may share a node.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Spread {
    /// Only if there are too few nodes.
    #[default]
    Preferred,
    /// Never: a member without a node of its own stays pending.
    Required,
}

/// The etcd that holds the leader key: managed by the operator, or one that is there.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.managed) != has(self.external)").message(
    "spec.etcd must have exactly one of managed and external; remove the other"
))]
pub struct Etcd {
    /// An etcd of this cluster's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ManagedEtcd>,
    /// An etcd that is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalEtcd>,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            managed: Some(ManagedEtcd::default()),
            external: None,
        }
    }
}

/// An etcd that the operator runs. Version 3.5.13 or newer: before that a stalled leader may revoke
/// live leases.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedEtcd {
    /// Members: 1, 3 or 5.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 5))]
    #[x_kube(validation = Rule::new("self % 2 == 1").message(
        "an even number of etcd members tolerates no more failures than one less; set 1, 3 or 5"
    ))]
    #[x_kube(validation = Rule::new("self == oldSelf").message(
        "the number of etcd members cannot change in this version; create the cluster with the size it needs"
    ))]
    pub replicas: i32,
    /// An image with etcd 3.5.13 or newer on its PATH.
    #[serde(default = "etcd_image")]
    #[schemars(length(min = 1, max = 300))]
    pub image: String,
    /// The volume of each member.
    #[serde(default = "etcd_storage")]
    pub storage: Storage,
    /// Resources of the etcd container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

fn etcd_image() -> String {
    "quay.io/coreos/etcd:v3.6.16".to_owned()
}

fn etcd_storage() -> Storage {
    Storage {
        size: "2Gi".to_owned(),
        storage_class_name: None,
    }
}

impl Default for ManagedEtcd {
    fn default() -> Self {
        Self {
            replicas: 3,
            image: etcd_image(),
            storage: etcd_storage(),
            resources: None,
        }
    }
}

/// An etcd that is there.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalEtcd {
    /// `http://host:2379`, one for each member.
    #[schemars(length(min = 1, max = 9))]
    pub endpoints: Vec<Endpoint>,
}

/// `http://host:port`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Endpoint(
    #[schemars(length(max = 200), regex(pattern = r"^http://[^/ ]+:[0-9]+$"))]
    pub String,
);

/// When and how a member takes over.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.ttl) >= duration(self.loopWait) + duration(self.retryTimeout) + duration(self.retryTimeout)").message(
        Message::Expression("'spec.failover.ttl ' + self.ttl + ' is shorter than loopWait ' + self.loopWait + ' + 2 * retryTimeout ' + self.retryTimeout + ': one slow answer of etcd would cost the leader its lease; raise ttl or lower the others'".into())
    ),
    validation = Rule::new("duration(self.ttl) >= duration('3s')").message(
        Message::Expression("'spec.failover.ttl ' + self.ttl + ' is below the floor of 3s; 5s or more is recommended'".into())
    ),
    validation = Rule::new("duration(self.loopWait) >= duration('1s')").message(
        Message::Expression("'spec.failover.loopWait ' + self.loopWait + ' is below the floor of 1s'".into())
    ),
    validation = Rule::new("duration(self.retryTimeout) >= duration('1s')").message(
        Message::Expression("'spec.failover.retryTimeout ' + self.retryTimeout + ' is below the floor of 1s'".into())
    ),
    validation = Rule::new("duration(self.ttl) <= duration('10m')").message(
        Message::Expression("'spec.failover.ttl ' + self.ttl + ' is longer than 10m: so long nobody would take over from a lost node; 10s to 30s is usual'".into())
    ),
    validation = Rule::new("duration(self.unresponsiveAfter) == duration('0s') || duration(self.unresponsiveAfter) >= duration('1s')").message(
        Message::Expression("'spec.failover.unresponsiveAfter ' + self.unresponsiveAfter + ' is below the floor of 1s; 10s or more is recommended, and 0s switches it off'".into())
    ),
    validation = Rule::new("duration(self.unresponsiveAfter) <= duration('1h')").message(
        Message::Expression("'spec.failover.unresponsiveAfter ' + self.unresponsiveAfter + ' is longer than 1h; 20s is usual, and 0s switches it off'".into())
    ),
    validation = Rule::new("isQuantity(self.maximumLagOnFailover)").message(
        Message::Expression("'spec.failover.maximumLagOnFailover ' + self.maximumLagOnFailover + ' is not a size such as 1Mi'".into())
    ),
)]
pub struct Failover {
    /// How long the leader key outlives the leader's last sign of life. The time that a lost node
    /// costs.
    #[serde(default = "ttl")]
    pub ttl: Duration,
    /// How often the leader renews its lease.
    #[serde(default = "loop_wait")]
    pub loop_wait: Duration,
    /// How long a request to etcd may take.
    #[serde(default = "retry_timeout")]
    pub retry_timeout: Duration,
    /// In mode `Async`, a standby that is further behind does not take over.
    #[serde(default = "maximum_lag")]
    #[schemars(length(min = 1, max = 32))]
    pub maximum_lag_on_failover: String,
    /// What happens when the leader's postgres dies and its agent lives.
    #[serde(default)]
    pub on_crash: OnCrash,
    /// How long the leader's postgres may let no new client in, or commit nothing, before the lead
    /// goes to a member that is fit for it. `0s` switches it off.
    #[serde(default = "unresponsive_after")]
    pub unresponsive_after: Duration,
    /// Whether the leader goes on without etcd while every member agrees.
    #[serde(default = "yes")]
    pub failsafe: bool,
}

fn ttl() -> Duration {
    Duration::seconds(10)
}

fn loop_wait() -> Duration {
    Duration::seconds(2)
}

fn retry_timeout() -> Duration {
    Duration::seconds(3)
}

fn unresponsive_after() -> Duration {
    Duration::seconds(20)
}

fn maximum_lag() -> String {
    "1Mi".to_owned()
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            ttl: ttl(),
            loop_wait: loop_wait(),
            retry_timeout: retry_timeout(),
            maximum_lag_on_failover: maximum_lag(),
            on_crash: OnCrash::default(),
            unresponsive_after: unresponsive_after(),
            failsafe: true,
        }
    }
}

/// What happens when the leader's postgres dies and its agent lives.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum OnCrash {
    /// Fail over if a standby that may take over without loss was streaming, else restart.
    #[default]
    Auto,
    /// Fail over.
    Failover,
    /// Recover in place.
    Restart,
}

/// What has to be on standbys before a commit is acknowledged.
#[derive(JsonSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    /// `Quorum`: any `count` of the standbys. `Sync`: `count` chosen standbys. `Async`: none, a
    /// failover may lose the last commits.
    #[serde(default)]
    pub mode: Mode,
    /// How many standbys must have a commit.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 14))]
    pub count: i32,
    /// Whether commits wait while too few standbys are there. If not, they go on without, and
    /// status says so.
    #[serde(default)]
    pub strict: bool,
}

impl Default for Replication {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            count: 1,
            strict: false,
        }
    }
}

/// How commits are replicated.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Mode {
    /// Acknowledged without waiting.
    Async,
    /// Acknowledged when chosen standbys have them.
    Sync,
    /// Acknowledged when any of the standbys have them.
    #[default]
    Quorum,
}

/// The server's settings.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Postgresql {
    /// Parameters of `postgresql.conf`. Those that the agent sets itself are refused. Those that
    /// execute or load code, such as `archive_command` and `shared_preload_libraries`, reach the
    /// members through a mounted file, within a minute or two; the others through etcd, at once.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 200))]
    #[x_kube(validation = Rule::new("!self.exists(k, k.lowerAscii() == 'synchronous_standby_names')").message(
        "synchronous_standby_names is the agent's to set, since it must never contradict who may take over; remove it and set spec.replication (mode: Quorum, count: 1 is ANY 1)"
    ))]
    #[x_kube(validation = Rule::new("!self.exists(k, k.lowerAscii() in ['primary_conninfo', 'primary_slot_name', 'listen_addresses', 'port', 'cluster_name', 'hot_standby', 'restart_after_crash', 'hba_file', 'ident_file', 'config_file', 'data_directory', 'unix_socket_directories', 'unix_socket_group', 'unix_socket_permissions', 'recovery_target', 'recovery_target_timeline', 'external_pid_file'])").message(
        "one of primary_conninfo, primary_slot_name, listen_addresses, port, cluster_name, hot_standby, restart_after_crash, *_file, data_directory, unix_socket_*, recovery_target* is set; the agent sets these itself: remove it"
    ))]
    #[x_kube(validation = Rule::new("!self.exists(k, k.lowerAscii() in ['include', 'include_dir', 'include_if_exists'])").message(
        "include, include_dir and include_if_exists are directives that read another file, and no parameters; set what the file sets"
    ))]
    #[x_kube(validation = Rule::new("self.all(k, k.matches('^[a-zA-Z_][a-zA-Z0-9_.]*$'))").message(
        "a parameter's name must be letters, digits, _ and ., as PostgreSQL writes it"
    ))]
    pub parameters: BTreeMap<String, ParameterValue>,
    /// Lines of `pg_hba.conf`, after the agent's own; everybody with a password by SCRAM if not
    /// given. They name no files: `include` and `@file` are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 100))]
    pub pg_hba: Option<Vec<String>>,
    /// Whether a former leader is rewound before it is copied afresh.
    #[serde(default = "yes")]
    pub use_pg_rewind: bool,
}

/// A parameter's value, as text: quote numbers and booleans.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct ParameterValue(#[schemars(length(max = 2000))] pub String);

/// What is made when the cluster is made.
#[derive(JsonSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// Databases, each with an owner whose password is generated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub databases: Vec<Database>,
    /// The databases' encoding.
    #[serde(default = "utf8")]
    #[schemars(length(min = 1, max = 32))]
    pub encoding: String,
    /// The databases' locale.
    #[serde(default = "locale")]
    #[schemars(length(min = 1, max = 64))]
    pub locale: String,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self {
            databases: Vec::new(),
            encoding: utf8(),
            locale: locale(),
        }
    }
}

fn utf8() -> String {
    "UTF8".to_owned()
}

fn locale() -> String {
    "C.UTF-8".to_owned()
}

/// A database.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// Its name.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_-]*$"))]
    #[x_kube(validation = Rule::new("!(self in ['postgres', 'template0', 'template1'])").message(
        "postgres, template0 and template1 are in every cluster and cannot be created; choose another name"
    ))]
    pub name: String,
    /// Its owner: a role whose password stands in the cluster's Secret as `<owner>-password`.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_-]*$"))]
    #[x_kube(validation = Rule::new("!(self in ['superuser', 'replication', 'rewind', 'rest', 'postgres', 'replicator', 'public', 'none']) && !self.startsWith('pg_')").message(
        "superuser, replication, rewind, rest, postgres and replicator are the agent's own, and public, none and pg_* PostgreSQL's; choose another name for the owner"
    ))]
    pub owner: String,
}

/// What happens to the volumes when the object is deleted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum DeletionPolicy {
    /// They stay; a new object of the same name finds its data again.
    #[default]
    Retain,
    /// They are deleted, and the data with them.
    Delete,
}

/// What is the case.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PostgresClusterStatus {
    /// The generation that the rest speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Members there are.
    #[serde(default)]
    pub replicas: i32,
    /// Members that lead or stream, of all: `3/3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// The member that accepts writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Members that may take over without loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sync: Option<String>,
    /// Rises with each failover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// How far the last member is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
    /// PostgreSQL's major version, as the members report it: an image of another one does not fit
    /// the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgresql_major: Option<u32>,
    /// PostgreSQL's system identifier: which history the data belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// Whether etcd was made: its members join from then on and never make a new one.
    #[serde(default)]
    pub etcd_initialized: bool,
    /// How often the managed etcd was rebuilt. Its members' data directories and their cluster's
    /// token bear this number.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub etcd_generation: u32,
    /// The last rebuild of the managed etcd that was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd_rebuild: Option<EtcdRebuild>,
    /// Each member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberStatus>,
    /// `Ready`, `Reconciling`, `Stalled`, `Degraded`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A member.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Its name, also its pod's.
    pub name: String,
    /// `leader`, `sync`, `replica`.
    pub role: String,
    /// `running`, `streaming`, `starting`, ...
    pub state: String,
    /// Its timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// A changed parameter waits for a restart of this member.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending_restart: bool,
}
