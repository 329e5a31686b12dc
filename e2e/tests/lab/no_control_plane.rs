//! The leader dies while nothing of Kubernetes answers.

use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams};
use mrg_e2e::{Cluster, Namespace, Writer};
use serde_json::json;

mrg_e2e::tests! {
    Alone a_failover_needs_neither_the_control_plane_nor_the_operator,
}

async fn a_failover_needs_neither_the_control_plane_nor_the_operator(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let leader = cluster.pod(&cluster.leader().await?).await?;
    scale_operator(namespace, 0).await?;
    let outcome = fail_over_unattended(&cluster, &leader).await;
    scale_operator(namespace, 2).await?;
    let gap = outcome?;
    anyhow::ensure!(gap < 10_000, "{gap} ms");
    cluster.healthy().await
}

/// The longest gap in milliseconds.
async fn fail_over_unattended(
    cluster: &Cluster,
    leader: &k8s_openapi::api::core::v1::Pod,
) -> anyhow::Result<u64> {
    let writer = Writer::start(cluster, 14).await?;
    let gone = cluster.namespace.lab.stop_control_plane()?;
    cluster.namespace.lab.kill_container(leader)?;
    let writes = writer.end().await;
    drop(gone);
    Ok(writes?.longest_gap_ms)
}

async fn scale_operator(namespace: &Namespace, replicas: i32) -> anyhow::Result<()> {
    let deployments: Api<Deployment> = namespace.lab.operator();
    let patch = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    deployments
        .patch("mrg-operator", &PatchParams::default(), &patch)
        .await?;
    Ok(())
}
