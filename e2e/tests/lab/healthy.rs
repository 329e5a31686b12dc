//! From a specification to three streaming members, and then silence.

use std::collections::BTreeMap;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Resource, ResourceExt};
use mrg_api::PostgresCluster;
use mrg_e2e::{Cluster, Namespace, eventually, seconds};
use serde::de::DeserializeOwned;
use serde_json::json;

mrg_e2e::tests! {
    Together a_settled_cluster_is_not_written_to_and_refuses_what_cannot_change,
}

async fn a_settled_cluster_is_not_written_to_and_refuses_what_cannot_change(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    has_roles(&cluster).await?;
    let leader = cluster.leader().await?;
    anyhow::ensure!(cluster.sql(&leader, "SELECT 1").await? == "1");

    // The last reports of the beginning come in.
    tokio::time::sleep(seconds(8)).await;
    let before = versions(namespace).await?;
    tokio::time::sleep(seconds(12)).await;
    let after = versions(namespace).await?;
    let written: Vec<_> = after
        .iter()
        .filter(|(name, version)| before.get(*name) != Some(*version))
        .collect();
    anyhow::ensure!(
        before == after,
        "a settled cluster was written to: {written:?}"
    );

    refuses(
        &cluster,
        json!({ "storage": { "size": "500Mi" } }),
        "volumes only grow",
    )
    .await?;
    refuses(
        &cluster,
        json!({ "scope": "other" }),
        "the cluster's place in etcd",
    )
    .await
}

async fn has_roles(cluster: &Cluster) -> anyhow::Result<()> {
    eventually(
        "a primary and two replicas by label",
        seconds(20),
        async || {
            let primaries = cluster
                .labelled("mrg.bluebird.id/role=primary")
                .await?
                .len();
            let replicas = cluster
                .labelled("mrg.bluebird.id/role=replica")
                .await?
                .len();
            anyhow::ensure!(
                (primaries, replicas) == (1, 2),
                "{primaries} and {replicas}"
            );
            Ok(())
        },
    )
    .await
}

/// The version of each object that belongs to a cluster, and of the cluster.
async fn versions(namespace: &Namespace) -> anyhow::Result<BTreeMap<String, Option<String>>> {
    let mut versions = BTreeMap::new();
    add::<PostgresCluster>(namespace, "", &mut versions).await?;
    let label = "mrg.bluebird.id/cluster";
    add::<StatefulSet>(namespace, label, &mut versions).await?;
    add::<Service>(namespace, label, &mut versions).await?;
    add::<ConfigMap>(namespace, label, &mut versions).await?;
    add::<Secret>(namespace, label, &mut versions).await?;
    add::<PodDisruptionBudget>(namespace, label, &mut versions).await?;
    add::<ServiceAccount>(namespace, label, &mut versions).await?;
    add::<Pod>(namespace, label, &mut versions).await?;
    anyhow::ensure!(versions.len() > 10, "only {} objects", versions.len());
    Ok(versions)
}

async fn add<K>(
    namespace: &Namespace,
    label: &str,
    versions: &mut BTreeMap<String, Option<String>>,
) -> anyhow::Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let parameters = ListParams::default().labels(label);
    for object in namespace.api::<K>().list(&parameters).await? {
        let name = format!("{}/{}", K::kind(&()), object.name_any());
        versions.insert(name, object.resource_version());
    }
    Ok(())
}

async fn refuses(cluster: &Cluster, change: serde_json::Value, reason: &str) -> anyhow::Result<()> {
    let patch = Patch::Merge(json!({ "spec": change }));
    let clusters = cluster.namespace.api::<PostgresCluster>();
    let said = clusters
        .patch(cluster.name(), &PatchParams::default(), &patch)
        .await;
    match said {
        Ok(_) => anyhow::bail!("{change} was accepted"),
        Err(error) => anyhow::ensure!(error.to_string().contains(reason), "unclear: {error}"),
    }
    Ok(())
}
