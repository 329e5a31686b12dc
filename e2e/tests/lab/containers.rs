//! The leader's processes die under load.

use mrg_e2e::{Cluster, Namespace, Writer};

mrg_e2e::tests! {
    Together a_leader_whose_postmaster_or_container_is_killed_is_followed_by_another,
}

async fn a_leader_whose_postmaster_or_container_is_killed_is_followed_by_another(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let writer = Writer::start(&cluster, 10).await?;
    cluster.kill_postmaster(&cluster.leader().await?).await?;
    let gap = writer.end().await?.longest_gap_ms;
    anyhow::ensure!(gap < 4_000, "the lease was waited for: {gap} ms");

    cluster.healthy().await?;
    let leader = cluster.pod(&cluster.leader().await?).await?;
    let writer = Writer::start(&cluster, 12).await?;
    namespace.lab.kill_container(&leader)?;
    let gap = writer.end().await?.longest_gap_ms;
    anyhow::ensure!(gap < 12_000, "{gap} ms");
    cluster.healthy().await
}
