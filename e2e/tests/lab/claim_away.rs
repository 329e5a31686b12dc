//! A standby's volume is thrown away, and takes its time to go.

use anyhow::Context;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use mrg_e2e::{Cluster, Namespace, eventually, seconds};
use serde_json::json;

mrg_e2e::tests! {
    Together a_member_whose_volume_goes_away_slowly_starts_as_soon_as_it_is_gone,
}

/// Kubernetes tries to create the pod after longer and longer waits, and is not told when it could;
/// the operator has it try again.
async fn a_member_whose_volume_goes_away_slowly_starts_as_soon_as_it_is_gone(
    namespace: &Namespace,
) -> anyhow::Result<()> {
    let cluster = Cluster::create(namespace).await?;
    let member = cluster
        .standbys()
        .await?
        .into_iter()
        .next()
        .context("no standby")?;
    let claim = format!("data-{member}");
    let claims = namespace.api::<PersistentVolumeClaim>();
    let old = claims.get(&claim).await?.metadata.uid;
    let held = ["kubernetes.io/pvc-protection", "mrg.bluebird.id/test"];
    finalizers(&claims, &claim, json!(held)).await?;
    let outcome = lose_claim(&cluster, &member, &claim).await;
    finalizers(&claims, &claim, json!(null)).await?;
    outcome?;

    let began = std::time::Instant::now();
    let pods = namespace.api::<Pod>();
    eventually("the pod", seconds(15), async || {
        Ok(pods.get(&member).await?)
    })
    .await?;
    namespace.note(format!("created after {} ms", began.elapsed().as_millis()));
    cluster.healthy().await?;
    anyhow::ensure!(
        claims.get(&claim).await?.metadata.uid != old,
        "the volume is the old one"
    );
    Ok(())
}

/// Deletes a member and its claim; the latter stays until its finalizers are gone.
async fn lose_claim(cluster: &Cluster, member: &str, claim: &str) -> anyhow::Result<()> {
    let parameters = DeleteParams::default();
    let claims = cluster.namespace.api::<PersistentVolumeClaim>();
    claims.delete(claim, &parameters).await?;
    let pods = cluster.namespace.api::<Pod>();
    pods.delete(member, &parameters).await?;
    tokio::time::sleep(seconds(30)).await;
    anyhow::ensure!(
        pods.get_opt(member).await?.is_none(),
        "{member} is there, on a volume that goes away"
    );
    let said = cluster.condition("Ready").await?.message;
    let missing = format!("{member}: no pod");
    anyhow::ensure!(
        said.contains(&missing),
        "what is missing is not said: {said}"
    );
    Ok(())
}

async fn finalizers(
    claims: &Api<PersistentVolumeClaim>,
    claim: &str,
    finalizers: serde_json::Value,
) -> anyhow::Result<()> {
    let patch = Patch::Merge(json!({ "metadata": { "finalizers": finalizers } }));
    claims.patch(claim, &PatchParams::default(), &patch).await?;
    Ok(())
}
