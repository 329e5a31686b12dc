//! `PgBouncerPool`: observe → validate → build → apply → status.

mod build;
mod status;
mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};

use crate::followers::Followers;
use crate::kinds::pgbouncer_pool::status::Observed;
use crate::kinds::postgres_cluster::Settings;
use crate::reconciler::{self, Reconciler};
use crate::shared::{Shared, concerned, controller, owners};
use mrg_api::pgbouncer_pool::PgBouncerPoolStatus;
use mrg_api::{PgBouncerPool, PostgresCluster};
use mrg_dcs::poolers::PoolerRecord;
use mrg_dcs::{Keys, NAMESPACE, Poolers};
use mrg_dcs_etcd::Etcd;
use mrg_kube_support::write_status;

/// What went wrong in a reconciliation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read.
    #[error("failed to observe")]
    Observe(#[source] Box<kube::Error>),
    /// Something could not be applied.
    #[error("failed to apply")]
    Apply(#[from] mrg_kube_support::Error),
    /// The status could not be written.
    #[error("failed to write the status")]
    Status(#[source] Box<kube::Error>),
}

type Object = DeserializeGuard<PgBouncerPool>;

struct Context {
    settings: Settings,
    shared: Arc<Shared>,
    followers: Followers<Object>,
}

/// A settled pool is looked at again so often; it is then that the numbers of clients are brought
/// up to date.
const BACKSTOP: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(3);
const DCS_WITHIN: Duration = Duration::from_secs(2);

/// Runs the controller until it is told to end.
pub async fn run(
    shared: Arc<Shared>,
    settings: Settings,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let (followers, from_etcd) = Followers::new();
    let controller = controller(&shared.pools);
    let of_clusters = concerned(
        shared.clusters.changes(),
        controller.store(),
        |pool: &Object, cluster| {
            let spec = pool.0.as_ref().ok().map(|pool| &pool.spec);
            pool.namespace() == cluster.namespace()
                && spec.is_some_and(|spec| spec.cluster_ref.name == cluster.name_any())
        },
    );
    let controller = controller
        .reconcile_on(owners::<PgBouncerPool, _>(shared.deployments.changes()))
        .reconcile_on(of_clusters)
        .reconcile_on(from_etcd);
    reconciler::run(
        controller,
        Context {
            settings,
            shared,
            followers,
        },
        stop,
    )
    .await;
}

impl Reconciler for Context {
    type Kind = PgBouncerPool;
    type Error = Error;

    async fn reconcile(
        &self,
        pool: &PgBouncerPool,
        reference: ObjectRef<Object>,
    ) -> Result<Action, Error> {
        let now = Timestamp::now();
        let observe_failed = |error| Error::Observe(Box::new(error));
        let namespace = pool.namespace().unwrap_or_default();
        let clusters: Api<PostgresCluster> =
            Api::namespaced(self.shared.client.clone(), &namespace);
        let cluster = clusters
            .get_opt(&pool.spec.cluster_ref.name)
            .await
            .map_err(observe_failed)?;
        let desired = match validate::validate(&self.settings, pool, cluster.as_ref()) {
            Ok(desired) => desired,
            Err(invalid) => {
                self.report(pool, status::stalled(pool, &invalid, now))
                    .await?;
                return Ok(Action::await_change());
            }
        };
        if let Some(invalid) = missing(&self.shared.client, &desired)
            .await
            .map_err(observe_failed)?
        {
            self.report(pool, status::stalled(pool, &invalid, now))
                .await?;
            return Ok(Action::requeue(SOON));
        }
        let applied = self.shared.applied.apply_all(&build::build(&desired)).await;
        let keys = Keys::new(NAMESPACE, &desired.scope);
        let etcd = self
            .followers
            .follow(reference, desired.etcd.clone(), keys, shape);
        let deployments: Api<Deployment> = Api::namespaced(self.shared.client.clone(), &namespace);
        let deployment = deployments
            .get_opt(&desired.name)
            .await
            .map_err(observe_failed)?
            .and_then(|deployment| deployment.status);
        let pods = deployment.map_or((0, 0, 0), |status| {
            (
                status.replicas.unwrap_or(0),
                status.ready_replicas.unwrap_or(0),
                status.updated_replicas.unwrap_or(0),
            )
        });
        let siblings: Api<PgBouncerPool> = Api::namespaced(self.shared.client.clone(), &namespace);
        let siblings = siblings
            .list(&ListParams::default())
            .await
            .map_err(observe_failed)?;
        let of_cluster: Vec<&PgBouncerPool> = siblings
            .iter()
            .filter(|sibling| sibling.spec.cluster_ref == pool.spec.cluster_ref)
            .collect();
        let observed = Observed {
            records: records(&etcd, &desired.name).await,
            pods,
            failure: applied
                .as_ref()
                .err()
                .map(|error| mrg_telemetry::chain(error)),
            overcommitment: cluster.as_ref().and_then(|cluster| {
                validate::overcommitment(cluster, desired.users.len(), &of_cluster)
            }),
        };
        let new = status::status(pool, &desired, &observed, now);
        let settled = new
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Reconciling" && condition.status == "False");
        self.report(pool, new).await?;
        applied?;
        Ok(Action::requeue(if settled { BACKSTOP } else { SOON }))
    }

    fn forget(&self, namespace: &str, name: &str) {
        self.followers.forget(namespace, name);
    }
}

/// What is missing of the Secrets. Secrets are not watched: the operator may read those that it is
/// told of, and list none.
async fn missing(
    client: &Client,
    desired: &validate::Desired,
) -> Result<Option<validate::Invalid>, kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &desired.namespace);
    let mut known: BTreeMap<String, Option<Secret>> = BTreeMap::new();
    for (name, key) in validate::needed(desired) {
        if !known.contains_key(name) {
            known.insert(name.to_owned(), api.get_opt(name).await?);
        }
        let Some(Some(secret)) = known.get(name) else {
            return Ok(Some(validate::Invalid::NoSecret(name.to_owned())));
        };
        let value = secret.data.as_ref().and_then(|data| data.get(&key));
        if value.is_none_or(|value| value.0.is_empty()) {
            return Ok(Some(validate::Invalid::Malformed {
                secret: name.to_owned(),
                key,
            }));
        }
    }
    Ok(None)
}

async fn records(etcd: &Etcd, pool: &str) -> Option<BTreeMap<String, PoolerRecord>> {
    let mut poolers: Poolers = etcd.read(DCS_WITHIN).await.ok()?;
    poolers.0.retain(|_, record| record.pool == pool);
    Some(poolers.0)
}

/// What the status shows of the records. How many clients there are changes all the time and is not
/// worth a reconciliation; that some wait is.
fn shape(poolers: &Poolers) -> Poolers {
    let mut shown = poolers.clone();
    for record in shown.0.values_mut() {
        record.clients = 0;
        record.waiting = u64::from(record.waiting > 0);
        record.pause = None;
        record.drained = false;
    }
    shown
}

impl Context {
    /// Writes the status if it is another.
    async fn report(&self, pool: &PgBouncerPool, new: PgBouncerPoolStatus) -> Result<(), Error> {
        if pool.status.as_ref() == Some(&new) {
            return Ok(());
        }
        write_status(&self.shared.client, pool, &new)
            .await
            .map_err(|error| Error::Status(Box::new(error)))?;
        Ok(())
    }
}
