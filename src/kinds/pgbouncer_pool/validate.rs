//! What the API server cannot check by itself: the cluster, the settings' names, the sums.

use std::collections::BTreeSet;

use kube::ResourceExt;

use crate::kinds::postgres_cluster::{self, Settings};
use crate::quantity::bytes;
use mrg_api::pgbouncer_pool::{Mode, PgBouncerPoolSpec};
use mrg_api::{Duration, PgBouncerPool, PostgresCluster};
use mrg_base::{AGENT_PASSWORDS, InvalidName, Millis, Scope};
use mrg_pgbouncer::{RESERVED_SETTINGS, is_known_setting, is_one_line};

/// A spec that can be built.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    /// The object's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// The cluster's name in etcd.
    pub scope: Scope,
    /// Where etcd is.
    pub etcd: Vec<String>,
    /// The Secret with the passwords.
    pub secret: String,
    /// The users.
    pub users: BTreeSet<String>,
    /// The port for clients.
    pub port: u16,
    /// How far a standby may be behind.
    pub max_lag: MaxLag,
    /// The spec.
    pub spec: PgBouncerPoolSpec,
    /// The image with the pooler.
    pub pooler_image: String,
    /// When it is pulled.
    pub pooler_pull_policy: String,
    /// The priority class.
    pub priority_class: Option<String>,
}

/// How far a standby may be behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MaxLag {
    /// In bytes.
    Bytes(u64),
    /// In time.
    Time(Millis),
}

/// Why a spec cannot be built. The last good state keeps running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Invalid {
    /// There is no such cluster.
    #[error(
        "spec.clusterRef.name: there is no PostgresCluster `{0}` in this namespace; it is picked up when it appears"
    )]
    NoCluster(String),
    /// A Secret is not there.
    #[error("the Secret `{0}` is not there; it is picked up when it appears")]
    NoSecret(String),
    /// A Secret lacks what is needed of it.
    #[error("the Secret `{secret}` has no `{key}`, or it is empty; add it")]
    Malformed {
        /// Which.
        secret: String,
        /// What.
        key: String,
    },
    /// The cluster's scope is no legal name.
    #[error("the PostgresCluster's spec.scope: {0}")]
    Scope(#[from] InvalidName),
    /// The cluster has nobody who could log in.
    #[error(
        "the PostgresCluster `{0}` has no database with an owner of its own, so nobody could log in; add one to its spec.bootstrap.databases before it is made"
    )]
    NoUser(String),
    /// A user whose password in the Secret is the agent's own.
    #[error(
        "spec.users: `{0}-password` in the Secret is the agent's own password, which no pool gets; choose another name for the user"
    )]
    User(String),
    /// A name would collide.
    #[error(
        "metadata.name: `{0}` is a Service of the PostgresCluster itself; choose another name, such as `{0}-pool`"
    )]
    Name(String),
    /// A setting of PgBouncer that cannot be made.
    #[error("spec.settings.{name}: {why}")]
    Setting {
        /// Which.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// The lag is neither a size nor a time.
    #[error("spec.read.maxLag: `{0}` is neither a size such as 16Mi nor a time such as 2s")]
    MaxLag(String),
}

impl Invalid {
    /// The reason in one word.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Invalid::NoCluster(_) => "ClusterNotFound",
            Invalid::NoSecret(_) => "SecretNotFound",
            Invalid::Malformed { .. } => "SecretMalformed",
            _ => "InvalidSpec",
        }
    }

    /// Whether the spec is right and only something that it names is not there yet.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self, Invalid::NoCluster(_) | Invalid::NoSecret(_))
    }
}

