//! A changed parameter reaches every member.

use mrg_api::postgres_cluster::ParameterValue;
use mrg_e2e::{Cluster, Namespace, Writer, seconds, small_cluster};

mrg_e2e::tests! {
    Together a_parameter_is_reloaded_or_rolled_with_the_leader_last_after_a_switchover,
}

async fn a_parameter_is_reloaded_or_rolled_with_the_leader_last_after_a_switchover(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let mut spec = small_cluster();
    let mut set = async |name: &str, value: &str| {
        let value = ParameterValue(value.to_owned());
        spec.postgresql.parameters.insert(name.to_owned(), value);
        cluster.apply(&spec).await
    };
    set("work_mem", "8MB").await?;
    cluster.all_show("work_mem", "8MB", seconds(30)).await?;

    let leader = cluster.leader().await?;
    let writer = Writer::start(&cluster, 40).await?;
    set("max_connections", "60").await?;
    cluster
        .all_show("max_connections", "60", seconds(100))
        .await?;
    let gap = writer.end().await?.longest_gap_ms;
    anyhow::ensure!(
        cluster.leader().await? != leader,
        "{leader} was restarted without a switchover"
    );
    anyhow::ensure!(gap < 5_000, "{gap} ms");
    cluster.healthy().await
}
