//! The objects beside a workload, from its validated spec alone. Pure.

use serde_json::{Value, json};

use super::validate::Desired;
use crate::seen::Workload;
use mrg_kube_support::Manifest;

/// All objects, in the order in which they are applied.
pub(super) fn build(
    desired: &Desired,
    workload: Option<&Workload>,
    foreign_budget: bool,
) -> Vec<Manifest> {
    let mut objects = vec![config_map(desired)];
    // Beside another budget for the same pods nothing could be evicted; with one pod, nothing ever.
    let wanted = desired.spec.availability.max_unavailable > 0 && !foreign_budget;
    if let Some(workload) = workload.filter(|workload| wanted && workload.wanted > 1) {
        objects.push(disruption_budget(desired, workload));
    }
    objects.into_iter().map(Manifest).collect()
}

fn metadata(desired: &Desired, name: &str) -> Value {
    json!({
        "name": name, "namespace": desired.namespace,
        "labels": { "app.kubernetes.io/managed-by": "mrg-operator", "mrg.bluebird.id/resilience": desired.name },
        "ownerReferences": [{
            "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "ServiceResilience", "name": desired.name, "uid": desired.uid,
            "controller": true, "blockOwnerDeletion": true,
        }],
    })
}

fn config_map(desired: &Desired) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(desired, &desired.file_name()),
        "data": { "proxy.json": desired.file },
    })
}

fn disruption_budget(desired: &Desired, workload: &Workload) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata(desired, &desired.file_name()),
        "spec": {
            "maxUnavailable": desired.spec.availability.max_unavailable,
            "selector": { "matchLabels": workload.selector },
            // Pods that are not ready protect nobody, and would block every drain.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    })
}

/// The token by which the operator is known to the proxies; made once.
pub(super) fn token_secret(desired: &Desired, token: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": metadata(desired, &desired.file_name()), "type": "Opaque",
        "stringData": { "token": token },
    })
}