/// Checks a spec.
pub(super) fn validate(
    settings: &Settings,
    pool: &PgBouncerPool,
    cluster: Option<&PostgresCluster>,
) -> Result<Desired, Invalid> {
    let spec = pool.spec.clone();
    let cluster = cluster.ok_or_else(|| Invalid::NoCluster(spec.cluster_ref.name.clone()))?;
    let of = postgres_cluster::connection(cluster)?;
    let name = pool.name_any();
    for suffix in ["rw", "ro", "members", "etcd"] {
        if name == format!("{}-{suffix}", spec.cluster_ref.name) {
            return Err(Invalid::Name(name));
        }
    }
    for (name, value) in &spec.settings {
        let refuse = |why| {
            Err(Invalid::Setting {
                name: name.clone(),
                why,
            })
        };
        if RESERVED_SETTINGS.contains(&name.as_str()) {
            return refuse("the pooler makes this setting itself; remove it");
        }
        if !is_known_setting(name) {
            return refuse("PgBouncer has no such setting; see its manual for the names");
        }
        if !is_one_line(&value.0) {
            return refuse(
                "its value begins or ends with a blank, or has a control character; remove it",
            );
        }
    }
    if of.users.is_empty() {
        return Err(Invalid::NoUser(spec.cluster_ref.name));
    }
    let users: BTreeSet<String> = of
        .users
        .into_iter()
        .chain(spec.users.iter().cloned())
        .collect();
    if let Some(user) = users
        .iter()
        .find(|user| AGENT_PASSWORDS.contains(&user.as_str()))
    {
        return Err(Invalid::User(user.clone()));
    }
    let lag = spec.read.clone().unwrap_or_default().max_lag;
    let max_lag = match (bytes(&lag), Duration::try_from(lag.clone())) {
        (Some(bytes), _) => MaxLag::Bytes(bytes),
        (None, Ok(age)) => MaxLag::Time(age.0),
        (None, Err(_)) => return Err(Invalid::MaxLag(lag)),
    };
    Ok(Desired {
        namespace: pool.namespace().unwrap_or_default(),
        uid: pool.uid().unwrap_or_default(),
        scope: of.scope,
        etcd: of.etcd,
        secret: of.secret,
        users,
        port: spec
            .port
            .unwrap_or(if spec.mode == Mode::Write { 6432 } else { 6433 }),
        max_lag,
        pooler_image: settings.agent_image.clone(),
        pooler_pull_policy: settings.agent_pull_policy.clone(),
        priority_class: settings.priority_class.clone(),
        name,
        spec,
    })
}

/// What is needed of Secrets: their names and keys.
pub(super) fn needed(desired: &Desired) -> Vec<(&str, String)> {
    let passwords = desired
        .users
        .iter()
        .map(|user| (desired.secret.as_str(), format!("{user}-password")));
    let tls = desired.spec.tls.iter().flat_map(|tls| {
        ["tls.crt", "tls.key"].map(|key| (tls.secret_name.as_str(), key.to_owned()))
    });
    passwords.chain(tls).collect()
}

/// Connections that the server keeps for the superuser, and those of the agent and the poolers'
/// own.
const SET_ASIDE: u64 = 10;
/// PostgreSQL's default.
const MAX_CONNECTIONS: u64 = 100;

/// What the pools of a cluster could open at one server together, if that is more than it takes.
pub(super) fn overcommitment(
    cluster: &PostgresCluster,
    users: usize,
    pools: &[&PgBouncerPool],
) -> Option<String> {
    let parameters = &cluster.spec.postgresql.parameters;
    let most = parameters
        .get("max_connections")
        .and_then(|value| value.0.parse().ok())
        .unwrap_or(MAX_CONNECTIONS);
    let could_open = |pool: &&PgBouncerPool| {
        let each =
            u64::from(pool.spec.default_pool_size) * (pool.spec.databases.len() * users) as u64;
        (
            pool.name_any(),
            each * u64::try_from(pool.spec.replicas).unwrap_or(0),
            pool.spec.replicas,
            each,
        )
    };
    let mut pools: Vec<_> = pools.iter().map(could_open).collect();
    pools.sort();
    let sum: u64 = pools.iter().map(|(_, all, ..)| all).sum();
    let terms: Vec<String> = pools
        .iter()
        .map(|(name, all, pods, each)| format!("{name}: {pods} pods x {each} = {all}"))
        .collect();
    (sum + SET_ASIDE > most).then(|| {
        format!(
            "the pools of {} could open {sum} connections at one server ({}), and max_connections {most} leaves {}; lower spec.defaultPoolSize or raise max_connections",
            cluster.name_any(),
            terms.join(", "),
            most.saturating_sub(SET_ASIDE)
        )
    })
}
