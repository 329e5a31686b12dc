//! What there is: the workload, its pods, who scales it, and which budgets others have made.

use std::sync::Arc;

use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::core::Selector;

use super::inject::LABEL;
use super::validate::Desired;
use crate::seen::{Pod, Workload};
use crate::shared::Shared;
use mrg_api::service_resilience::TargetKind;

/// Everything about a workload.
pub(super) struct Observed {
    /// The Deployment or StatefulSet; `None` if there is none.
    pub workload: Option<Arc<Workload>>,
    /// Its pods, those that end left out.
    pub pods: Vec<Arc<Pod>>,
    /// Who scales it.
    pub autoscaler: Option<Arc<HorizontalPodAutoscaler>>,
    /// A budget of somebody else's for the same pods.
    pub foreign_budget: Option<String>,
}

fn find(shared: &Shared, namespace: &str, kind: TargetKind, name: &str) -> Option<Arc<Workload>> {
    match kind {
        TargetKind::Deployment => shared
            .deployments
            .get(namespace, name)
            .map(|object| object.workload.clone()),
        TargetKind::StatefulSet => shared
            .stateful_sets
            .get(namespace, name)
            .map(|object| object.workload.clone()),
    }
}

/// Observes.
///
/// # Errors
/// If the API server does not answer.
pub(super) async fn observe(shared: &Shared, desired: &Desired) -> Result<Observed, kube::Error> {
    let target = &desired.spec.target_ref;
    let namespace = &desired.namespace;
    let Some(workload) = find(shared, namespace, target.kind, &target.name) else {
        return Ok(Observed {
            workload: None,
            pods: Vec::new(),
            autoscaler: None,
            foreign_budget: None,
        });
    };
    let scales = |scaler: &HorizontalPodAutoscaler| {
        scaler.spec.as_ref().is_some_and(|spec| {
            spec.scale_target_ref.kind == target.kind.name()
                && spec.scale_target_ref.name == target.name
        })
    };
    let autoscaler = shared
        .autoscalers
        .within(namespace, scales)
        .into_iter()
        .next();
    let ours = desired.file_name();
    let covers = |budget: &PodDisruptionBudget| {
        let selector = budget
            .spec
            .as_ref()
            .and_then(|spec| spec.selector.as_ref()?.match_labels.as_ref());
        let template = &workload.selector;
        budget.name_any() != ours
            && selector.is_some_and(|labels| {
                !labels.is_empty()
                    && labels
                        .iter()
                        .all(|(name, value)| template.get(name) == Some(value))
            })
    };
    let foreign_budget = shared
        .budgets
        .within(namespace, covers)
        .first()
        .map(|budget| budget.name_any());
    let pods = pods(shared, desired, &workload).await?;
    Ok(Observed {
        workload: Some(workload),
        pods,
        autoscaler,
        foreign_budget,
    })
}

/// Those with a sidecar are watched. Only while there are more does anybody ask for them.
async fn pods(
    shared: &Shared,
    desired: &Desired,
    workload: &Workload,
) -> Result<Vec<Arc<Pod>>, kube::Error> {
    let lives = |pod: &Pod| pod.metadata.deletion_timestamp.is_none() && !pod.over;
    let ours = |pod: &Pod| {
        let labels = pod.labels();
        labels.get(LABEL) == Some(&desired.name)
            && lives(pod)
            && workload
                .selector
                .iter()
                .all(|(name, value)| labels.get(name) == Some(value))
    };
    let known = shared.pods.within(&desired.namespace, ours);
    if known.len() >= usize::try_from(workload.counted).unwrap_or(0) {
        return Ok(known);
    }
    let selector: Selector = workload.selector.clone().into_iter().collect();
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), &desired.namespace);
    let mut pods = api
        .list(&ListParams::default().labels_from(&selector))
        .await?
        .items;
    pods.retain(lives);
    Ok(pods.into_iter().map(Arc::new).collect())
}
