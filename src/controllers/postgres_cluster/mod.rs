//! `PostgresCluster`: observe → validate → build → apply → status.

mod absent;
mod apply;
mod build;
mod etcd_leader;
mod missing_pods;
mod observe;
mod roll;
mod status;
pub mod validate;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use serde_json::json;

use crate::api::PostgresCluster;
use crate::api::postgres_cluster::PostgresClusterStatus;
use crate::base::{InvalidName, Scope};
use crate::cluster::FIELD_MANAGER;
use crate::controllers::followers::{Followers, without};
use crate::controllers::shared::{Shared, controller, owners};
use crate::dcs::Keys;

/// What the operator is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image with the agent.
    pub agent_image: String,
    /// When it is pulled.
    pub agent_pull_policy: String,
    /// The priority class of database pods.
    pub priority_class: Option<String>,
}

/// Where a cluster is found, for those who connect to it.
pub struct ClusterConnection {
    /// Its name in etcd.
    pub scope: Scope,
    /// Where etcd is.
    pub etcd: Vec<String>,
    /// The Secret with its passwords.
    pub secret: String,
    /// The owners of its databases, whose passwords stand in the Secret.
    pub users: BTreeSet<String>,
}

/// Where a cluster is found.
pub fn connection(cluster: &PostgresCluster) -> Result<ClusterConnection, InvalidName> {
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    Ok(ClusterConnection {
        scope: Scope::new(cluster.spec.scope.as_deref().unwrap_or(&name))?,
        etcd: build::etcd_endpoints(&cluster.spec.etcd, &name, &namespace),
        secret: validate::secret_name(&name),
        users: validate::owners(&cluster.spec),
    })
}

/// What went wrong in a reconciliation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read.
    #[error("failed to observe")]
    Observe(#[source] Box<kube::Error>),
    /// Something could not be applied.
    #[error("failed to apply")]
    Apply(#[from] apply::Error),
    /// A member could not be restarted.
    #[error("failed to roll")]
    Roll(#[source] Box<kube::Error>),
    /// The status could not be written.
    #[error("failed to write the status")]
    Status(#[source] Box<kube::Error>),
}

type Object = DeserializeGuard<PostgresCluster>;

struct Context {
    settings: Settings,
    recorder: Recorder,
    http: reqwest::Client,
    shared: Arc<Shared>,
    followers: Followers<Object>,
    failures: Mutex<HashMap<String, u32>>,
}

/// A settled cluster is looked at again so often; events come in between.
const BACKSTOP: Duration = Duration::from_secs(300);

/// Runs the controller until it is told to end.
pub async fn run(shared: Arc<Shared>, settings: Settings, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let (followers, from_etcd) = Followers::new();
    let client = shared.client.clone();
    let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: std::env::var("HOSTNAME").ok() };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        http: reqwest::Client::new(),
        shared: shared.clone(),
        followers,
        failures: Mutex::new(HashMap::new()),
        settings,
    });
    let pods_of_ours = watcher::Config::default().labels("app.kubernetes.io/managed-by=mrg-operator,app.kubernetes.io/name=postgres");
    controller(&shared.clusters)
        .reconcile_on(owners::<PostgresCluster, _>(shared.stateful_sets.changes()))
        .watches(Api::<Pod>::all(client), pods_of_ours, |pod| {
            let cluster = pod.labels().get("mrg.bluebird.id/cluster")?;
            Some(ObjectRef::new(cluster).within(&pod.namespace()?))
        })
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

fn retry(object: Arc<Object>, error: &Error, context: Arc<Context>) -> Action {
    let key = ObjectRef::from_obj(object.as_ref()).to_string();
    let mut failures = context.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let count = failures.entry(key).or_insert(0);
    *count = (*count + 1).min(7);
    let wait = Duration::from_millis(500) * 2u32.pow(*count);
    tracing::warn!(object = object.name_any(), error = crate::telemetry::chain(error), ?wait, "reconciliation failed; trying again");
    Action::requeue(wait)
}

async fn reconcile(object: Arc<Object>, context: Arc<Context>) -> Result<Action, Error> {
    let cluster = match &object.0 {
        Ok(cluster) => cluster,
        Err(error) => {
            tracing::error!(object = object.name_any(), %error, "the object cannot be read; it is left alone until it changes");
            return Ok(Action::await_change());
        }
    };
    if cluster.metadata.deletion_timestamp.is_some() {
        context.followers.forget(cluster.namespace().as_deref(), &cluster.name_any());
        return Ok(Action::await_change());
    }
    let now = Timestamp::now();
    let desired = match validate::validate(&context.settings, cluster) {
        Ok(desired) => desired,
        Err(invalid) => {
            context.report(cluster, status::stalled(cluster, &invalid.to_string(), now)).await?;
            return Ok(Action::await_change());
        }
    };
    let observe_failed = |error| Error::Observe(Box::new(error));
    let sets: Api<StatefulSet> = Api::namespaced(context.shared.client.clone(), &desired.namespace);
    let old = sets.get_opt(&desired.name).await.map_err(observe_failed)?;
    let major = cluster.status.as_ref().and_then(|status| status.postgresql_major);
    if let Err(invalid) = validate::same_major(&desired, major, old.as_ref().and_then(observe::postgres_image)) {
        context.report(cluster, status::stalled(cluster, &invalid.to_string(), now)).await?;
        return Ok(Action::await_change());
    }
    // What cannot be applied is told, and does not keep the rest from being seen.
    let applied = context.apply(&desired, old.as_ref()).await;
    let prefix = Keys::new("service", &desired.scope).prefix().to_owned();
    let etcd = context.followers.follow(ObjectRef::from_obj(object.as_ref()), desired.etcd_endpoints(), prefix, shape);
    let observed = observe::observe(&context.shared.client, &etcd, &desired).await.map_err(observe_failed)?;
    apply::label_pods(&context.shared.client, &desired, &observed).await?;
    let before = cluster.status.as_ref().map_or(&[][..], |status| &status.conditions);
    missing_pods::ask_again(&context.shared.client, &desired, &observed, before, now).await.map_err(observe_failed)?;
    let roll_failed = |error| Error::Roll(Box::new(error));
    roll::revoke_proven_dead(&context.shared.client, &etcd, &desired, &observed).await.map_err(roll_failed)?;
    if let Err(error) = apply::write_intent(&etcd, &desired, &observed).await {
        tracing::warn!(
            error = crate::telemetry::chain(&error),
            cluster = desired.name,
            "the configuration could not be written to etcd; it is tried again"
        );
    }
    let revision = roll::revision(sets.get_opt(&desired.name).await.map_err(observe_failed)?.as_ref());
    let step = roll::next(&desired, &observed, revision.as_deref());
    let acted = !matches!(step, roll::Step::Settled);
    let rolling = roll::perform(&context.shared.client, &context.http, &desired, &observed, step).await.map_err(roll_failed)?;
    let failure = applied.as_ref().err().map(|error| crate::telemetry::chain(error));
    let new = status::status(cluster, &desired, &observed, &status::Progress { rolling, failure }, now);
    let settled = new.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    context.report(cluster, new).await?;
    applied?;
    if settled && !acted {
        etcd_leader::keep_apart(&etcd, &observed).await;
    }
    context.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner).remove(&ObjectRef::from_obj(object.as_ref()).to_string());
    Ok(Action::requeue(if acted || !settled { Duration::from_secs(3) } else { BACKSTOP }))
}

