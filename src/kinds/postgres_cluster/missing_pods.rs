//! Pods that a StatefulSet lacks. Its controller cannot make one while the volume claim of its
//! ordinal goes away, tries again after ever longer waits, many minutes in the end, and is not told
//! when the claim is gone. Any change of the set makes it try at once.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::Selector;
use serde_json::json;

use super::observe::Observed;
use super::validate::Desired;

/// So long its controller is left to itself.
const PATIENCE: SignedDuration = SignedDuration::from_secs(5);
const ANNOTATION: &str = "mrg.bluebird.id/pods-missing-at";

/// Makes the controllers of sets that lack pods try again, once nothing is in their way.
///
/// # Errors
/// If the API server does not answer.
pub(super) async fn ask_again(
    client: &Client,
    desired: &Desired,
    observed: &Observed,
    before: &[Condition],
    now: Timestamp,
) -> Result<(), kube::Error> {
    if !has_waited(before, now) {
        return Ok(());
    }
    let etcd = desired.spec.etcd.managed.as_ref().map(|managed| {
        (
            format!("{}-etcd", desired.name),
            managed.replicas,
            observed.etcd_pods.len(),
        )
    });
    let postgres = (
        desired.name.clone(),
        desired.spec.replicas,
        observed.pods.len(),
    );
    for (name, wanted, found) in etcd.into_iter().chain([postgres]) {
        if found < usize::try_from(wanted).unwrap_or(0) {
            ask_set_again(client, &desired.namespace, &name, now).await?;
        }
    }
    Ok(())
}

/// Whether something has been missing for a while.
fn has_waited(before: &[Condition], now: Timestamp) -> bool {
    let ready = before.iter().find(|condition| condition.type_ == "Ready");
    ready.is_some_and(|ready| {
        ready.status != "True" && now.duration_since(ready.last_transition_time.0) > PATIENCE
    })
}

async fn ask_set_again(
    client: &Client,
    namespace: &str,
    name: &str,
    now: Timestamp,
) -> Result<(), kube::Error> {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), namespace);
    let Some(set) = sets.get_opt(name).await? else {
        return Ok(());
    };
    if !lacks_pods(&set) {
        return Ok(());
    }
    let selector: Selector = set
        .spec
        .and_then(|spec| spec.selector.match_labels)
        .into_iter()
        .flatten()
        .collect();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let in_the_way = claims
        .list(&ListParams::default().labels_from(&selector))
        .await?;
    if in_the_way
        .items
        .iter()
        .any(|claim| claim.metadata.deletion_timestamp.is_some())
    {
        return Ok(());
    }
    tracing::info!(
        set = name,
        namespace,
        "the StatefulSet lacks pods and nothing is in their way; its controller is asked to try again"
    );
    let patch =
        Patch::Merge(json!({ "metadata": { "annotations": { (ANNOTATION): now.to_string() } } }));
    match sets.patch(name, &PatchParams::default(), &patch).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether its controller knows of more pods than it has made.
fn lacks_pods(set: &StatefulSet) -> bool {
    let (Some(spec), Some(status)) = (&set.spec, &set.status) else {
        return false;
    };
    status.observed_generation == set.metadata.generation
        && status.replicas < spec.replicas.unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_controller_that_has_had_its_time_is_asked_again() {
        let ready = |status: &str| -> Vec<Condition> {
            let at = "2026-01-01T00:00:00Z";
            serde_json::from_value(json!([{ "type": "Ready", "status": status, "reason": "r", "message": "", "lastTransitionTime": at }]))
                .unwrap()
        };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(has_waited(&ready("False"), at("2026-01-01T00:00:06Z")));
        assert!(!has_waited(&ready("False"), at("2026-01-01T00:00:04Z")));
        assert!(!has_waited(&ready("True"), at("2026-01-01T01:00:00Z")));
        assert!(
            !has_waited(&[], at("2026-01-01T01:00:00Z")),
            "a new cluster"
        );
    }

    #[test]
    fn a_set_lacks_pods_when_its_controller_has_seen_it_and_made_fewer() {
        let set = |generation: i64, replicas: i32| -> StatefulSet {
            serde_json::from_value(json!({
                "metadata": { "generation": 2 }, "spec": { "replicas": 3, "selector": {}, "template": {}, "serviceName": "s" },
                "status": { "observedGeneration": generation, "replicas": replicas },
            }))
            .unwrap()
        };
        assert!(lacks_pods(&set(2, 2)));
        assert!(
            !lacks_pods(&set(2, 3))
                && !lacks_pods(&set(1, 2))
                && !lacks_pods(&StatefulSet::default())
        );
    }
}
