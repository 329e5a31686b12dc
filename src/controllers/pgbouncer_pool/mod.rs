//! `PgBouncerPool`: observe → validate → build → apply → status.

mod build;
mod status;
mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::api::pgbouncer_pool::PgBouncerPoolStatus;
use crate::api::{PgBouncerPool, PostgresCluster};
use crate::cluster::FIELD_MANAGER;
use crate::controllers::followers::{Followers, without};
use crate::controllers::pgbouncer_pool::status::Observed;
use crate::controllers::postgres_cluster::Settings;
use crate::controllers::shared::{Shared, concerned, controller, owners};
use crate::dcs::poolers::{PoolerRecord, record};
use crate::dcs::{Etcd, Keys};

/// What went wrong in a reconciliation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read.
    #[error("failed to observe")]
    Observe(#[source] Box<kube::Error>),
    /// Something could not be applied.
    #[error("failed to apply")]
    Apply(#[from] crate::cluster::Error),
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

/// A settled pool is looked at again so often; it is then that the numbers of clients are brought up to date.
const BACKSTOP: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(3);
const DCS_WITHIN: Duration = Duration::from_secs(2);

/// Runs the controller until it is told to end.
pub async fn run(shared: Arc<Shared>, settings: Settings, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let (followers, from_etcd) = Followers::new();
    let context = Arc::new(Context { settings, shared: shared.clone(), followers });
    let controller = controller(&shared.pools);
    let of_clusters = concerned(shared.clusters.changes(), controller.store(), |pool: &Object, cluster| {
        let spec = pool.0.as_ref().ok().map(|pool| &pool.spec);
        pool.namespace() == cluster.namespace() && spec.is_some_and(|spec| spec.cluster_ref.name == cluster.name_any())
    });
    controller
        .reconcile_on(owners::<PgBouncerPool, _>(shared.deployments.changes()))
        .reconcile_on(of_clusters)
        .reconcile_on(from_etcd)
        .with_config(kube::runtime::controller::Config::default().concurrency(8).debounce(Duration::from_millis(50)))
        .graceful_shutdown_on(stop)
        .run(reconcile, retry, context.clone())
        .for_each(|done| {
            // Nothing holds a deleted object back until we have seen that it goes: it is just not there at its next turn.
            if let Err(kube::runtime::controller::Error::ObjectNotFound(gone)) = done {
                context.followers.forget(gone.namespace.as_deref(), &gone.name);
            }
            futures::future::ready(())
        })
        .await;
}

fn retry(object: Arc<Object>, error: &Error, _: Arc<Context>) -> Action {
    tracing::warn!(object = object.name_any(), error = crate::telemetry::chain(error), "reconciliation failed; trying again");
    Action::requeue(SOON)
}

async fn reconcile(object: Arc<Object>, context: Arc<Context>) -> Result<Action, Error> {
    let pool = match &object.0 {
        Ok(pool) => pool,
        Err(error) => {
            tracing::error!(object = object.name_any(), %error, "the object cannot be read; it is left alone until it changes");
            return Ok(Action::await_change());
        }
    };
    let reference = ObjectRef::from_obj(object.as_ref());
    if pool.metadata.deletion_timestamp.is_some() {
        context.followers.forget(pool.namespace().as_deref(), &pool.name_any());
        return Ok(Action::await_change());
    }
    let now = Timestamp::now();
    let observe_failed = |error| Error::Observe(Box::new(error));
    let namespace = pool.namespace().unwrap_or_default();
    let clusters: Api<PostgresCluster> = Api::namespaced(context.shared.client.clone(), &namespace);
    let cluster = clusters.get_opt(&pool.spec.cluster_ref.name).await.map_err(observe_failed)?;
    let desired = match validate::validate(&context.settings, pool, cluster.as_ref()) {
        Ok(desired) => desired,
        Err(invalid) => {
            context.report(pool, status::stalled(pool, &invalid, now)).await?;
            return Ok(Action::await_change());
        }
    };
    if let Some(invalid) = missing(&context.shared.client, &desired).await.map_err(observe_failed)? {
        context.report(pool, status::stalled(pool, &invalid, now)).await?;
        return Ok(Action::requeue(SOON));
    }
    let applied = context.shared.applied.apply_all(&build::build(&desired)).await;
    let prefix = Keys::new("service", &desired.scope).poolers();
    let etcd = context.followers.follow(reference, desired.etcd.clone(), prefix.clone(), shape);
    let deployments: Api<Deployment> = Api::namespaced(context.shared.client.clone(), &namespace);
    let deployment = deployments.get_opt(&desired.name).await.map_err(observe_failed)?.and_then(|deployment| deployment.status);
    let pods = deployment.map_or((0, 0, 0), |status| {
        (status.replicas.unwrap_or(0), status.ready_replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0))
    });
    let siblings: Api<PgBouncerPool> = Api::namespaced(context.shared.client.clone(), &namespace);
    let siblings = siblings.list(&ListParams::default()).await.map_err(observe_failed)?;
    let of_cluster: Vec<&PgBouncerPool> = siblings.iter().filter(|sibling| sibling.spec.cluster_ref == pool.spec.cluster_ref).collect();
    let observed = Observed {
        records: records(&etcd, &prefix, &desired.name).await,
        pods,
        failure: applied.as_ref().err().map(|error| crate::telemetry::chain(error)),
        overcommitment: cluster.as_ref().and_then(|cluster| validate::overcommitment(cluster, desired.users.len(), &of_cluster)),
    };
    let new = status::status(pool, &desired, &observed, now);
    let settled = new.conditions.iter().any(|condition| condition.type_ == "Reconciling" && condition.status == "False");
    context.report(pool, new).await?;
    applied?;
    Ok(Action::requeue(if settled { BACKSTOP } else { SOON }))
}

/// What is missing of the Secrets. Secrets are not watched: the operator may read those that it is told of, and list none.
async fn missing(client: &Client, desired: &validate::Desired) -> Result<Option<validate::Invalid>, kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &desired.namespace);
    let mut known: BTreeMap<String, Option<Secret>> = BTreeMap::new();
    for (name, key) in validate::needed(desired) {
        if !known.contains_key(name) {
            known.insert(name.to_owned(), api.get_opt(name).await?);
        }
        let Some(Some(secret)) = known.get(name) else { return Ok(Some(validate::Invalid::NoSecret(name.to_owned()))) };
        let value = secret.data.as_ref().and_then(|data| data.get(&key));
        if value.is_none_or(|value| value.0.is_empty()) {
            return Ok(Some(validate::Invalid::Malformed { secret: name.to_owned(), key }));
        }
    }
    Ok(None)
}