impl Context {
    /// Brings the API server in line with what is wanted.
    async fn apply(&self, desired: &validate::Desired, old: Option<&StatefulSet>) -> Result<(), apply::Error> {
        apply::keep_secret(&self.shared.client, desired).await?;
        apply::make_way_for_growth(&self.shared.client, desired, old).await?;
        self.shared.applied.apply_all(&build::build(desired)).await?;
        apply::grow_volumes(&self.shared.client, desired).await
    }

    /// Writes the status if it is another, and an event if there is news.
    async fn report(&self, cluster: &PostgresCluster, new: PostgresClusterStatus) -> Result<(), Error> {
        if cluster.status.as_ref() == Some(&new) {
            return Ok(());
        }
        if let Some((reason, note)) = status::news(cluster, &new) {
            let type_ = if reason == "LeaderLost" { EventType::Warning } else { EventType::Normal };
            let event = Event { type_, reason: reason.to_owned(), note: Some(note), action: "Reconcile".to_owned(), secondary: None };
            if let Err(error) = self.recorder.publish(&event, &cluster.object_ref(&())).await {
                tracing::debug!(%error, "the event could not be written");
            }
        }
        let api: Api<PostgresCluster> = Api::namespaced(self.shared.client.clone(), &cluster.namespace().unwrap_or_default());
        let patch = json!({ "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "PostgresCluster", "status": new });
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch_status(&cluster.name_any(), &parameters, &Patch::Apply(&patch)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(Error::Status(Box::new(error))),
        }
    }
}

/// What the status shows of a key. Positions change all the time and are no news.
fn shape(key: &str, value: &str) -> Option<String> {
    (key != "status").then(|| without(value, &["xlog_location", "receive_lsn", "replay_lsn"]))
}
