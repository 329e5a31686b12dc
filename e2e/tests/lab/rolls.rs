//! A changed parameter reaches every member: by etcd, or mounted if it executes or loads code.

use mrg_api::postgres_cluster::ParameterValue;
use mrg_e2e::{Cluster, Namespace, Writer, seconds, small_cluster};

mrg_e2e::tests! {
    Together a_parameter_is_reloaded_or_rolled_with_the_leader_last_after_a_switchover,
    Together a_command_reaches_postgresql_through_the_configmap_and_never_through_etcd,
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

async fn a_command_reaches_postgresql_through_the_configmap_and_never_through_etcd(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let mut spec = small_cluster();
    let mut set = async |parameters: &[(&str, &str)]| {
        for (name, value) in parameters {
            let value = ParameterValue((*value).to_owned());
            spec.postgresql.parameters.insert((*name).to_owned(), value);
        }
        cluster.apply(&spec).await
    };
    set(&[("archive_mode", "on"), ("archive_command", "true")]).await?;
    // The kubelets bring the ConfigMap, then the members are restarted one by one.
    cluster.all_show("archive_mode", "on", seconds(300)).await?;
    cluster
        .all_show("archive_command", "true", seconds(10))
        .await?;
    cluster.healthy().await?;

    set(&[("archive_command", "test -f %p")]).await?;
    cluster
        .all_show("archive_command", "test -f %p", seconds(180))
        .await?;
    let key = format!("/service/{}/config", cluster.name());
    let stored = cluster
        .etcdctl(0, &["get", &key, "--print-value-only"])
        .await?;
    anyhow::ensure!(
        stored.contains("archive_mode") && !stored.contains("archive_command"),
        "{stored}"
    );

    // What is written into etcd is neither run nor loaded.
    let hostile = stored.replace(
        "\"archive_mode\":\"on\"",
        "\"archive_mode\":\"on\",\"restore_command\":\"id\",\"shared_preload_libraries\":\"nope\"",
    );
    anyhow::ensure!(hostile != stored, "{stored}");
    cluster.etcdctl(0, &["put", &key, hostile.trim()]).await?;
    cluster.healthy().await?;
    cluster.all_show("restore_command", "", seconds(10)).await?;
    cluster
        .all_show("shared_preload_libraries", "", seconds(10))
        .await
}
