//! A read pool and standbys that stop replaying.

use std::collections::BTreeSet;

use anyhow::Context;
use k8s_openapi::api::apps::v1::Deployment;
use mrg_api::Duration;
use mrg_api::pgbouncer_pool::{Failover, Fallback, Mode, PgBouncerPoolSpec, Read};
use mrg_e2e::{Cluster, Namespace, Pool, eventually, seconds, small_pool};

mrg_e2e::tests! {
    Together a_read_pool_leaves_laggards_for_the_leader_or_refuses_and_comes_back,
}

async fn a_read_pool_leaves_laggards_for_the_leader_or_refuses_and_comes_back(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let pool = Pool::create(namespace, "l", &laggards(&cluster, Fallback::Primary)).await?;
    let leader = cluster.leader().await?;
    let [one, two] = <[String; 2]>::try_from(cluster.standbys().await?)
        .map_err(|standbys| anyhow::anyhow!("not two standbys: {standbys:?}"))?;
    let readers = Readers { cluster, leader };
    readers.are(&[&one, &two], seconds(30)).await?;

    readers.pause(&one).await?;
    let began = std::time::Instant::now();
    readers.are(&[&two], seconds(10)).await?;
    let left = began.elapsed().as_millis();
    namespace.note(format!("left after {left} ms, six reads included"));
    readers.pause(&two).await?;
    readers.are(&[&readers.leader], seconds(10)).await?;
    let target = pool.object().await?.status.and_then(|status| status.target);
    anyhow::ensure!(
        target.as_ref() == Some(&readers.leader),
        "target: {target:?}"
    );

    // The pool's new pods find a server first: until then its old ones go on as before.
    readers.resume(&one).await?;
    readers.are(&[&one], seconds(20)).await?;
    pool.apply(&laggards(&readers.cluster, Fallback::Refuse))
        .await?;
    rolled_out(namespace, &pool).await?;
    readers.are(&[&one], seconds(20)).await?;
    readers.pause(&one).await?;
    let refused = readers.are_refused().await?;
    namespace.note(format!("clients are told: {refused:?}"));
    readers.resume(&one).await?;
    readers.are(&[&one], seconds(20)).await?;
    readers.resume(&two).await?;
    readers.are(&[&one, &two], seconds(20)).await
}

fn laggards(cluster: &Cluster, fallback: Fallback) -> PgBouncerPoolSpec {
    PgBouncerPoolSpec {
        replicas: 1,
        read: Some(Read {
            max_lag: "1Mi".to_owned(),
            fallback,
        }),
        failover: Failover {
            max_hold: Duration::seconds(3),
        },
        ..small_pool(cluster, Mode::Read)
    }
}

async fn rolled_out(namespace: &Namespace, pool: &Pool) -> anyhow::Result<()> {
    pool.serves(seconds(60)).await?;
    eventually("the pool's new pods", seconds(60), async || {
        let deployment = namespace.api::<Deployment>().get("l").await?;
        let status = deployment.status.context("no status")?;
        let new = status.observed_generation == deployment.metadata.generation
            && status.updated_replicas == Some(1)
            && status.replicas == Some(1)
            && status.available_replicas == Some(1);
        anyhow::ensure!(new, "{status:?}");
        Ok(())
    })
    .await
}

/// Clients of the pool, in the leader's pod.
struct Readers {
    cluster: Cluster,
    leader: String,
}

impl Readers {
    /// Which servers answer a few clients at once, since one after another they would share a
    /// connection; an error's text instead.
    async fn answers(&self) -> anyhow::Result<BTreeSet<String>> {
        let password = self.cluster.password("app-password").await?;
        let script = format!(
            "export PGPASSWORD='{password}' PGCONNECT_TIMEOUT=20
             for _ in 1 2 3 4 5 6; do
               psql -h l -p 6433 -U app -d mrg_read -Atqc \
                 'SELECT inet_server_addr() FROM pg_sleep(0.3)' 2>&1 &
             done
             wait"
        );
        let command = ["bash", "-c", &script];
        let namespace = &self.cluster.namespace;
        let printed = namespace
            .execute(&self.leader, "postgres", &command)
            .await?;
        Ok(printed.lines().map(str::to_owned).collect())
    }

    /// Waits until these members, and no other, answer.
    async fn are(&self, members: &[&str], within: std::time::Duration) -> anyhow::Result<()> {
        let mut expected = BTreeSet::new();
        for member in members {
            let status = self.cluster.pod(member).await?.status.unwrap_or_default();
            expected.insert(status.pod_ip.context("no address")?);
        }
        let what = format!("reads come from {}", members.join(" and "));
        eventually(&what, within, async || {
            let answers = self.answers().await?;
            anyhow::ensure!(answers == expected, "{answers:?}, not {expected:?}");
            Ok(())
        })
        .await
    }

    /// Waits until clients get an error, and returns what they got.
    async fn are_refused(&self) -> anyhow::Result<BTreeSet<String>> {
        eventually("clients are refused", seconds(100), async || {
            let answers = self.answers().await?;
            let words = ["no server", "paus", "rror"];
            let refused = answers
                .iter()
                .any(|line| words.iter().any(|word| line.contains(word)));
            anyhow::ensure!(refused, "{answers:?}");
            Ok(answers)
        })
        .await
    }

    /// Has a standby stop replaying, and the leader write more than it may be behind.
    async fn pause(&self, standby: &str) -> anyhow::Result<()> {
        self.cluster
            .sql(standby, "SELECT pg_wal_replay_pause()")
            .await?;
        let write = "CREATE TABLE IF NOT EXISTS lag (x text);
            INSERT INTO lag SELECT md5(random()::text) FROM generate_series(1, 60000)";
        self.cluster.psql(&self.leader, "app", write).await?;
        Ok(())
    }

    async fn resume(&self, standby: &str) -> anyhow::Result<()> {
        self.cluster
            .sql(standby, "SELECT pg_wal_replay_resume()")
            .await?;
        Ok(())
    }
}
