//! `PgBouncerPool`: PgBouncer pods whose connections follow the leader, or the standbys that keep up.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;
use crate::postgres_cluster::Scheduling;

/// A pool of connections to a PostgresCluster.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "mrg.bluebird.id",
    version = "v1alpha1",
    kind = "PgBouncerPool",
    plural = "pgbouncerpools",
    shortname = "pgb",
    category = "mrg",
    doc = "A pool of connections to a PostgresCluster. A write pool follows the leader and holds its clients while there is none; a read pool spreads over the standbys that keep up.",
    namespaced,
    status = "PgBouncerPoolStatus",
    derive = "PartialEq",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "Pods whose clients work or wait, of all"),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Target", type_ = "string", json_path = ".status.target", description = "The members that clients reach"),
    printcolumn(name = "Clients", type_ = "integer", json_path = ".status.clients", description = "Client connections, about"),
    printcolumn(name = "Waiting", type_ = "integer", json_path = ".status.waiting", description = "Clients that are held, or wait for a server for long"),
    printcolumn(name = "Last Rewire", type_ = "string", json_path = ".status.lastRewire.summary", description = "What the last hold was for, and how long it was"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 50").message(
        "metadata.name is longer than 50 characters; pods and Services add to it: choose a shorter name"
    ),
)]
#[x_kube(
    validation = Rule::new("self.mode == 'Read' || !has(self.read)").message(
        "spec.read belongs to a pool of mode Read; remove it, or set spec.mode: Read"
    ),
    validation = Rule::new("self.mode == oldSelf.mode").message(
        "spec.mode cannot change: clients of a write pool would suddenly meet a standby; create another PgBouncerPool"
    ),
    validation = Rule::new("!has(self.port) || self.port != 8009").message(
        "spec.port 8009 is where the pooler serves its metrics; choose another, 6432 for writes and 6433 for reads are usual"
    ),
    validation = Rule::new("self.databases.all(a, self.databases.exists_one(b, b.name == a.name))").message(
        "spec.databases has a name twice; clients could not tell them apart"
    ),
)]
pub struct PgBouncerPoolSpec {
    /// The PostgresCluster, in the same namespace.
    pub cluster_ref: ClusterRef,

    /// `Write`: clients reach the leader. `Read`: clients reach standbys.
    pub mode: Mode,

    /// Where clients connect; 6432 for `Write` and 6433 for `Read` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1024, max = 65535))]
    pub port: Option<u16>,

    /// Pods.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 50))]
    pub replicas: i32,

    /// PgBouncer processes in each pod; each uses one core at most.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 16))]
    pub processes: u16,

    /// An image with PgBouncer 1.21 or newer on its PATH. The pooler is copied into the pod by an
    /// init container.
    #[schemars(length(min = 1, max = 300))]
    pub image: String,

    /// The user that PgBouncer runs as.
    #[serde(default = "user")]
    #[schemars(range(min = 1))]
    pub run_as_user: i64,

    /// When a server connection goes back to the pool.
    #[serde(default)]
    pub pool_mode: PoolMode,

    /// Client connections in a pod.
    #[serde(default = "thousand")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_client_connections: u32,

    /// Server connections for each database and user, in a pod.
    #[serde(default = "fifty")]
    #[schemars(range(min = 1, max = 10_000))]
    pub default_pool_size: u32,

    /// Users beside the owners of the cluster's databases; the password of `app` stands in the
    /// cluster's Secret as `app-password`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 63)))]
    #[x_kube(validation = Rule::new("!self.exists(u, u in ['superuser', 'replication', 'rewind', 'rest'])").message(
        "superuser, replication, rewind and rest are the keys of the agent's own passwords, which no pool gets; choose another name for the user"
    ))]
    pub users: Vec<String>,

    /// The databases as clients name them.
    #[schemars(length(min = 1, max = 50))]
    pub databases: Vec<Alias>,

    /// Other settings of PgBouncer, as in its `pgbouncer.ini`; those that the pooler makes itself
    /// are refused.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 60))]
    #[x_kube(validation = Rule::new("!self.exists(k, k in ['listen_addr', 'listen_port', 'unix_socket_dir', 'auth_type', 'auth_file', 'auth_hba_file', 'auth_query', 'auth_user', 'auth_dbname', 'admin_users', 'stats_users', 'peer_id', 'so_reuseport', 'min_pool_size', 'server_login_retry', 'logfile', 'pidfile', 'user'])").message(
        "one of listen_addr, listen_port, unix_socket_dir, auth_*, admin_users, stats_users, peer_id, so_reuseport, min_pool_size, server_login_retry, logfile, pidfile, user is set; the pooler makes these settings itself: remove it"
    ))]
    #[x_kube(validation = Rule::new("!self.exists(k, k in ['pool_mode', 'max_client_conn', 'default_pool_size'])").message(
        "pool_mode, max_client_conn and default_pool_size have fields of their own: spec.poolMode, spec.maxClientConnections, spec.defaultPoolSize"
    ))]
    #[x_kube(validation = Rule::new("!('transaction_timeout' in self)").message(
        "transaction_timeout would end the session that keeps the pool patient during a failover; set PostgreSQL's own transaction_timeout in the PostgresCluster"
    ))]
    pub settings: BTreeMap<String, SettingValue>,

    /// What clients notice of a planned switchover.
    #[serde(default)]
    pub switchover: Switchover,

    /// What clients notice of a failover.
    #[serde(default)]
    pub failover: Failover,

    /// Which standbys a read pool uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Read>,

    /// Certificates for clients; without it they connect without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,

    /// How long a stopping pod waits for its clients to go.
    #[serde(default = "drain")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("spec.drain is longer than 1h"))]
    pub drain: Duration,

    /// Resources of the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Where pods may run.
    #[serde(default)]
    pub scheduling: Scheduling,
}

