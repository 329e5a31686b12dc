//! What is there: pods, and what etcd says of the members. Reads only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use crate::kinds::postgres_cluster::validate::Desired;
use mrg_base::MemberName;
use mrg_dcs::wire::MemberData;
use mrg_dcs::{ClusterSnapshot, DynamicConfig, InvalidConfig, Store};
use mrg_dcs_etcd::Etcd;
use mrg_election::{Cluster, Revision};

/// How long etcd is waited for; without an answer the rest of the reconciliation goes on.
const DCS_WITHIN: Duration = Duration::from_secs(2);

/// What is there.
pub(super) struct Observed {
    /// The members' pods, by name.
    pub pods: BTreeMap<String, Pod>,
    /// The pods of a managed etcd, by name.
    pub etcd_pods: BTreeMap<String, Pod>,
    /// What etcd says; `None` if it does not answer.
    pub dcs: Option<Dcs>,
    /// The alarms that etcd has raised, in its own words.
    pub etcd_alarms: Vec<String>,
}

/// What etcd says.
pub(super) struct Dcs {
    /// What the election looks at.
    pub cluster: Cluster,
    /// The member keys.
    pub members: BTreeMap<MemberName, MemberData>,
    /// The revision of the dynamic configuration, and itself unless it is no JSON object; `None`
    /// also if it is no JSON at all.
    pub config: Option<(Revision, Option<DynamicConfig>)>,
}

impl From<&ClusterSnapshot> for Dcs {
    fn from(snapshot: &ClusterSnapshot) -> Self {
        let config = snapshot.config().and_then(|key| match &key.value {
            Ok(config) => Some((key.modified, Some(config.clone()))),
            Err(InvalidConfig::NotJson(_)) => None,
            Err(_) => Some((key.modified, None)),
        });
        Self {
            cluster: snapshot.cluster(),
            members: snapshot
                .members()
                .map(|(name, data)| (name.clone(), data.clone()))
                .collect(),
            config,
        }
    }
}

/// The image that the members' template has.
pub(super) fn postgres_image(set: &StatefulSet) -> Option<&str> {
    let containers = &set.spec.as_ref()?.template.spec.as_ref()?.containers;
    containers
        .iter()
        .find(|container| container.name == "postgres")?
        .image
        .as_deref()
}

/// Reads everything.
pub(super) async fn observe(
    client: &Client,
    etcd: &Arc<Etcd>,
    desired: &Desired,
) -> Result<Observed, kube::Error> {
    let selector = format!("mrg.bluebird.id/cluster={}", desired.name);
    let api: Api<Pod> = Api::namespaced(client.clone(), &desired.namespace);
    let (mut pods, mut etcd_pods) = (BTreeMap::new(), BTreeMap::new());
    for pod in api.list(&ListParams::default().labels(&selector)).await? {
        match pod
            .labels()
            .get("app.kubernetes.io/name")
            .map(String::as_str)
        {
            Some("postgres") => pods.insert(pod.name_any(), pod),
            Some("etcd") => etcd_pods.insert(pod.name_any(), pod),
            _ => None,
        };
    }
    let dcs = match etcd.read::<ClusterSnapshot>(DCS_WITHIN).await {
        Ok(snapshot) => Some(Dcs::from(&snapshot)),
        Err(error) => {
            tracing::debug!(%error, cluster = desired.name, "etcd does not answer");
            None
        }
    };
    let etcd_alarms = match &dcs {
        Some(_) => etcd.alarms(DCS_WITHIN).await.unwrap_or_default(),
        None => Vec::new(),
    };
    Ok(Observed {
        pods,
        etcd_pods,
        dcs,
        etcd_alarms,
    })
}
