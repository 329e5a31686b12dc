//! The etcd of a cluster loses its quorum for good, and is rebuilt around the running primary.

use anyhow::Context;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::DeleteParams;
use mrg_e2e::{Cluster, Namespace, Writer, eventually, seconds};

mrg_e2e::tests! {
    Together an_etcd_without_a_quorum_is_rebuilt_around_the_primary_that_goes_on_writing,
}

async fn an_etcd_without_a_quorum_is_rebuilt_around_the_primary_that_goes_on_writing(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let leader = cluster.leader().await?;
    let started = started(&cluster, &leader).await?;
    let rebuild = ["etcd", "rebuild", cluster.name(), "--yes"];
    let refused = namespace
        .kubectl_mrg(&[&rebuild[..], &[cluster.name()]].concat())
        .await;
    says(refused, "etcd has its quorum")?;

    let writer = Writer::start(&cluster, 150).await?;
    lose_two_of_three(&cluster).await?;
    eventually(
        "an outage that names the way out",
        seconds(60),
        async || {
            let ready = cluster.condition("Ready").await?;
            let words = "`kubectl mrg etcd rebuild";
            let told = ready.reason == "EtcdUnreachable" && ready.message.contains(words);
            anyhow::ensure!(told, "{}: {}", ready.reason, ready.message);
            Ok(())
        },
    )
    .await?;
    let misspelt = namespace
        .kubectl_mrg(&[&rebuild[..], &["another"]].concat())
        .await;
    says(misspelt, "nothing was done")?;
    let began = std::time::Instant::now();
    let printed = namespace
        .kubectl_mrg(&[&rebuild[..], &[cluster.name()]].concat())
        .await?;
    namespace.note(format!("rebuilt after {} ms", began.elapsed().as_millis()));
    anyhow::ensure!(
        printed.contains(&format!("{leader} leads by it")),
        "{printed}"
    );

    let gap = writer.end().await?.longest_gap_ms;
    anyhow::ensure!(gap < 5_000, "{gap} ms");
    cluster.healthy().await?;
    let now = cluster.leader().await?;
    anyhow::ensure!(now == leader, "the lead moved from {leader} to {now}");
    let again = self::started(&cluster, &leader).await?;
    anyhow::ensure!(again == started, "the server was restarted at {again}");
    let members = cluster.etcdctl(0, &["member", "list"]).await?;
    anyhow::ensure!(members.matches("started").count() == 3, "{members}");
    cluster.switch_over().await?;
    cluster.healthy().await
}

async fn started(cluster: &Cluster, member: &str) -> anyhow::Result<String> {
    cluster
        .sql(member, "select pg_postmaster_start_time()")
        .await
}

/// The command failed with these words.
fn says(outcome: anyhow::Result<String>, words: &str) -> anyhow::Result<()> {
    let error = match outcome {
        Ok(printed) => anyhow::bail!("it was done: {printed}"),
        Err(error) => format!("{error:#}"),
    };
    anyhow::ensure!(error.contains(words), "{error}");
    Ok(())
}

/// Both volumes first, and then both pods at once: one alone would join the others again.
async fn lose_two_of_three(cluster: &Cluster) -> anyhow::Result<()> {
    let (claims, pods) = (
        cluster.namespace.api::<PersistentVolumeClaim>(),
        cluster.namespace.api::<Pod>(),
    );
    let names = [cluster.etcd_name(1), cluster.etcd_name(2)];
    for name in &names {
        let claim = claims.get(&format!("data-{name}")).await?;
        let volume = claim.spec.and_then(|spec| spec.volume_name);
        let volume = volume.context("the claim is not bound")?;
        cluster.namespace.lab.empty_volume(&volume).await?;
    }
    let at_once = DeleteParams::default().grace_period(0);
    let [one, other] = &names;
    tokio::try_join!(pods.delete(one, &at_once), pods.delete(other, &at_once))?;
    Ok(())
}