async fn records(etcd: &Etcd, prefix: &str, pool: &str) -> Option<BTreeMap<String, PoolerRecord>> {
    let (_, entries) = etcd.read(prefix, DCS_WITHIN).await.ok()?;
    let parsed = entries.iter().filter_map(|(pod, entry)| Some((pod.clone(), record(entry)?)));
    Some(parsed.filter(|(_, record)| record.pool == pool).collect())
}

/// What the status shows of a record. How many clients there are changes all the time and is no news; that some wait is.
fn shape(_: &str, value: &str) -> Option<String> {
    let waits = serde_json::from_str::<PoolerRecord>(value).is_ok_and(|record| record.waiting > 0);
    Some(format!("{waits} {}", without(value, &["clients", "waiting", "pause", "drained"])))
}

impl Context {
    /// Writes the status if it is another.
    async fn report(&self, pool: &PgBouncerPool, new: PgBouncerPoolStatus) -> Result<(), Error> {
        if pool.status.as_ref() == Some(&new) {
            return Ok(());
        }
        let api: Api<PgBouncerPool> = Api::namespaced(self.shared.client.clone(), &pool.namespace().unwrap_or_default());
        let patch = json!({ "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "PgBouncerPool", "status": new });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch_status(&pool.name_any(), &parameters, &Patch::Apply(&patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(Error::Status(Box::new(error))),
        }
    }
}