fn one() -> u16 {
    1
}

fn two() -> i32 {
    2
}

fn fifty() -> u32 {
    50
}

fn thousand() -> u32 {
    1000
}

fn user() -> i64 {
    999
}

fn drain() -> Duration {
    Duration::seconds(30)
}

fn max_wait() -> Duration {
    Duration::seconds(5)
}

fn max_hold() -> Duration {
    Duration::seconds(60)
}

/// A PostgresCluster in the same namespace.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ClusterRef {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// Whom clients reach.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Mode {
    /// The leader.
    Write,
    /// Standbys.
    Read,
}

/// When a server connection goes back to the pool.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum PoolMode {
    /// When the client goes.
    Session,
    /// After each transaction.
    #[default]
    Transaction,
    /// After each statement.
    Statement,
}

/// A database as clients name it.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Alias {
    /// The name that clients use.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z_][a-z0-9_-]*$"))]
    pub name: String,
    /// Its name on the server.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
}

/// A setting's value, as text: quote numbers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct SettingValue(#[schemars(length(max = 1000), regex(pattern = r"^[^\n]*$"))] pub String);

/// What clients notice of a planned switchover.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.maxWait) <= duration('5m')").message("spec.switchover.maxWait is longer than 5m: so long a switchover would hold everybody for one transaction"))]
pub struct Switchover {
    /// How long the leader waits for transactions that are under way.
    #[serde(default = "max_wait")]
    pub max_wait: Duration,
    /// What happens if they do not end.
    #[serde(default)]
    pub on_timeout: OnTimeout,
}

impl Default for Switchover {
    fn default() -> Self {
        Self {
            max_wait: max_wait(),
            on_timeout: OnTimeout::default(),
        }
    }
}

/// What happens to a switchover when transactions do not end.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum OnTimeout {
    /// They are cut; each costs its client one error.
    #[default]
    Cut,
    /// The switchover is given up, and the leader stays. A leader that has to stop (a drained node)
    /// cuts them all the same.
    Abandon,
}

/// What clients notice of a failover.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.maxHold) >= duration('1s') && duration(self.maxHold) <= duration('10m')").message(
    Message::Expression("'spec.failover.maxHold ' + self.maxHold + ' is not between 1s and 10m; it should be longer than the failover of the cluster takes'".into())
))]
pub struct Failover {
    /// How long clients are held while no server is confirmed; then they are turned away until one
    /// is.
    #[serde(default = "max_hold")]
    pub max_hold: Duration,
}

impl Default for Failover {
    fn default() -> Self {
        Self {
            max_hold: max_hold(),
        }
    }
}

/// Which standbys a read pool uses.
#[derive(KubeSchema, Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.maxLag.matches('^([0-9]+(ms|s|m|h))+$') || isQuantity(self.maxLag)").message(
    Message::Expression("'spec.read.maxLag ' + self.maxLag + ' is neither a size such as 16Mi nor a time such as 2s'".into())
))]
pub struct Read {
    /// How far a standby may be behind: bytes of WAL (`16Mi`) or age (`2s`).
    #[serde(default = "max_lag")]
    #[schemars(length(min = 1, max = 32))]
    pub max_lag: String,
    /// What clients get when no standby is near enough.
    #[serde(default)]
    pub fallback: Fallback,
}

fn max_lag() -> String {
    "16Mi".to_owned()
}

impl Default for Read {
    fn default() -> Self {
        Self {
            max_lag: max_lag(),
            fallback: Fallback::default(),
        }
    }
}

/// What clients of a read pool get when no standby is near enough.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Fallback {
    /// The leader.
    #[default]
    Primary,
    /// Nothing: they are held for `maxHold`, and turned away then.
    Refuse,
}

/// Certificates for clients.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// A Secret of type `kubernetes.io/tls`, with `tls.crt` and `tls.key`. Clients must use TLS
    /// then.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// What is the case.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PgBouncerPoolStatus {
    /// The generation that the rest speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods there are.
    #[serde(default)]
    pub replicas: i32,
    /// Pods whose clients work or wait, of all: `2/2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<String>,
    /// The members that clients reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Where that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Client connections when the status was last written.
    #[serde(default)]
    pub clients: i64,
    /// Clients that were held then, or had waited for a server for a second or more.
    #[serde(default)]
    pub waiting: i64,
    /// The last time that clients were let through again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rewire: Option<LastRewire>,
    /// Each pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodStatus>,
    /// Ready, Reconciling, Stalled, Degraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A hold that ended: the longest among the pods.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastRewire {
    /// What began it.
    pub cause: String,
    /// How long clients waited, in milliseconds.
    pub held_milliseconds: i64,
    /// How many clients there were.
    pub clients: i64,
    /// When it ended.
    pub at: String,
    /// The above in a few words.
    pub summary: String,
}

/// A pod.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Its name.
    pub name: String,
    /// Why its clients wait, or `Confirmed`.
    pub why: String,
    /// Counts what it was told to do since it started.
    pub generation: i64,
    /// The members that its clients reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}
