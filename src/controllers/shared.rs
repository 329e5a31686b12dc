//! What the controllers share: one watch of each kind, whoever looks, and one memory of what was applied.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, ObjectMeta};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Controller;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::api::{OrderServiceSet, PgBouncerPool, PostgresCluster, ServiceResilience};
use crate::cluster::{Applied, Cache, Secrets};
use crate::controllers::service_resilience::inject;

/// What there is, as the watches tell it, and what was done about it.
pub struct Shared {
    /// For what is asked for itself.
    pub client: Client,
    /// What was applied.
    pub applied: Applied,
    /// Secrets by name.
    pub secrets: Secrets,
    /// Every Deployment: any of them may be enrolled.
    pub deployments: Cache<Deployment>,
    /// Every StatefulSet.
    pub stateful_sets: Cache<StatefulSet>,
    /// Pods with a sidecar.
    pub pods: Cache<Pod>,
    /// Every autoscaler.
    pub autoscalers: Cache<HorizontalPodAutoscaler>,
    /// Every budget: two for the same pods block each other.
    pub budgets: Cache<PodDisruptionBudget>,
    /// Platforms.
    pub sets: Cache<DeserializeGuard<OrderServiceSet>>,
    /// Pools.
    pub pools: Cache<DeserializeGuard<PgBouncerPool>>,
    /// Clusters.
    pub clusters: Cache<DeserializeGuard<PostgresCluster>>,
    /// Resilience.
    pub resilience: Arc<Cache<DeserializeGuard<ServiceResilience>>>,
}

impl Shared {
    /// Begins to watch.
    pub fn new(client: &Client, resilience: Arc<Cache<DeserializeGuard<ServiceResilience>>>) -> Self {
        let every = watcher::Config::default;
        Self {
            client: client.clone(),
            applied: Applied::new(client.clone()),
            secrets: Secrets::new(client.clone()),
            deployments: Cache::new(Api::all(client.clone()), every(), |deployment| {
                prune_workload(&mut deployment.metadata);
                prune_template(deployment.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()));
            }),
            stateful_sets: Cache::new(Api::all(client.clone()), every(), |set| {
                prune_workload(&mut set.metadata);
                prune_template(set.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()));
            }),
            pods: Cache::new(Api::all(client.clone()), every().labels(inject::LABEL), prune_pod),
            autoscalers: Cache::new(Api::all(client.clone()), every(), |_| ()),
            budgets: Cache::new(Api::all(client.clone()), every(), |budget| budget.metadata.managed_fields = None),
            sets: cache(client),
            pools: cache(client),
            clusters: cache(client),
            resilience,
        }
    }

    /// Waits until everything was read once: half of what there is looks like a loss.
    ///
    /// # Errors
    /// What the API server did not tell in time.
    pub async fn whole(&self) -> Result<(), Unread> {
        let reads = [
            ("Deployments", self.deployments.whole()),
            ("StatefulSets", self.stateful_sets.whole()),
            ("Pods", self.pods.whole()),
            ("HorizontalPodAutoscalers", self.autoscalers.whole()),
            ("PodDisruptionBudgets", self.budgets.whole()),
            ("OrderServiceSets", self.sets.whole()),
            ("PgBouncerPools", self.pools.whole()),
            ("PostgresClusters", self.clusters.whole()),
            ("ServiceResiliences", self.resilience.whole()),
        ];
        let deadline = tokio::time::Instant::now() + READ_WITHIN;
        let mut unread = Vec::new();
        for (kind, mut whole) in reads {
            // It ends early only with the watch itself, and that with the program.
            if tokio::time::timeout_at(deadline, whole.wait_for(|whole| *whole)).await.is_err() {
                unread.push(kind);
            }
        }
        if unread.is_empty() { Ok(()) } else { Err(Unread(unread)) }
    }
}

/// Everything is read within so long; if not, whoever waits says so and tries again.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Kinds that the API server did not list.
#[derive(Debug, thiserror::Error)]
#[error(
    "the API server does not tell which {} there are, so nothing is changed: look at the operator's log, and whether its ClusterRole (helm upgrade) may list and watch them",
    .0.join(" and ")
)]
pub struct Unread(Vec<&'static str>);

/// All objects of a kind of this operator, without what only the API server needs: that is most of an object that was applied.
pub fn cache<K>(client: &Client) -> Cache<DeserializeGuard<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    Cache::new(Api::all(client.clone()), watcher::Config::default(), |object| object.meta_mut().managed_fields = None)
}

/// A controller of the objects of a cache.
pub fn controller<K>(objects: &Cache<DeserializeGuard<K>>) -> Controller<DeserializeGuard<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let changed = objects.changes().map(|object| ObjectRef::from_obj(object.as_ref()));
    Controller::for_stream(futures::stream::pending(), objects.store()).reconcile_on(changed)
}

/// Whose objects changed, from a stream of what changed.
pub fn owners<K, T>(
    changes: impl Stream<Item = Arc<T>> + Send + 'static,
) -> impl Stream<Item = ObjectRef<DeserializeGuard<K>>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    T: Resource + Send + Sync + 'static,
{
    changes.filter_map(|object| {
        let namespace = object.namespace();
        let owner = object.owner_references().iter().find(|owner| owner.controller == Some(true) && owner.kind == K::kind(&())).cloned();
        futures::future::ready(owner.zip(namespace).map(|(owner, namespace)| ObjectRef::new(&owner.name).within(&namespace)))
    })
}

