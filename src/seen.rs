//! What is read here of Kubernetes' own workloads and pods. There are thousands of them and each
//! change of one is told, so the rest is skipped while it is parsed and never in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    FieldsV1, LabelSelector, ManagedFieldsEntry, ObjectMeta,
};
use kube::Resource;
use serde::Deserialize;
use serde_json::json;

use crate::kinds::service_resilience::inject;

/// A pod: whether it has the sidecar, where it is, and how it is.
#[derive(Clone, Debug, Resource, Deserialize)]
#[resource(inherit = "core::Pod")]
#[serde(from = "RawPod")]
pub struct Pod {
    /// Without annotations.
    pub metadata: ObjectMeta,
    /// Whether it has the sidecar.
    pub injected: bool,
    /// Whether it is ready.
    pub ready: bool,
    /// Whether it has ended.
    pub over: bool,
    /// Its address, once it has one.
    pub address: Option<String>,
}

/// A Deployment.
#[derive(Clone, Debug, Resource, Deserialize)]
#[resource(inherit = "apps::Deployment")]
#[serde(from = "RawWorkload")]
pub struct Deployment {
    /// With this operator's annotations alone.
    pub metadata: ObjectMeta,
    /// What it is told, and how it is.
    pub workload: Arc<Workload>,
}

/// A StatefulSet.
#[derive(Clone, Debug, Resource, Deserialize)]
#[resource(inherit = "apps::StatefulSet")]
#[serde(from = "RawWorkload")]
pub struct StatefulSet {
    /// With this operator's annotations alone.
    pub metadata: ObjectMeta,
    /// What it is told, and how it is.
    pub workload: Arc<Workload>,
}

/// What a workload is told, and how it is.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    /// How many pods are wanted.
    pub wanted: i32,
    /// Which pods are its own.
    pub selector: BTreeMap<String, String>,
    /// The containers of its template.
    pub containers: Vec<Container>,
    /// Who owns the number of pods, and who the template.
    pub managers: Vec<ManagedFieldsEntry>,
    /// How many pods it has, as its controller counted them.
    pub counted: i32,
    /// How many of them are ready.
    pub ready: i32,
    /// How many of them are of the newest template.
    pub updated: i32,
    /// Whether its controller has seen the newest generation.
    pub told: bool,
    /// Whether it has not got on for longer than it may take.
    pub stuck: bool,
}

/// A container's name and probes.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub name: String,
    /// When it is restarted.
    pub liveness_probe: Option<Box<core::Probe>>,
    /// When it gets no requests.
    pub readiness_probe: Option<Box<core::Probe>>,
}

