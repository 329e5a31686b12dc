//! What there is: the workload, its pods, who scales it, and which budgets others have made.

use std::collections::BTreeMap;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::inject::CONTAINER;
use super::validate::Desired;
use crate::api::service_resilience::TargetKind;

/// A Deployment or StatefulSet.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What it is.
    pub kind: TargetKind,
    /// Its name.
    pub name: String,
    /// How many pods are wanted.
    pub replicas: i32,
    /// Which pods are its own.
    pub selector: BTreeMap<String, String>,
    /// Its template's `spec`.
    pub template: Value,
    /// Who owns which field.
    pub managers: Vec<ManagedFieldsEntry>,
}

/// Everything about a workload.
pub struct Observed {
    /// The workload; `None` if there is none.
    pub workload: Option<Workload>,
    /// Its pods, those that end left out.
    pub pods: Vec<Pod>,
    /// Who scales it.
    pub autoscaler: Option<HorizontalPodAutoscaler>,
    /// A budget of somebody else's for the same pods.
    pub foreign_budget: Option<String>,
}

/// How the API server knows a kind of workload.
pub fn resource(kind: TargetKind) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind.name()))
}

fn workload(kind: TargetKind, object: &DynamicObject) -> Workload {
    let number = |path: &str| object.data.pointer(path).and_then(Value::as_i64).and_then(|number| i32::try_from(number).ok());
    let labels = object.data.pointer("/spec/selector/matchLabels").cloned().unwrap_or_default();
    Workload {
        kind,
        name: object.name_any(),
        replicas: number("/spec/replicas").unwrap_or(1),
        selector: serde_json::from_value(labels).unwrap_or_default(),
        template: object.data.pointer("/spec/template/spec").cloned().unwrap_or_default(),
        managers: object.metadata.managed_fields.clone().unwrap_or_default(),
    }
}

/// Observes.
///
/// # Errors
/// If the API server does not answer.
pub async fn observe(client: &Client, desired: &Desired) -> Result<Observed, kube::Error> {
    let target = &desired.spec.target_ref;
    let namespace = &desired.namespace;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource(target.kind));
    let Some(object) = api.get_opt(&target.name).await? else {
        return Ok(Observed { workload: None, pods: Vec::new(), autoscaler: None, foreign_budget: None });
    };
    let workload = workload(target.kind, &object);
    let selector = workload.selector.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut pods = pods.list(&ListParams::default().labels(&selector)).await?.items;
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none() && !is_over(pod));
    let scalers: Api<HorizontalPodAutoscaler> = Api::namespaced(client.clone(), namespace);
    let scales = |scaler: &HorizontalPodAutoscaler| {
        scaler
            .spec
            .as_ref()
            .is_some_and(|spec| spec.scale_target_ref.kind == target.kind.name() && spec.scale_target_ref.name == target.name)
    };
    let autoscaler = scalers.list(&ListParams::default()).await?.items.into_iter().find(scales);
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(client.clone(), namespace);
    let ours = desired.file_name();
    let covers = |budget: &&PodDisruptionBudget| {
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()?.match_labels.as_ref());
        let template = &workload.selector;
        budget.name_any() != ours
            && selector.is_some_and(|labels| !labels.is_empty() && labels.iter().all(|(name, value)| template.get(name) == Some(value)))
    };
    let budgets = budgets.list(&ListParams::default()).await?;
    let foreign_budget = budgets.iter().find(covers).map(ResourceExt::name_any);
    Ok(Observed { workload: Some(workload), pods, autoscaler, foreign_budget })
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a pod has the sidecar.
pub fn is_injected(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.init_containers.iter().flatten().any(|container| container.name == CONTAINER))
}

/// Whether it is ready.
pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"))
}