/// The objects of a store that speak of what changed.
pub fn concerned<K, T>(
    changes: impl Stream<Item = Arc<T>> + Send + 'static,
    store: Store<K>,
    speaks: impl Fn(&K, &T) -> bool + Send + 'static,
) -> impl Stream<Item = ObjectRef<K>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    changes.flat_map(move |changed| {
        let found = store.state().into_iter().filter(|object| speaks(object, &changed)).map(|object| ObjectRef::from_obj(object.as_ref()));
        futures::stream::iter(found.collect::<Vec<_>>())
    })
}

/// Of all that stands in a workload's metadata: who owns the fields that matter, and what this operator noted.
fn prune_workload(metadata: &mut ObjectMeta) {
    metadata.managed_fields = metadata.managed_fields.take().map(|entries| entries.into_iter().filter_map(owner_of_fields).collect());
    metadata.annotations.iter_mut().for_each(|all| all.retain(|name, _| name.starts_with("mrg.bluebird.id/")));
}

fn owner_of_fields(entry: ManagedFieldsEntry) -> Option<ManagedFieldsEntry> {
    let spec = entry.fields_v1.as_ref()?.0.get("f:spec")?;
    let owned =
        ["f:replicas", "f:template"].into_iter().filter(|field| spec.get(field).is_some()).map(|field| (field.to_owned(), json!({})));
    let owned: serde_json::Map<String, Value> = owned.collect();
    (!owned.is_empty()).then(|| ManagedFieldsEntry { fields_v1: Some(FieldsV1(json!({ "f:spec": owned }))), ..entry })
}

/// Of a template: its containers' probes.
fn prune_template(template: Option<&mut PodSpec>) {
    let Some(template) = template else { return };
    let container = |container: Container| Container {
        name: container.name,
        liveness_probe: container.liveness_probe,
        readiness_probe: container.readiness_probe,
        ..Container::default()
    };
    let containers = std::mem::take(&mut template.containers).into_iter().map(container).collect();
    *template = PodSpec { containers, ..PodSpec::default() };
}

/// Of a pod: whether it has the sidecar, where it is, and how it is.
pub fn prune_pod(pod: &mut Pod) {
    (pod.metadata.managed_fields, pod.metadata.annotations) = (None, None);
    if let Some(spec) = &mut pod.spec {
        let named = |container: Container| Container { name: container.name, ..Container::default() };
        let sidecars =
            spec.init_containers.take().map(|all| all.into_iter().filter(|it| it.name == inject::CONTAINER).map(named).collect());
        *spec = PodSpec { init_containers: sidecars, ..PodSpec::default() };
    }
    if let Some(status) = &mut pod.status {
        let mut conditions = status.conditions.take();
        conditions.iter_mut().for_each(|all| all.retain(|condition| condition.type_ == "Ready"));
        *status = PodStatus { phase: status.phase.take(), pod_ip: status.pod_ip.take(), conditions, ..PodStatus::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_workload_is_kept_what_drift_and_the_floor_are_told_by() {
        let mut deployment: Deployment = serde_json::from_value(json!({
            "metadata": {
                "name": "w", "annotations": { "mrg.bluebird.id/revision": "r", "kubectl.kubernetes.io/last-applied-configuration": "{}" },
                "managedFields": [
                    { "manager": "kubectl", "operation": "Update", "fieldsV1": { "f:spec": { "f:replicas": {}, "f:paused": {} } } },
                    { "manager": "kube-controller-manager", "fieldsV1": { "f:status": {} } },
                ],
            },
            "spec": { "replicas": 2, "selector": {}, "template": { "spec": { "nodeName": "n", "containers": [
                { "name": "main", "image": "x", "livenessProbe": { "httpGet": { "path": "/health", "port": 80 } } },
            ] } } },
        }))
        .unwrap();
        prune_workload(&mut deployment.metadata);
        prune_template(deployment.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()));
        let pruned = serde_json::to_value(&deployment).unwrap();
        assert_eq!(pruned["metadata"]["annotations"], json!({ "mrg.bluebird.id/revision": "r" }));
        let managers = json!([{ "manager": "kubectl", "operation": "Update", "fieldsV1": { "f:spec": { "f:replicas": {} } } }]);
        assert_eq!(pruned["metadata"]["managedFields"], managers);
        let probe = json!({ "httpGet": { "path": "/health", "port": 80 } });
        assert_eq!(pruned["spec"]["template"]["spec"], json!({ "containers": [{ "name": "main", "livenessProbe": probe }] }));
    }

    #[test]
    fn of_a_pod_is_kept_where_and_how_it_is() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": "p", "labels": { "a": "b" }, "annotations": { "c": "d" }, "managedFields": [{}] },
            "spec": { "containers": [{ "name": "main" }], "initContainers": [{ "name": "init" }, { "name": "mrg-proxy", "image": "x" }] },
            "status": { "phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.0.0.2", "conditions": [
                { "type": "Ready", "status": "True" }, { "type": "PodScheduled", "status": "True" },
            ] },
        }))
        .unwrap();
        prune_pod(&mut pod);
        let kept = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "labels": { "a": "b" } },
            "spec": { "containers": [], "initContainers": [{ "name": "mrg-proxy" }] },
            "status": { "phase": "Running", "podIP": "10.0.0.1", "conditions": [{ "type": "Ready", "status": "True" }] },
        });
        assert_eq!(serde_json::to_value(&pod).unwrap(), kept);
    }
}
