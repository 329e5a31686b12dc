//! `PostgresCluster`: validate → build → apply → observe → roll → status.

mod absent;
mod apply;
mod build;
mod etcd_leader;
mod etcd_rebuild;
mod missing_pods;
mod observe;
mod primary;
mod roll;
mod status;
pub mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};

use crate::answers;
use crate::followers::Followers;
use crate::news::publish;
use crate::reconciler::{self, Reconciler, recorder};
use crate::shared::{Shared, controller, owners};
use mrg_api::PostgresCluster;
use mrg_api::postgres_cluster::PostgresClusterStatus;
use mrg_base::{InvalidName, MemberName, Scope};
use mrg_dcs::wire::{HistoryLine, MemberData};
use mrg_dcs::{ClusterSnapshot, DynamicConfig, Intent, Keys, NAMESPACE};
use mrg_election::{Initialize, Stored};
use mrg_kube_support::write_status;

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
///
/// # Errors
/// If its scope is not a legal name.
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
    /// A member of an etcd that is rebuilt could not be deleted.
    #[error("failed to rebuild etcd")]
    Etcd(#[source] Box<kube::Error>),
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
}

/// A settled cluster is looked at again so often; events come in between.
const BACKSTOP: Duration = Duration::from_secs(300);

/// Runs the controller until it is told to end.
pub async fn run(
    shared: Arc<Shared>,
    settings: Settings,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let (followers, from_etcd) = Followers::new();
    let (client, recorder) = (shared.client.clone(), recorder(&shared.client));
    let pods_of_ours = watcher::Config::default()
        .labels("app.kubernetes.io/managed-by=mrg-operator,app.kubernetes.io/name=postgres");
    let controller = controller(&shared.clusters)
        .reconcile_on(owners::<PostgresCluster, _>(shared.stateful_sets.changes()))
        .watches(Api::<Pod>::all(client), pods_of_ours, |pod| {
            let cluster = pod.labels().get("mrg.bluebird.id/cluster")?;
            Some(ObjectRef::new(cluster).within(&pod.namespace()?))
        })
        .reconcile_on(from_etcd);
    reconciler::run(
        controller,
        Context {
            settings,
            recorder,
            http: answers::client(),
            shared,
            followers,
        },
        stop,
    )
    .await;
}

impl Reconciler for Context {
    type Kind = PostgresCluster;
    type Error = Error;

    async fn reconcile(
        &self,
        cluster: &PostgresCluster,
        reference: ObjectRef<Object>,
    ) -> Result<Action, Error> {
        let now = Timestamp::now();
        let desired = match validate::validate(&self.settings, cluster) {
            Ok(desired) => desired,
            Err(invalid) => {
                self.report(cluster, status::stalled(cluster, &invalid.to_string(), now))
                    .await?;
                return Ok(Action::await_change());
            }
        };
        let observe_failed = |error| Error::Observe(Box::new(error));
        let sets: Api<StatefulSet> =
            Api::namespaced(self.shared.client.clone(), &desired.namespace);
        let old = sets.get_opt(&desired.name).await.map_err(observe_failed)?;
        let major = cluster
            .status
            .as_ref()
            .and_then(|status| status.postgresql_major);
        if let Err(invalid) = validate::same_major(
            &desired,
            major,
            old.as_ref().and_then(observe::postgres_image),
        ) {
            self.report(cluster, status::stalled(cluster, &invalid.to_string(), now))
                .await?;
            return Ok(Action::await_change());
        }
        // What cannot be applied is told, and does not keep the rest from being seen.
        let applied = self.apply(&desired, old.as_ref()).await;
        let keys = Keys::new(NAMESPACE, &desired.scope);
        let etcd = self
            .followers
            .follow(reference, desired.etcd_endpoints(), keys, shape);
        let observed = observe::observe(&self.shared.client, &etcd, &desired)
            .await
            .map_err(observe_failed)?;
        apply::label_pods(&self.shared.client, &desired, &observed).await?;
        if applied.is_ok() {
            apply::announce_settings(&self.shared.client, &desired, &observed).await?;
        }
        let before = cluster
            .status
            .as_ref()
            .map_or(&[][..], |status| &status.conditions);
        missing_pods::ask_again(&self.shared.client, &desired, &observed, before, now)
            .await
            .map_err(observe_failed)?;
        let roll_failed = |error| Error::Roll(Box::new(error));
        roll::revoke_proven_dead(&self.shared.client, &etcd, &desired, &observed)
            .await
            .map_err(roll_failed)?;
        if let Err(error) = apply::write_config(etcd.as_ref(), &desired, &observed).await {
            tracing::warn!(
                error = mrg_telemetry::chain(&error),
                cluster = desired.name,
                "the configuration could not be written to etcd; it is tried again"
            );
        }
        let revision = roll::revision(
            sets.get_opt(&desired.name)
                .await
                .map_err(observe_failed)?
                .as_ref(),
        );
        let step = roll::next(&desired, &observed, revision.as_deref());
        let acted = !matches!(step, roll::Step::Settled);
        let rolling = roll::perform(&self.shared.client, &self.http, &desired, &observed, step)
            .await
            .map_err(roll_failed)?;
        let failure = applied
            .as_ref()
            .err()
            .map(|error| mrg_telemetry::chain(error));
        let etcd_rebuild = self.rebuild_etcd(&desired, &observed, now).await?;
        let rebuilding = etcd_rebuild.under_way().is_some();
        let progress = status::Progress {
            rolling,
            failure,
            etcd_rebuild,
        };
        let new = status::status(cluster, &desired, &observed, &progress, now);
        let settled = new
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        self.report(cluster, new).await?;
        applied?;
        if settled && !acted {
            etcd_leader::keep_apart(&etcd, &observed).await;
        }
        Ok(Action::requeue(if acted || !settled || rebuilding {
            Duration::from_secs(3)
        } else {
            BACKSTOP
        }))
    }

