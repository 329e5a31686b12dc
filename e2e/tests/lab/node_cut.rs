//! The leader's node loses its network, in both directions or in one.

use anyhow::Context;
use mrg_e2e::{Cluster, Cut, Namespace, Writer, seconds};

mrg_e2e::tests! {
    Alone a_leader_whose_node_is_cut_off_is_replaced_and_streams_again_when_it_is_back,
}

async fn a_leader_whose_node_is_cut_off_is_replaced_and_streams_again_when_it_is_back(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    for cut in [Cut::BothWays, Cut::Outwards, Cut::Inwards] {
        let leader = cluster.pod(&cluster.leader().await?).await?;
        let node = leader
            .spec
            .and_then(|spec| spec.node_name)
            .context("no node")?;
        namespace.note(format!("the leader's {node} is cut off: {cut:?}"));
        let writer = Writer::start(&cluster, 20).await?;
        let cut_off = namespace.lab.cut(&node, cut)?;
        tokio::time::sleep(seconds(14)).await;
        drop(cut_off);
        let gap = writer.end().await?.longest_gap_ms;
        anyhow::ensure!(gap < 10_000, "{cut:?}: {gap} ms");
        cluster.healthy().await?;
    }
    Ok(())
}
