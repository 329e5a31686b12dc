//! What others change against the spec: replicas below the floor come back; what belongs to a
//! Git-driven manager is left alone and told.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Probe;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::json;

use super::observe::Observed;
use super::validate::Desired;
use crate::seen::{Container, Workload};
use mrg_api::service_resilience::{Drift, Mode, ProbeMode, TemplateProbes};
use mrg_kube_support::Manifest;

/// The name under which replicas are owned: another than that of the objects which are ours, so
/// that letting go of one leaves the other.
pub(super) const FLOOR_MANAGER: &str = "mrg-operator-availability";

/// Managers that bring back what stands in Git, whatever is done.
const DECLARATIVE: [&str; 6] = [
    "argocd-controller",
    "argocd-application-controller",
    "kustomize-controller",
    "helm-controller",
    "flux",
    "fleet-agent",
];

/// What is to be done about the number of pods.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Floor {
    /// There are enough.
    Kept,
    /// A field is raised.
    Raise {
        /// What is applied.
        manifest: Box<Manifest>,
        /// What had happened.
        drift: Drift,
    },
    /// Somebody brings the field back whatever is done.
    Conflict(String),
}

/// Who wrote a field last.
fn owner<'a>(managers: &'a [ManagedFieldsEntry], path: &[&str]) -> Option<&'a ManagedFieldsEntry> {
    let has = |entry: &&ManagedFieldsEntry| {
        let mut fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        for part in path {
            fields = fields.and_then(|fields| fields.get(format!("f:{part}")));
        }
        fields.is_some()
    };
    managers
        .iter()
        .filter(has)
        .max_by_key(|entry| entry.time.as_ref().map(|time| time.0))
}

fn name(entry: Option<&ManagedFieldsEntry>) -> String {
    entry
        .and_then(|entry| entry.manager.clone())
        .unwrap_or_else(|| "unknown".to_owned())
}

fn at(entry: Option<&ManagedFieldsEntry>, now: Timestamp) -> String {
    entry
        .and_then(|entry| entry.time.as_ref())
        .map_or(now, |time| time.0)
        .to_string()
}

fn is_declarative(entry: Option<&ManagedFieldsEntry>) -> bool {
    let Some(entry) = entry else { return false };
    let manager = entry.manager.as_deref().unwrap_or_default();
    let applies = entry.operation.as_deref() == Some("Apply")
        && manager != FLOOR_MANAGER
        && manager != "kubectl";
    applies || DECLARATIVE.contains(&manager)
}

/// Whether there are enough pods, and what to do if not.
pub(super) fn floor(desired: &Desired, observed: &Observed, now: Timestamp) -> Floor {
    let (Some(workload), Mode::Enforce) = (&observed.workload, desired.spec.mode) else {
        return Floor::Kept;
    };
    let least = desired.spec.min_replicas();
    if let Some(scaler) = &observed.autoscaler {
        let spec = scaler.spec.clone().unwrap_or_default();
        let found = spec.min_replicas.unwrap_or(1);
        let managers = scaler.metadata.managed_fields.clone().unwrap_or_default();
        let object = (
            "autoscaling/v2",
            "HorizontalPodAutoscaler",
            scaler.metadata.name.clone().unwrap_or_default(),
        );
        let most_is_enough = spec.max_replicas >= least;
        if !most_is_enough {
            return Floor::Conflict(format!(
                "HorizontalPodAutoscaler {}: maxReplicas {} is below the {least} pods of spec.availability.minReplicas; raise it",
                object.2, spec.max_replicas
            ));
        }
        return raise(
            desired,
            object,
            "minReplicas",
            (found, least),
            &managers,
            now,
        );
    }
    let target = &desired.spec.target_ref;
    let object = ("apps/v1", target.kind.name(), target.name.clone());
    raise(
        desired,
        object,
        "replicas",
        (workload.wanted, least),
        &workload.managers,
        now,
    )
}

fn raise(
    desired: &Desired,
    (version, kind, object): (&str, &str, String),
    field: &str,
    (found, least): (i32, i32),
    managers: &[ManagedFieldsEntry],
    now: Timestamp,
) -> Floor {
    // A workload of nobody's pods was switched off on purpose.
    if found >= least || found == 0 {
        return Floor::Kept;
    }
    let owner = owner(managers, &["spec", field]);
    if is_declarative(owner) {
        return Floor::Conflict(format!(
            "{kind} {object}: {} owns spec.{field} and sets it to {found}, below {least}: set {least} or more there, or leave the field out of Git (Argo CD: ignoreDifferences with RespectIgnoreDifferences=true; Flux: spec.ignore)",
            name(owner)
        ));
    }
    let manifest = json!({
        "apiVersion": version, "kind": kind, "metadata": { "name": object, "namespace": desired.namespace }, "spec": { (field): least },
    });
    let drift = Drift {
        object: format!("{kind}/{object}"),
        field: format!("spec.{field}"),
        found: found.to_string(),
        outcome: format!("raised to {least}"),
        manager: name(owner),
        at: at(owner, now),
    };
    Floor::Raise {
        manifest: Box::new(Manifest(manifest)),
        drift,
    }
}

