//! The etcd of a cluster loses a volume, or every container.

use anyhow::Context;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::DeleteParams;
use mrg_e2e::{Cluster, Namespace, Writer, eventually, seconds};

mrg_e2e::tests! {
    Together an_etcd_member_without_its_volume_joins_again_and_no_client_notices,
    Together a_leader_goes_on_while_every_etcd_container_dies_and_comes_back,
}

async fn an_etcd_member_without_its_volume_joins_again_and_no_client_notices(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let writer = Writer::start(&cluster, 25).await?;
    let name = cluster.etcd_name(0);
    let claims = namespace.api::<PersistentVolumeClaim>();
    let claim = claims.get(&format!("data-{name}")).await?;
    let volume = claim
        .spec
        .and_then(|spec| spec.volume_name)
        .context("the claim is not bound")?;
    namespace.lab.empty_volume(&volume).await?;
    let pods = namespace.api::<Pod>();
    let old = pods.get(&name).await?.metadata.uid;
    pods.delete(&name, &DeleteParams::default().grace_period(0))
        .await?;
    eventually("the member is back", seconds(60), async || {
        let pod = pods.get(&name).await?;
        anyhow::ensure!(pod.metadata.uid != old, "it is the old pod");
        let containers = pod.status.and_then(|status| status.container_statuses);
        let ready = containers.iter().flatten().any(|container| container.ready);
        anyhow::ensure!(ready, "{containers:?}");
        Ok(())
    })
    .await?;
    let gap = writer.end().await?.longest_gap_ms;
    anyhow::ensure!(gap < 5_000, "{gap} ms");
    let members = cluster.etcdctl(1, &["member", "list"]).await?;
    anyhow::ensure!(members.matches("started").count() == 3, "{members}");
    cluster.healthy().await
}

async fn a_leader_goes_on_while_every_etcd_container_dies_and_comes_back(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let leader = cluster.leader().await?;
    let writer = Writer::start(&cluster, 30).await?;
    for ordinal in 0..3 {
        let pod = cluster.pod(&cluster.etcd_name(ordinal)).await?;
        namespace.lab.kill_container(&pod)?;
    }
    tokio::time::sleep(seconds(5)).await;
    for ordinal in 0..3 {
        let pod = cluster.pod(&cluster.etcd_name(ordinal)).await?;
        // One that waits before it starts again is dead already.
        if let Err(error) = namespace.lab.kill_container(&pod) {
            namespace.note(format!("not killed twice: {error:#}"));
        }
    }
    let gap = writer.end().await?.longest_gap_ms;
    anyhow::ensure!(gap < 3_000, "the leader did not go on: {gap} ms");
    let now = cluster.leader().await?;
    anyhow::ensure!(now == leader, "the lead moved from {leader} to {now}");
    cluster.healthy().await
}
