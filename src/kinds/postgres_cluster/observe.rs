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
use mrg_dcs::Keys;
use mrg_dcs::wire::{self, MemberData};
use mrg_dcs_etcd::Etcd;
use mrg_election::Cluster;

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
}

/// What etcd says.
pub(super) struct Dcs {
    /// What the election looks at.
    pub cluster: Cluster,
    /// The member keys.
    pub members: BTreeMap<MemberName, MemberData>,
    /// The dynamic configuration and its revision.
    pub config: Option<(i64, serde_json::Value)>,
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
    let keys = Keys::new("service", &desired.scope);
    let dcs = match etcd.read(keys.prefix(), DCS_WITHIN).await {
        Ok((revision, entries)) => {
            let member = |(key, entry): (&String, &wire::Entry)| {
                Some((
                    MemberName::new(key.strip_prefix("members/")?).ok()?,
                    wire::member(entry)?,
                ))
            };
            let config = entries.get("config").and_then(|entry| {
                Some((entry.modified, serde_json::from_slice(&entry.value).ok()?))
            });
            Some(Dcs {
                cluster: wire::cluster(revision, &entries),
                members: entries.iter().filter_map(member).collect(),
                config,
            })
        }
        Err(error) => {
            tracing::debug!(%error, cluster = desired.name, "etcd does not answer");
            None
        }
    };
    Ok(Observed {
        pods,
        etcd_pods,
        dcs,
    })
}