    fn forget(&self, namespace: &str, name: &str) {
        self.followers.forget(namespace, name);
    }
}

impl Context {
    /// How far a rebuild of the managed etcd has come.
    async fn rebuild_etcd(
        &self,
        desired: &validate::Desired,
        observed: &observe::Observed,
        now: Timestamp,
    ) -> Result<etcd_rebuild::Progress, Error> {
        etcd_rebuild::remove_former_members(&self.shared.client, desired, observed)
            .await
            .map_err(|error| Error::Etcd(Box::new(error)))?;
        let primary = if etcd_rebuild::asks_for_primary(desired) {
            primary::find(&self.http, observed)
                .await
                .map_or(etcd_rebuild::Primary::None, etcd_rebuild::Primary::Is)
        } else {
            etcd_rebuild::Primary::NotAsked
        };
        Ok(etcd_rebuild::next(desired, observed, &primary, now))
    }

    /// Brings the API server in line with what is wanted.
    async fn apply(
        &self,
        desired: &validate::Desired,
        old: Option<&StatefulSet>,
    ) -> Result<(), apply::Error> {
        apply::keep_secret(&self.shared.client, desired).await?;
        apply::make_way_for_growth(&self.shared.client, desired, old).await?;
        self.shared
            .applied
            .apply_all(&build::build(desired))
            .await?;
        apply::grow_volumes(&self.shared.client, desired).await
    }

    /// Writes the status if it is another, and an event if there is news.
    async fn report(
        &self,
        cluster: &PostgresCluster,
        new: PostgresClusterStatus,
    ) -> Result<(), Error> {
        if cluster.status.as_ref() == Some(&new) {
            return Ok(());
        }
        if let Some((reason, note)) = status::news(cluster, &new) {
            let type_ = if reason == "LeaderLost" {
                EventType::Warning
            } else {
                EventType::Normal
            };
            let event = Event {
                type_,
                reason: reason.to_owned(),
                note: Some(note),
                action: "Reconcile".to_owned(),
                secondary: None,
            };
            if let Err(error) = self
                .recorder
                .publish(&event, &cluster.object_ref(&()))
                .await
            {
                tracing::debug!(%error, "the event could not be written");
            }
        }
        let before = cluster.status.as_ref();
        let told = etcd_rebuild::told(
            before.and_then(|status| status.etcd_rebuild.as_ref()),
            new.etcd_rebuild.as_ref(),
        );
        publish(
            &self.recorder,
            &cluster.object_ref(&()),
            told.into_iter().collect(),
        )
        .await;
        write_status(&self.shared.client, cluster, &new)
            .await
            .map_err(|error| Error::Status(Box::new(error)))?;
        Ok(())
    }
}

/// What the status shows of a cluster's keys.
#[derive(PartialEq)]
struct Shown {
    leader: Option<MemberName>,
    initialize: Option<Initialize>,
    sync: Option<Stored>,
    config: Option<DynamicConfig>,
    intent: Option<Intent>,
    failsafe: Option<BTreeMap<MemberName, String>>,
    history: Vec<HistoryLine>,
    members: BTreeMap<MemberName, MemberData>,
}

/// Positions and revisions change all the time and are not worth a reconciliation.
fn shape(snapshot: &ClusterSnapshot) -> Shown {
    let member = |(name, data): (&MemberName, &MemberData)| {
        let data = MemberData {
            xlog_location: None,
            receive_lsn: None,
            replay_lsn: None,
            ..data.clone()
        };
        (name.clone(), data)
    };
    Shown {
        leader: snapshot.leader().map(|key| key.member),
        initialize: snapshot.initialize(),
        sync: snapshot.sync().map(|(_, stored)| stored.clone()),
        config: snapshot.config().and_then(|key| key.value.clone().ok()),
        intent: snapshot.intent().map(|key| key.value.clone()),
        failsafe: snapshot.failsafe().cloned(),
        history: snapshot.history().to_vec(),
        members: snapshot.members().map(member).collect(),
    }
}