#[derive(Deserialize)]
struct RawPod {
    metadata: ObjectMeta,
    spec: Option<RawPodSpec>,
    status: Option<RawPodStatus>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPodSpec {
    init_containers: Option<Vec<Named>>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct RawWorkload {
    metadata: ObjectMeta,
    spec: Option<RawSpec>,
    status: Option<RawStatus>,
}

#[derive(Default, Deserialize)]
struct RawSpec {
    replicas: Option<i32>,
    selector: Option<LabelSelector>,
    template: Option<RawTemplate>,
}

#[derive(Deserialize)]
struct RawTemplate {
    spec: Option<RawTemplateSpec>,
}

#[derive(Deserialize)]
struct RawTemplateSpec {
    containers: Option<Vec<Container>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStatus {
    replicas: Option<i32>,
    ready_replicas: Option<i32>,
    updated_replicas: Option<i32>,
    observed_generation: Option<i64>,
    conditions: Option<Vec<Condition>>,
}

impl From<RawPod> for Pod {
    fn from(raw: RawPod) -> Self {
        let RawPod {
            mut metadata,
            spec,
            status,
        } = raw;
        (metadata.managed_fields, metadata.annotations) = (None, None);
        let status = status.unwrap_or_default();
        let init_containers = spec
            .and_then(|spec| spec.init_containers)
            .unwrap_or_default();
        Self {
            metadata,
            injected: init_containers
                .iter()
                .any(|container| container.name == inject::CONTAINER),
            ready: status
                .conditions
                .iter()
                .flatten()
                .any(|condition| condition.kind == "Ready" && condition.status == "True"),
            over: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            address: status.pod_ip,
        }
    }
}

impl From<RawWorkload> for Deployment {
    fn from(raw: RawWorkload) -> Self {
        let (metadata, workload) = raw.read();
        Self { metadata, workload }
    }
}

impl From<RawWorkload> for StatefulSet {
    fn from(raw: RawWorkload) -> Self {
        let (metadata, workload) = raw.read();
        Self { metadata, workload }
    }
}

impl RawWorkload {
    fn read(self) -> (ObjectMeta, Arc<Workload>) {
        let (mut metadata, spec, status) = (
            self.metadata,
            self.spec.unwrap_or_default(),
            self.status.unwrap_or_default(),
        );
        let managers = metadata.managed_fields.take().unwrap_or_default();
        metadata
            .annotations
            .iter_mut()
            .for_each(|all| all.retain(|name, _| name.starts_with("mrg.bluebird.id/")));
        let is_stuck = |condition: &Condition| {
            condition.kind == "Progressing"
                && condition.status == "False"
                && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
        };
        let workload = Workload {
            wanted: spec.replicas.unwrap_or(1),
            selector: spec
                .selector
                .and_then(|selector| selector.match_labels)
                .unwrap_or_default(),
            containers: spec
                .template
                .and_then(|template| template.spec?.containers)
                .unwrap_or_default(),
            managers: managers.into_iter().filter_map(owner_of_fields).collect(),
            counted: status.replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            told: status.observed_generation >= metadata.generation,
            stuck: status.conditions.iter().flatten().any(is_stuck),
        };
        (metadata, Arc::new(workload))
    }
}

/// Of all that stands in an entry: whether it owns the number of pods or the template.
fn owner_of_fields(entry: ManagedFieldsEntry) -> Option<ManagedFieldsEntry> {
    let spec = entry.fields_v1.as_ref()?.0.get("f:spec")?;
    let owned = ["f:replicas", "f:template"]
        .into_iter()
        .filter(|field| spec.get(field).is_some())
        .map(|field| (field.to_owned(), json!({})));
    let owned: serde_json::Map<_, _> = owned.collect();
    (!owned.is_empty()).then(|| ManagedFieldsEntry {
        fields_v1: Some(FieldsV1(json!({ "f:spec": owned }))),
        ..entry
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_workload_is_kept_what_drift_and_the_floor_are_told_by() {
        let deployment: Deployment = serde_json::from_value(json!({
            "metadata": {
                "name": "w", "generation": 4,
                "annotations": { "mrg.bluebird.id/revision": "r", "kubectl.kubernetes.io/last-applied-configuration": "{}" },
                "managedFields": [
                    { "manager": "kubectl", "operation": "Update", "fieldsV1": { "f:spec": { "f:replicas": {}, "f:paused": {} } } },
                    { "manager": "kube-controller-manager", "fieldsV1": { "f:status": {} } },
                ],
            },
            "spec": { "replicas": 2, "selector": { "matchLabels": { "app": "w" } }, "template": { "spec": { "nodeName": "n", "containers": [
                { "name": "main", "image": "x", "livenessProbe": { "httpGet": { "path": "/health", "port": 80 } } },
            ] } } },
            "status": { "replicas": 3, "readyReplicas": 2, "updatedReplicas": 1, "observedGeneration": 4, "conditions": [
                { "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded" },
            ] },
        }))
        .unwrap();
        let Deployment { metadata, workload } = deployment;
        assert_eq!(
            metadata.annotations.unwrap(),
            BTreeMap::from([("mrg.bluebird.id/revision".to_owned(), "r".to_owned())])
        );
        let managers = json!([{ "manager": "kubectl", "operation": "Update", "fieldsV1": { "f:spec": { "f:replicas": {} } } }]);
        assert_eq!(serde_json::to_value(&workload.managers).unwrap(), managers);
        assert_eq!(
            (
                workload.wanted,
                workload.counted,
                workload.ready,
                workload.updated
            ),
            (2, 3, 2, 1)
        );
        assert!(workload.told && workload.stuck && workload.selector["app"] == "w");
        let probe = serde_json::to_value(&workload.containers[0].liveness_probe).unwrap();
        assert_eq!(
            probe,
            json!({ "httpGet": { "path": "/health", "port": 80 } })
        );
        assert!(workload.containers[0].readiness_probe.is_none());
    }

    #[test]
    fn a_workload_that_says_nothing_wants_one_pod_and_has_none() {
        let set: StatefulSet = serde_json::from_value(
            json!({ "metadata": { "name": "s", "generation": 1 }, "spec": {}, "status": null }),
        )
        .unwrap();
        assert_eq!(
            (set.workload.wanted, set.workload.counted, set.workload.told),
            (1, 0, false)
        );
    }

    #[test]
    fn of_a_pod_is_kept_where_and_how_it_is() {
        let pod = |status: serde_json::Value| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "p", "labels": { "a": "b" }, "annotations": { "c": "d" }, "managedFields": [{}] },
                "spec": { "containers": [{ "name": "main" }], "initContainers": [{ "name": "init" }, { "name": "mrg-proxy", "image": "x" }] },
                "status": status,
            }))
            .unwrap()
        };
        let seen = pod(
            json!({ "phase": "Running", "podIP": "10.0.0.1", "conditions": [
            { "type": "Ready", "status": "True" }, { "type": "PodScheduled", "status": "True" },
        ] }),
        );
        assert!(seen.injected && seen.ready && !seen.over);
        assert_eq!(seen.address.as_deref(), Some("10.0.0.1"));
        assert!(
            seen.metadata.annotations.is_none()
                && seen.metadata.managed_fields.is_none()
                && seen.metadata.labels.is_some()
        );
        let seen = pod(json!({ "phase": "Failed", "conditions": null }));
        assert!(!seen.ready && seen.over && seen.address.is_none());
    }
}
