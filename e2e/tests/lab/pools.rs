//! A crowd of clients behind a write pool and a read pool.

use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DeleteParams;
use mrg_api::pgbouncer_pool::Mode;
use mrg_e2e::{Cluster, Crowd, Namespace, Pool, seconds, small_pool};

mrg_e2e::tests! {
    Together clients_of_a_write_pool_see_no_error_of_a_switchover_and_few_of_a_crash,
    Together clients_of_a_read_pool_with_nothing_under_way_see_no_error_when_a_standby_goes,
}

async fn clients_of_a_write_pool_see_no_error_of_a_switchover_and_few_of_a_crash(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let pool = Pool::create(namespace, "w", &small_pool(&cluster, Mode::Write)).await?;
    let crowd = Crowd::start(&cluster, &pool, 16, &[]).await?;
    for _ in 0..3 {
        cluster.switch_over().await?;
        tokio::time::sleep(seconds(2)).await;
    }
    let seen = crowd.end().await?;
    anyhow::ensure!(
        (seen.in_flight_errors, seen.idle_errors) == (0, 0),
        "a planned switchover cost clients errors: {seen:?}"
    );

    cluster.healthy().await?;
    let crowd = Crowd::start(&cluster, &pool, 14, &[]).await?;
    cluster.kill_postmaster(&cluster.leader().await?).await?;
    none_idle(crowd, "a killed postmaster").await?;

    cluster.healthy().await?;
    let crowd = Crowd::start(&cluster, &pool, 14, &[]).await?;
    let leader = cluster.pod(&cluster.leader().await?).await?;
    namespace.lab.kill_container(&leader)?;
    none_idle(crowd, "a killed container").await?;
    cluster.healthy().await
}

async fn clients_of_a_read_pool_with_nothing_under_way_see_no_error_when_a_standby_goes(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let pool = Pool::create(namespace, "r", &small_pool(&cluster, Mode::Read)).await?;
    // What the clients read: on standbys they could not create it.
    let table = "SET ROLE app; CREATE TABLE crowd (n bigint PRIMARY KEY, at timestamptz)";
    cluster.psql(&cluster.leader().await?, "app", table).await?;
    let crowd = Crowd::start(&cluster, &pool, 10, &["--read-only"]).await?;
    let sync = cluster.status().await?.sync.unwrap_or_default();
    let standby = sync.split(',').next().context("no standby")?;
    namespace
        .api::<Pod>()
        .delete(standby, &DeleteParams::default())
        .await?;
    none_idle(crowd, "a standby that left").await?;
    cluster.healthy().await?;
    pool.serves(seconds(20)).await
}

/// Only those with a transaction under way may see an error.
async fn none_idle(crowd: Crowd, fault: &str) -> anyhow::Result<()> {
    let seen = crowd.end().await?;
    anyhow::ensure!(
        seen.idle_errors == 0,
        "{fault} cost clients that had nothing under way an error: {seen:?}"
    );
    Ok(())
}
