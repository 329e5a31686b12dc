//! The leader's agent stands still past its lease, as a machine under a hypervisor may.

use mrg_e2e::{Cluster, Namespace, Writer, seconds};

mrg_e2e::tests! {
    Together a_leader_whose_agent_stops_is_fenced_before_another_leads,
}

/// Its fence has killed postgres before any other could lead, and it comes back as a standby.
async fn a_leader_whose_agent_stops_is_fenced_before_another_leads(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let leader = cluster.leader().await?;
    let pod = cluster.pod(&leader).await?;
    let writer = Writer::start(&cluster, 20).await?;
    let stopped = namespace.lab.stop_process(&pod)?;
    tokio::time::sleep(seconds(9)).await;
    anyhow::ensure!(
        !stopped.has_child("postgres -D")?,
        "postgres outlived the lease"
    );
    cluster.led_by_another_than(&leader, seconds(10)).await?;
    drop(stopped);
    let gap = writer.end().await?.longest_gap_ms;
    anyhow::ensure!(gap < 9_000, "{gap} ms");
    cluster.healthy().await
}
