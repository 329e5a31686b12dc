//! What the API server cannot check by itself. Everything that can fail about a spec fails here,
//! and becomes a condition.

use std::collections::BTreeSet;

use kube::ResourceExt;

use crate::kinds::postgres_cluster::Settings;
use crate::quantity::bytes;
use mrg_api::PostgresCluster;
use mrg_api::postgres_cluster::{EtcdRebuild, PostgresClusterSpec, REBUILD_ETCD_ANNOTATION};
use mrg_base::{AgentRoles, InvalidName, Scope, UnusableName, check_owner};

/// Any new value of it on the PostgresCluster gives the databases' owners new passwords.
pub const ROTATE_ANNOTATION: &str = "mrg.bluebird.id/rotate-passwords";

/// A spec that can be built.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The object's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// The cluster's name in etcd.
    pub scope: Scope,
    /// The spec.
    pub spec: PostgresClusterSpec,
    /// `maximumLagOnFailover` in bytes.
    pub maximum_lag_bytes: u64,
    /// Whether etcd was made before.
    pub etcd_initialized: bool,
    /// How often the managed etcd was rebuilt.
    pub etcd_generation: u32,
    /// The last rebuild of it that was requested, as far as it has come.
    pub etcd_rebuild: Option<EtcdRebuild>,
    /// The value of the annotation that requests one.
    pub etcd_rebuild_requested: Option<String>,
    /// The value of the annotation that asks for new passwords.
    pub rotation: Option<String>,
    /// The image with the agent.
    pub agent_image: String,
    /// When it is pulled.
    pub agent_pull_policy: String,
    /// The priority class of database pods.
    pub priority_class: Option<String>,
}

/// Why a spec cannot be built. The last good state keeps running.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The scope is no legal name.
    #[error("spec.scope: {0}")]
    Scope(#[from] InvalidName),
    /// A size cannot be read.
    #[error("{field}: `{value}` is not a size such as 1Mi")]
    Quantity {
        /// The field.
        field: &'static str,
        /// The value.
        value: String,
    },
    /// A database or its owner cannot be made.
    #[error("spec.bootstrap.databases: {field} {source}")]
    Database {
        /// `name` or `owner`.
        field: &'static str,
        /// The name, and why not.
        source: UnusableName,
    },
    /// The image's tag names another major version than the data has.
    #[error(
        "spec.image: `{image}` is PostgreSQL {to} by its tag, and the data is of {from}: a major version cannot be changed in place; set the image back, and move the data by a dump into a new PostgresCluster"
    )]
    MajorVersion {
        /// The image.
        image: String,
        /// What runs.
        from: u32,
        /// What the tag says.
        to: u32,
    },
}

impl Desired {
    /// The Secret with the generated passwords.
    pub fn secret_name(&self) -> String {
        secret_name(&self.name)
    }

    /// The members, by name: their pods.
    pub fn members(&self) -> Vec<String> {
        (0..self.spec.replicas)
            .map(|ordinal| format!("{}-{ordinal}", self.name))
            .collect()
    }

    /// Owners of databases, each once.
    pub fn owners(&self) -> BTreeSet<String> {
        owners(&self.spec)
    }
}

/// The Secret with a cluster's passwords.
pub fn secret_name(cluster: &str) -> String {
    format!("{cluster}-credentials")
}

/// Owners of databases, each once.
pub fn owners(spec: &PostgresClusterSpec) -> BTreeSet<String> {
    spec.bootstrap
        .databases
        .iter()
        .map(|database| database.owner.clone())
        .collect()
}

/// The major version that an image's tag begins with: 17 for `postgres:17.6-bookworm`.
fn tagged_major(image: &str) -> Option<u32> {
    let (_, tag) = image
        .split('@')
        .next()?
        .rsplit('/')
        .next()?
        .split_once(':')?;
    let digits = tag.find(|c: char| !c.is_ascii_digit()).unwrap_or(tag.len());
    tag[..digits].parse().ok()
}

/// Refuses an image whose tag names another major version than the members run. Tags are trusted
/// only if the one of the image that runs now is right; an image that passes all the same is
/// refused by the first member that runs it.
///
/// # Errors
/// [`Invalid::MajorVersion`].
pub fn same_major(
    desired: &Desired,
    runs: Option<u32>,
    running_image: Option<&str>,
) -> Result<(), Invalid> {
    let (Some(from), Some(to)) = (runs, tagged_major(&desired.spec.image)) else {
        return Ok(());
    };
    if from != to && running_image.and_then(tagged_major) == Some(from) {
        return Err(Invalid::MajorVersion {
            image: desired.spec.image.clone(),
            from,
            to,
        });
    }
    Ok(())
}

