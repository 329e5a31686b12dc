//! Answers to the API server.

use jiff::Timestamp;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Webhook;
use crate::kinds::order_service_set::validate as sets;
use crate::kinds::service_resilience::Object;
use crate::kinds::service_resilience::inject::inject;
use crate::kinds::service_resilience::validate as spec;
use mrg_api::service_resilience::TargetKind;
use mrg_policy::Problem;

type Review = AdmissionReview<DynamicObject>;
type Request = AdmissionRequest<DynamicObject>;

/// A pod that is created.
pub(super) fn mutate(webhook: &Webhook, review: Review) -> Review {
    let request: Request = match review.try_into() {
        Ok(request) => request,
        Err(error) => return AdmissionResponse::invalid(error.to_string()).into_review(),
    };
    let response = AdmissionResponse::from(&request);
    let patched = patch(webhook, &request).map(|patch| response.clone().with_patch(patch));
    match patched {
        Some(Ok(response)) => response.into_review(),
        // A pod that cannot be changed is admitted as it is; status and policy report it.
        Some(Err(error)) => {
            tracing::error!(%error, "a pod could not be changed; it is admitted as it is");
            response.into_review()
        }
        None => response.into_review(),
    }
}

fn patch(webhook: &Webhook, request: &Request) -> Option<json_patch::Patch> {
    let object = request.object.as_ref()?;
    let before = serde_json::to_value(object).ok()?;
    let namespace = request.namespace.as_deref()?;
    let (kind, name) = owner(&before)?;
    let enrols = |object: &Object| {
        object.0.as_ref().is_ok_and(|resilience| {
            resilience.spec.target_ref.kind == kind && resilience.spec.target_ref.name == name
        })
    };
    let enrolled = webhook.known.within(namespace, enrols);
    let ours = enrolled.first()?.0.as_ref().ok()?;
    let desired = spec::validate(ours, Timestamp::now()).ok()?;
    let mut after = before.clone();
    inject(&mut after, &desired, &webhook.image);
    Some(json_patch::diff(&before, &after)).filter(|patch| !patch.0.is_empty())
}

/// The workload that a pod is of. A `ReplicaSet` is named after its Deployment and the template's hash, which its
/// pods carry as a label.
pub(super) fn owner(pod: &Value) -> Option<(TargetKind, String)> {
    let owners = pod.pointer("/metadata/ownerReferences")?.as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    let name = owner["name"].as_str()?;
    match owner["kind"].as_str()? {
        "StatefulSet" => Some((TargetKind::StatefulSet, name.to_owned())),
        "ReplicaSet" => {
            let hash = pod
                .pointer("/metadata/labels/pod-template-hash")?
                .as_str()?;
            let deployment = name.strip_suffix(hash)?.strip_suffix('-')?;
            Some((TargetKind::Deployment, deployment.to_owned()))
        }
        _ => None,
    }
}

/// A ServiceResilience or an OrderServiceSet that is created or changed.
pub(super) fn validate(review: Review) -> Review {
    let request: Request = match review.try_into() {
        Ok(request) => request,
        Err(error) => return AdmissionResponse::invalid(error.to_string()).into_review(),
    };
    let response = AdmissionResponse::from(&request);
    // A deletion has no object, and nothing to be refused for.
    let Some(object) = &request.object else {
        return response.into_review();
    };
    let old = request.old_object.as_ref();
    let problems = match request.kind.kind.as_str() {
        "OrderServiceSet" => problems(object, old, sets::refuse),
        _ => problems(object, old, spec::refuse),
    };
    let problems = match problems {
        Ok(problems) => problems,
        Err(error) => return response.deny(format!("spec: {error}")).into_review(),
    };
    if problems.is_empty() {
        return response.into_review();
    }
    let text = problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    response.deny(text).into_review()
}

fn problems<K: DeserializeOwned>(
    new: &DynamicObject,
    old: Option<&DynamicObject>,
    refuse: fn(&K, Option<&K>, Timestamp) -> Vec<Problem>,
) -> Result<Vec<Problem>, serde_json::Error> {
    let read = |object: &DynamicObject| serde_json::from_value::<K>(serde_json::to_value(object)?);
    Ok(refuse(
        &read(new)?,
        old.and_then(|old| read(old).ok()).as_ref(),
        Timestamp::now(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pods_workload_is_known_without_asking_anybody() {
        let pod = |kind: &str, name: &str| {
            json!({ "metadata": {
                "labels": { "pod-template-hash": "5bc98f8c77" },
                "ownerReferences": [{ "kind": kind, "name": name, "controller": true }],
            } })
        };
        assert_eq!(
            owner(&pod("ReplicaSet", "tpg-5bc98f8c77")),
            Some((TargetKind::Deployment, "tpg".to_owned()))
        );
        assert_eq!(
            owner(&pod("StatefulSet", "pg")),
            Some((TargetKind::StatefulSet, "pg".to_owned()))
        );
        assert_eq!(owner(&pod("ReplicaSet", "by-hand")), None);
        assert_eq!(owner(&pod("Job", "x")), None);
    }
}