/// What the template says of the probes. Pods get the right ones whatever it says.
pub(super) fn template_probes(desired: &Desired, workload: &Workload) -> TemplateProbes {
    let wanted = &desired.spec.probes;
    let named = |container: &&Container| {
        wanted
            .container
            .as_ref()
            .is_none_or(|name| container.name == *name)
    };
    let Some(container) = workload.containers.iter().find(named) else {
        return TemplateProbes::Missing;
    };
    let (Some(liveness), Some(readiness)) = (&container.liveness_probe, &container.readiness_probe)
    else {
        return TemplateProbes::Missing;
    };
    // The API server adds defaults; what we would set has to be there.
    let says = |found: &Probe, probe| {
        let found = serde_json::to_value(found).unwrap_or_default();
        super::inject::probe(probe, wanted.port)
            .as_object()
            .is_some_and(|wanted| {
                wanted.iter().all(|(name, value)| match value.as_object() {
                    Some(inner) => inner
                        .iter()
                        .all(|(name_within, value)| found[name][name_within] == *value),
                    None => found[name] == *value || (*value == 0 && found[name].is_null()),
                })
            })
    };
    if says(liveness, &wanted.liveness) && says(readiness, &wanted.readiness) {
        TemplateProbes::Match
    } else {
        TemplateProbes::Differ
    }
}

/// A template that had the probes has them no longer.
pub(super) fn probe_drift(
    desired: &Desired,
    workload: &Workload,
    before: Option<TemplateProbes>,
    now: Timestamp,
) -> Option<Drift> {
    let found = template_probes(desired, workload);
    let enforced =
        desired.spec.probes.mode == ProbeMode::Enforce && desired.spec.mode == Mode::Enforce;
    if before.is_none_or(|before| before == found) || found == TemplateProbes::Match {
        return None;
    }
    let target = &desired.spec.target_ref;
    let owner = owner(&workload.managers, &["spec", "template"]);
    Some(Drift {
        object: format!("{}/{}", target.kind.name(), target.name),
        field: "spec.template: livenessProbe, readinessProbe".to_owned(),
        found: if found == TemplateProbes::Missing {
            "removed"
        } else {
            "changed"
        }
        .to_owned(),
        outcome: if enforced {
            "pods get them all the same"
        } else {
            "told only: nothing is enforced"
        }
        .to_owned(),
        manager: name(owner),
        at: at(owner, now),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use mrg_api::ServiceResilience;

    fn desired() -> Desired {
        let object: ServiceResilience = serde_json::from_value(json!({
            "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "ServiceResilience", "metadata": { "name": "s", "namespace": "n" },
            "spec": { "targetRef": { "name": "w" }, "priority": "P0" },
        }))
        .unwrap();
        super::super::validate::validate(&object, Timestamp::UNIX_EPOCH).unwrap()
    }

    fn observed(replicas: i32, manager: &str, operation: &str) -> Observed {
        let entry = json!({ "manager": manager, "operation": operation, "time": "2026-01-01T00:00:00Z", "fieldsV1": { "f:spec": { "f:replicas": {} } } });
        let managers = vec![serde_json::from_value(entry).unwrap()];
        let workload = Workload {
            wanted: replicas,
            counted: replicas,
            managers,
            ..Workload::default()
        };
        Observed {
            workload: Some(Arc::new(workload)),
            pods: Vec::new(),
            autoscaler: None,
            foreign_budget: None,
        }
    }

    #[test]
    fn replicas_that_a_person_lowered_come_back_with_their_name() {
        let Floor::Raise { manifest, drift } = floor(
            &desired(),
            &observed(1, "kubectl-edit", "Update"),
            Timestamp::UNIX_EPOCH,
        ) else {
            panic!("not raised")
        };
        assert_eq!(manifest.0["spec"], json!({ "replicas": 3 }));
        assert_eq!(
            (drift.manager.as_str(), drift.found.as_str()),
            ("kubectl-edit", "1")
        );
    }

    #[test]
    fn a_manager_that_follows_git_is_named_and_not_fought() {
        for (manager, operation) in [
            ("argocd-controller", "Update"),
            ("argocd-controller", "Apply"),
            ("kustomize-controller", "Apply"),
        ] {
            let Floor::Conflict(why) = floor(
                &desired(),
                &observed(1, manager, operation),
                Timestamp::UNIX_EPOCH,
            ) else {
                panic!("{manager}")
            };
            assert!(
                why.contains(manager) && why.contains("set 3 or more"),
                "{why}"
            );
        }
        assert_eq!(
            floor(
                &desired(),
                &observed(3, "argocd-controller", "Apply"),
                Timestamp::UNIX_EPOCH
            ),
            Floor::Kept
        );
        assert_eq!(
            floor(
                &desired(),
                &observed(0, "kubectl", "Update"),
                Timestamp::UNIX_EPOCH
            ),
            Floor::Kept,
            "switched off on purpose"
        );
    }
}
