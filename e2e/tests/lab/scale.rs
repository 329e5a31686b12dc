//! A cluster gets more members and fewer, larger volumes, and an image that it refuses.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::ListParams;
use mrg_api::postgres_cluster::PostgresClusterSpec;
use mrg_e2e::{Cluster, Namespace, Writer, eventually, seconds, small_cluster};

mrg_e2e::tests! {
    Together members_come_and_go_and_those_that_are_gone_are_forgotten,
    Together volumes_grow_without_a_restart_and_another_major_version_is_refused,
}

async fn members_come_and_go_and_those_that_are_gone_are_forgotten(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let writer = Writer::start(&cluster, 45).await?;
    let five = PostgresClusterSpec {
        replicas: 5,
        ..small_cluster()
    };
    cluster.apply(&five).await?;
    cluster.healthy().await?;
    may_take_over(&cluster, 4).await?;
    cluster.apply(&small_cluster()).await?;
    cluster.healthy().await?;
    may_take_over(&cluster, 2).await?;

    // A leader without etcd needs the promise of all in the failsafe key, and these will never
    // promise anything.
    eventually(
        "the failsafe key has three members",
        seconds(10),
        async || {
            let key = format!("/service/{}/failsafe", cluster.name());
            let value = cluster
                .etcdctl(0, &["get", "--print-value-only", &key])
                .await?;
            let listed: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&value)?;
            let mut names: Vec<_> = listed.keys().collect();
            names.sort();
            anyhow::ensure!(names == ["pg-0", "pg-1", "pg-2"], "{value}");
            Ok(())
        },
    )
    .await?;
    // Nor will they fetch the WAL that a slot would hold for them.
    eventually("their slots are gone", seconds(30), async || {
        let query =
            "SELECT slot_name FROM pg_replication_slots WHERE slot_name IN ('pg_3', 'pg_4')";
        let slots = cluster.sql(&cluster.leader().await?, query).await?;
        anyhow::ensure!(slots.is_empty(), "{slots}");
        Ok(())
    })
    .await?;
    let gap = writer.end().await?.longest_gap_ms;
    anyhow::ensure!(gap < 3_000, "scaling cost {gap} ms");
    Ok(())
}

/// Waits until so many standbys may take over.
async fn may_take_over(cluster: &Cluster, count: usize) -> anyhow::Result<()> {
    let what = format!("{count} members in /sync");
    eventually(&what, seconds(20), async || {
        let sync = cluster.status().await?.sync.unwrap_or_default();
        let there = sync.split(',').filter(|name| !name.is_empty()).count();
        anyhow::ensure!(there == count, "{sync}");
        Ok(())
    })
    .await
}

async fn volumes_grow_without_a_restart_and_another_major_version_is_refused(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let before = cluster.identities().await?;
    let mut spec = small_cluster();
    "2Gi".clone_into(&mut spec.storage.size);
    cluster.apply(&spec).await?;
    eventually(
        "every claim, and those of later members, ask for 2Gi",
        seconds(40),
        async || {
            let sizes = claimed(&cluster).await?;
            anyhow::ensure!(sizes.iter().all(|size| size == "2Gi"), "{sizes:?}");
            Ok(())
        },
    )
    .await?;
    cluster.healthy().await?;
    let after = cluster.identities().await?;
    anyhow::ensure!(before == after, "growing the volumes restarted a member");

    let newer = PostgresClusterSpec {
        image: "localhost/postgres:18".to_owned(),
        ..spec.clone()
    };
    cluster.apply(&newer).await?;
    let said = eventually("the major version is refused", seconds(20), async || {
        let stalled = cluster.condition("Stalled").await?;
        anyhow::ensure!(stalled.status == "True", "{stalled:?}");
        Ok(stalled.message)
    })
    .await?;
    namespace.note(&said);
    let parts = ["localhost/postgres:18", "17", "set the image back"];
    let places: Vec<_> = parts.iter().map(|part| said.find(part)).collect();
    anyhow::ensure!(places.is_sorted() && places[0].is_some(), "unclear: {said}");
    tokio::time::sleep(seconds(3)).await;
    anyhow::ensure!(
        before == cluster.identities().await?,
        "a member was touched"
    );
    cluster.apply(&spec).await?;
    cluster.healthy().await
}

/// What every member's claim asks for, and what the set's template has for later members.
async fn claimed(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let namespace = &cluster.namespace;
    let size = |claim: PersistentVolumeClaim| {
        let requests = claim.spec?.resources?.requests?;
        Some(requests.get("storage")?.0.clone())
    };
    let selector = format!(
        "app.kubernetes.io/name=postgres,mrg.bluebird.id/cluster={}",
        cluster.name()
    );
    let parameters = ListParams::default().labels(&selector);
    let claims = namespace
        .api::<PersistentVolumeClaim>()
        .list(&parameters)
        .await?;
    let mut sizes: Vec<String> = claims.into_iter().filter_map(size).collect();
    anyhow::ensure!(sizes.len() == 3, "{} claims", sizes.len());
    let set = namespace
        .api::<StatefulSet>()
        .get_opt(cluster.name())
        .await?;
    let templates = set.and_then(|set| set.spec?.volume_claim_templates);
    sizes.push(
        templates
            .and_then(|all| size(all.into_iter().next()?))
            .unwrap_or_default(),
    );
    Ok(sizes)
}
