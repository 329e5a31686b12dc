//! What the API server cannot check by itself. Everything that can fail about a spec fails here, and becomes a condition.

use std::collections::BTreeSet;

use kube::ResourceExt;

use crate::api::PostgresCluster;
use crate::api::postgres_cluster::PostgresClusterSpec;
use crate::base::{InvalidName, Scope};
use crate::controllers::postgres_cluster::Settings;

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
}

impl Desired {
    /// The Secret with the generated passwords.
    pub fn secret_name(&self) -> String {
        format!("{}-credentials", self.name)
    }

    /// Owners of databases, each once, besides the superuser.
    pub fn owners(&self) -> BTreeSet<String> {
        let owners = self.spec.bootstrap.databases.iter().map(|database| database.owner.clone());
        owners.filter(|owner| owner != "postgres").collect()
    }
}

/// Bytes of a Kubernetes quantity.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let factor: u64 = match &text[digits..] {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(factor)
}

/// Checks a spec.
pub fn validate(settings: &Settings, cluster: &PostgresCluster) -> Result<Desired, Invalid> {
    let spec = cluster.spec.clone();
    let name = cluster.name_any();
    let lag = &spec.failover.maximum_lag_on_failover;
    let quantity = || Invalid::Quantity { field: "spec.failover.maximumLagOnFailover", value: lag.clone() };
    Ok(Desired {
        scope: Scope::new(spec.scope.as_deref().unwrap_or(&name))?,
        namespace: cluster.namespace().unwrap_or_default(),
        uid: cluster.uid().unwrap_or_default(),
        maximum_lag_bytes: bytes(lag).ok_or_else(quantity)?,
        etcd_initialized: cluster.status.as_ref().is_some_and(|status| status.etcd_initialized),
        agent_image: settings.agent_image.clone(),
        agent_pull_policy: settings.agent_pull_policy.clone(),
        priority_class: settings.priority_class.clone(),
        name,
        spec,
    })
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        assert_eq!(bytes("1Mi"), Some(1 << 20));
        assert_eq!(bytes("10G"), Some(10_000_000_000));
        assert_eq!(bytes("1048576"), Some(1 << 20));
        assert_eq!(bytes("1.5Gi"), None);
        assert_eq!(bytes(""), None);
    }
}
