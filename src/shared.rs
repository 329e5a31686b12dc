//! What the controllers share: one watch of each kind for all of them, and one memory of what was
//! applied.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Controller;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::kinds::service_resilience::inject;
use crate::seen::{Deployment, Pod, StatefulSet};
use mrg_api::{OrderServiceSet, PgBouncerPool, PostgresCluster, ServiceResilience};
use mrg_kube_support::{Applied, Cache, Secrets};

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
    pub fn new(
        client: &Client,
        resilience: Arc<Cache<DeserializeGuard<ServiceResilience>>>,
    ) -> Self {
        let every = watcher::Config::default;
        Self {
            client: client.clone(),
            applied: Applied::new(client.clone()),
            secrets: Secrets::new(client.clone()),
            deployments: Cache::new(Api::all(client.clone()), every(), |_| ()),
            stateful_sets: Cache::new(Api::all(client.clone()), every(), |_| ()),
            pods: Cache::new(
                Api::all(client.clone()),
                every().labels(inject::LABEL),
                |_| (),
            ),
            autoscalers: Cache::new(Api::all(client.clone()), every(), |_| ()),
            budgets: Cache::new(Api::all(client.clone()), every(), |budget| {
                budget.metadata.managed_fields = None;
            }),
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
            if tokio::time::timeout_at(deadline, whole.wait_for(|whole| *whole))
                .await
                .is_err()
            {
                unread.push(kind);
            }
        }
        if unread.is_empty() {
            Ok(())
        } else {
            Err(Unread(unread))
        }
    }
}

/// Everything is read within so long; if not, the one that waits says so and tries again.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Kinds that the API server did not list.
#[derive(Debug, thiserror::Error)]
#[error(
    "the API server does not tell which {} there are, so nothing is changed: look at the operator's log, and whether its ClusterRole (helm upgrade) may list and watch them",
    .0.join(" and ")
)]
pub struct Unread(Vec<&'static str>);

/// All objects of a kind of this operator, without what only the API server needs: that is most of
/// an object that was applied.
pub fn cache<K>(client: &Client) -> Cache<DeserializeGuard<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    Cache::new(
        Api::all(client.clone()),
        watcher::Config::default(),
        |object| object.meta_mut().managed_fields = None,
    )
}

/// A controller of the objects of a cache.
pub(crate) fn controller<K>(objects: &Cache<DeserializeGuard<K>>) -> Controller<DeserializeGuard<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let changed = objects
        .changes()
        .map(|object| ObjectRef::from_obj(object.as_ref()));
    Controller::for_stream(futures::stream::pending(), objects.store()).reconcile_on(changed)
}

/// Whose objects changed, from a stream of what changed.
pub(crate) fn owners<K, T>(
    changes: impl Stream<Item = Arc<T>> + Send + 'static,
) -> impl Stream<Item = ObjectRef<DeserializeGuard<K>>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    T: Resource + Send + Sync + 'static,
{
    changes.filter_map(|object| {
        let namespace = object.namespace();
        let owner = object
            .owner_references()
            .iter()
            .find(|owner| owner.controller == Some(true) && owner.kind == K::kind(&()))
            .cloned();
        futures::future::ready(
            owner
                .zip(namespace)
                .map(|(owner, namespace)| ObjectRef::new(&owner.name).within(&namespace)),
        )
    })
}

/// The objects of a store that speak of what changed.
pub(crate) fn concerned<K, T>(
    changes: impl Stream<Item = Arc<T>> + Send + 'static,
    store: Store<K>,
    speaks: impl Fn(&K, &T) -> bool + Send + 'static,
) -> impl Stream<Item = ObjectRef<K>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    changes.flat_map(move |changed| {
        let found = store
            .state()
            .into_iter()
            .filter(|object| speaks(object, &changed))
            .map(|object| ObjectRef::from_obj(object.as_ref()));
        futures::stream::iter(found.collect::<Vec<_>>())
    })
}

/// How long an object is left alone of which nothing is told: between once and twice as long as
/// given, another time for each. All that were made, or read, at once would come back at once, and
/// hold up a change.
pub(crate) fn backstop(object: &impl Resource, least: Duration) -> Duration {
    let mut hasher = DefaultHasher::new();
    object.meta().uid.hash(&mut hasher);
    least + least.mul_f64((hasher.finish() % 1000) as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    #[test]
    fn objects_that_nothing_is_told_of_come_back_at_times_of_their_own() {
        let object = |uid: u32| ConfigMap {
            metadata: kube::api::ObjectMeta {
                uid: Some(uid.to_string()),
                ..Default::default()
            },
            ..ConfigMap::default()
        };
        let least = Duration::from_secs(60);
        let mut seconds: Vec<u64> = (0..1000)
            .map(|uid| backstop(&object(uid), least).as_secs())
            .collect();
        assert!(seconds.iter().all(|after| (60..120).contains(after)));
        seconds.sort_unstable();
        let most = seconds.chunk_by(|a, b| a == b).map(<[u64]>::len).max();
        assert!(most < Some(40), "{most:?} of a thousand in one second");
    }
}