/// The names that the pods' agents have.
const AGENT_ROLES: AgentRoles<'static> = AgentRoles {
    superuser: "postgres",
    replication: "replicator",
    rewind: None,
};

/// Refuses what an agent would refuse at its start.
fn check_databases(spec: &PostgresClusterSpec) -> Result<(), Invalid> {
    let databases = &spec.bootstrap.databases;
    let refused = |field| move |source| Invalid::Database { field, source };
    let names = databases.iter().map(|database| database.name.as_str());
    mrg_base::check_databases(names).map_err(refused("name"))?;
    for database in databases {
        check_owner(&database.owner, AGENT_ROLES).map_err(refused("owner"))?;
    }
    Ok(())
}

/// Parses a spec, with its defaults filled in.
///
/// # Errors
/// With the field that is wrong and its value.
pub fn validate(settings: &Settings, cluster: &PostgresCluster) -> Result<Desired, Invalid> {
    let spec = cluster.spec.clone();
    let name = cluster.name_any();
    let status = cluster.status.as_ref();
    let annotation = |name: &str| cluster.annotations().get(name).cloned();
    let lag = &spec.failover.maximum_lag_on_failover;
    check_databases(&spec)?;
    let quantity = || Invalid::Quantity {
        field: "spec.failover.maximumLagOnFailover",
        value: lag.clone(),
    };
    Ok(Desired {
        scope: Scope::new(spec.scope.as_deref().unwrap_or(&name))?,
        namespace: cluster.namespace().unwrap_or_default(),
        uid: cluster.uid().unwrap_or_default(),
        maximum_lag_bytes: bytes(lag).ok_or_else(quantity)?,
        etcd_initialized: status.is_some_and(|status| status.etcd_initialized),
        etcd_generation: status.map_or(0, |status| status.etcd_generation),
        etcd_rebuild: status.and_then(|status| status.etcd_rebuild.clone()),
        etcd_rebuild_requested: annotation(REBUILD_ETCD_ANNOTATION),
        rotation: annotation(ROTATE_ANNOTATION),
        agent_image: settings.agent_image.clone(),
        agent_pull_policy: settings.agent_pull_policy.clone(),
        priority_class: settings.priority_class.clone(),
        name,
        spec,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A cluster with these databases, each by its name and its owner.
    pub(in crate::kinds::postgres_cluster) fn with_databases(
        databases: &[(&str, &str)],
    ) -> Result<Desired, Invalid> {
        let database = |(name, owner): &(&str, &str)| json!({ "name": name, "owner": owner });
        let databases: Vec<_> = databases.iter().map(database).collect();
        let object: PostgresCluster = serde_json::from_value(json!({
            "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "PostgresCluster", "metadata": { "name": "c", "namespace": "n" },
            "spec": {
                "replicas": 3, "image": "i", "storage": { "size": "1Gi" }, "etcd": { "managed": { "image": "i" } },
                "bootstrap": { "databases": databases },
            },
        }))
        .unwrap();
        let settings = Settings {
            agent_image: "i".to_owned(),
            agent_pull_policy: "Never".to_owned(),
            priority_class: None,
        };
        validate(&settings, &object)
    }

    #[test]
    fn an_owner_that_would_share_a_name_with_the_agent_is_refused() {
        assert!(with_databases(&[("a", "app"), ("b", "app"), ("c", "a-b"), ("d", "a_b")]).is_ok());
        for owner in [
            "superuser",
            "replication",
            "rest",
            "postgres",
            "replicator",
            "pg_monitor",
        ] {
            let refusal = with_databases(&[("a", owner)]).unwrap_err().to_string();
            let expected = format!("spec.bootstrap.databases: owner `{owner}`");
            assert!(refusal.starts_with(&expected), "{refusal}");
        }
        for names in [[("a", "x"), ("a", "y")], [("postgres", "x"), ("a", "y")]] {
            let refusal = with_databases(&names).unwrap_err();
            assert!(
                matches!(refusal, Invalid::Database { field: "name", .. }),
                "{refusal}"
            );
        }
    }

    #[test]
    fn the_major_version_is_read_from_the_tag_alone() {
        assert_eq!(
            tagged_major("localhost:5000/postgres:17.6-bookworm"),
            Some(17)
        );
        assert_eq!(
            tagged_major("registry.example/pg/postgres:16@sha256:0123"),
            Some(16)
        );
        assert_eq!(tagged_major("localhost:5000/postgres"), None);
        assert_eq!(tagged_major("postgres:latest"), None);
    }
}
