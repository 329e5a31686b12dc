//! `OrderServiceSet`: observe → validate → build → apply → status.

pub mod alerts;
pub mod build;
pub mod canary;
mod news;
pub(crate) mod numbers;
mod observe;
pub mod order;
pub mod orders;
mod resilience;
mod status;
mod stores;
pub mod trial;
pub mod validate;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::Stream;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::batch::v1::CronJob;
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Api, DeleteParams, ListParams, PartialObjectMeta, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::answers;
use crate::news::publish;
use crate::reconciler::{self, Reconciler, recorder};
use crate::shared::{Shared, backstop, concerned, controller, owners};
pub use build::Settings;
use mrg_api::order_service_set::{CanaryPhase, CanaryStatus, OrderServiceSetStatus};
use mrg_api::{OrderServiceSet, ServiceResilience};
use mrg_base::lock;
use mrg_kube_support::{Manifest, Reported, delete_if_unchanged, write_status};
use mrg_telemetry::chain;
use observe::{DatabaseState, Observed};
use order::{Candidate, Circumstances, Turn, turns};
use status::Found;
use stores::Stores;
use validate::{Desired, DesiredService};

/// What went wrong in a reconciliation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something could not be read.
    #[error("failed to observe")]
    Observe(#[source] Box<kube::Error>),
    /// Something could not be applied.
    #[error("failed to apply")]
    Apply(#[from] mrg_kube_support::Error),
    /// What belongs to nobody any more could not be deleted.
    #[error("failed to delete what is not wanted any more")]
    Prune(#[source] Box<kube::Error>),
    /// The status could not be written.
    #[error("failed to write the status")]
    Status(#[source] Box<kube::Error>),
}

type Object = DeserializeGuard<OrderServiceSet>;

struct Context {
    shared: Arc<Shared>,
    settings: Settings,
    recorder: Recorder,
    http: reqwest::Client,
    stores: Stores,
    /// Where a trial stands is in the status.
    reported: Reported,
    /// For which generation of each object everything else was deleted.
    pruned: Mutex<HashMap<Name, Generation>>,
}

/// Namespace and name.
type Name = (String, String);
/// The object's uid and its generation.
type Generation = (Option<String>, Option<i64>);

/// What was decided about each service, and about order reads.
struct Plan<'a> {
    turns: &'a BTreeMap<&'static str, Turn>,
    trials: &'a BTreeMap<&'static str, trial::Trial>,
    split: Option<&'a CanaryStatus>,
}

const BACKSTOP: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(2);

/// Runs the controller until it is told to end.
pub async fn run(
    shared: Arc<Shared>,
    settings: Settings,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let recorder = recorder(&shared.client);
    let (stores, news) = Stores::new();
    let http = answers::client();
    let (reported, pruned) = (Reported::default(), Mutex::default());
    let ours = || watcher::Config::default().labels(build::SET_LABEL);
    let controller = controller(&shared.sets);
    let of_pools = concerned(
        shared.pools.changes(),
        controller.store(),
        |set: &Object, pool| {
            let database = set
                .0
                .as_ref()
                .ok()
                .and_then(|set| set.spec.database.as_ref());
            let named = |database: &mrg_api::order_service_set::Database| {
                database.write.name == pool.name_any()
                    || database
                        .read
                        .as_ref()
                        .is_some_and(|read| read.name == pool.name_any())
            };
            set.namespace() == pool.namespace() && database.is_some_and(named)
        },
    );
    let controller = controller
        .reconcile_on(owners::<OrderServiceSet, _>(shared.deployments.changes()))
        .reconcile_on(owners::<OrderServiceSet, _>(shared.resilience.changes()))
        .reconcile_on(owners::<OrderServiceSet, _>(shared.autoscalers.changes()))
        .owns_stream(touched::<Service>(&shared.client, ours()))
        .owns_stream(touched::<NetworkPolicy>(&shared.client, ours()))
        .reconcile_on(of_pools)
        .reconcile_on(news);
    reconciler::run(
        controller,
        Context {
            shared,
            settings,
            recorder,
            http,
            stores,
            reported,
            pruned,
        },
        stop,
    )
    .await;
}

/// What becomes of objects of which nothing but the owner is read.
fn touched<K>(
    client: &Client,
    config: watcher::Config,
) -> impl Stream<Item = Result<PartialObjectMeta<K>, watcher::Error>> + Send + 'static
where
    K: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    watcher(Api::<PartialObjectMeta<K>>::all(client.clone()), config)
        .default_backoff()
        .touched_objects()
}

impl Reconciler for Context {
    type Kind = OrderServiceSet;
    type Error = Error;

    async fn reconcile(
        &self,
        set: &OrderServiceSet,
        reference: ObjectRef<Object>,
    ) -> Result<Action, Error> {
        if self.reported.is_ahead(&set.metadata) {
            // The news that are waited for bring it here; this is for when they do not come.
            return Ok(Action::requeue(SOON));
        }
        if let Err(unread) = self.shared.whole().await {
            self.report(
                set,
                status::stalled(set, "Unread", &unread.to_string(), Timestamp::now()),
            )
            .await?;
            return Ok(Action::requeue(SOON));
        }
        let now = Timestamp::now();
        let observe_failed = |error| Error::Observe(Box::new(error));
        let secrets = self.shared.secrets.reader();
        let database = observe::database(&self.shared, &secrets, set)
            .await
            .map_err(observe_failed)?;
        let desired = match validate::validate(set, database.wiring.as_ref(), now) {
            Ok(desired) => desired,
            Err(problems) => {
                self.report(
                    set,
                    status::stalled(set, "InvalidSpec", &problems.to_string(), now),
                )
                .await?;
                return Ok(Action::await_change());
            }
        };
        let Some(observed) = observe::observe(&self.shared, &secrets, set)
            .await
            .map_err(observe_failed)?
        else {
            // The news that are waited for bring it here; this is for when they do not come.
            return Ok(Action::requeue(SOON));
        };
        let input = Input {
            set,
            stores: self.stores.ask(&reference, &observed.stores),
            desired,
            observed,
            database,
            now,
        };
        let next = if self.perform(&input).await?.waits {
            SOON
        } else {
            backstop(set, BACKSTOP)
        };
        Ok(Action::requeue(
            secrets.look_again().map_or(next, |soon| next.min(soon)),
        ))
    }

    fn forget(&self, namespace: &str, name: &str) {
        self.stores.forget(namespace, name);
        self.reported.forget(namespace, name);
        lock(&self.pruned).remove(&(namespace.to_owned(), name.to_owned()));
    }
}

/// What a reconciliation decides from, observed in full before it begins.
struct Input<'a> {
    set: &'a OrderServiceSet,
    desired: Desired,
    observed: Observed,
    database: DatabaseState,
    stores: BTreeMap<&'static str, stores::Known>,
    now: Timestamp,
}

/// How a reconciliation ended.
struct Performed {
    /// Whether something is under way that no watch will announce.
    waits: bool,
}

impl Context {
    /// Decides, applies, and writes the status.
    async fn perform(&self, input: &Input<'_>) -> Result<Performed, Error> {
        let Input {
            set,
            desired,
            observed,
            database,
            stores,
            now,
        } = input;
        let observe_failed = |error| Error::Observe(Box::new(error));
        let candidates = candidates(set, desired, observed, &self.settings);
        let circumstances = circumstances(set, desired, observed, database, *now);
        let mut turns = turns(&candidates, &circumstances);
        let asked = trial::asked(set, desired, observed);
        let pods = trial::pods(&self.shared.client, &self.http, desired, &asked)
            .await
            .map_err(observe_failed)?;
        let split = trial::split(set, desired, observed, database, &pods, *now);
        let trials = trial::decide(set, desired, observed, &candidates, &pods, &mut turns, *now);
        let plan = Plan {
            turns: &turns,
            trials: &trials,
            split: split.as_ref(),
        };
        let objects = self
            .objects(desired, observed, database, &plan)
            .await
            .map_err(observe_failed)?;
        let (applied, corrected) = self.shared.applied.enforce_all(&objects).await;
        let pruned = self.prune(set, desired, &objects).await;
        let retired = trial::retire(&self.shared.client, desired, observed, &trials, &pods).await;
        let failure = applied.as_ref().err().map(|error| chain(error));
        let found = Found {
            observed,
            database,
            turns: &turns,
            trials: &trials,
            split,
            stores,
            failure: failure.or_else(|| pruned.as_ref().err().map(|error| chain(error))),
        };
        let new = status::status(set, desired, &found, *now);
        let settled = new
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Reconciling" && condition.status == "False");
        let corrected = corrected.into_iter().map(news::corrected).collect();
        publish(&self.recorder, &set.object_ref(&()), corrected).await;
        self.report(set, new).await?;
        // What is forgotten before it is in the status would be said in vain.
        trial::heard(&self.shared.client, set)
            .await
            .map_err(|error| Error::Status(Box::new(error)))?;
        applied?;
        pruned?;
        let lingers = retired.map_err(|error| Error::Prune(Box::new(error)))?;
        // Canaries, jobs, Secrets and the rollout's patience are announced by no watch.
        let unannounced = !trials.is_empty()
            || desired.spec.read_split.is_some()
            || !observed.missing_secrets.is_empty()
            || circumstances.database.is_some()
            || !circumstances.patience_over;
        Ok(Performed {
            waits: lingers || !settled && unannounced,
        })
    }
}

fn candidates(
    set: &OrderServiceSet,
    desired: &Desired,
    observed: &Observed,
    settings: &Settings,
) -> Vec<Candidate> {
    let aborted = |name: &str| {
        let known = set
            .status
            .as_ref()
            .and_then(|status| status.services.iter().find(|service| service.name == name));
        known
            .and_then(|service| service.canary.as_ref())
            .is_some_and(|state| state.phase == CanaryPhase::Aborted)
    };
    let one = |service: &DesiredService| Candidate {
        name: service.catalog.name,
        tier: service.catalog.tier.value,
        revision: build::revision(desired, service, settings),
        live: observed
            .deployments
            .get(service.catalog.name)
            .map(|there| there.live.clone()),
        aborted: aborted(service.catalog.name),
    };
    desired.services.iter().map(one).collect()
}

fn circumstances(
    set: &OrderServiceSet,
    desired: &Desired,
    observed: &Observed,
    database: &DatabaseState,
    now: Timestamp,
) -> Circumstances {
    let age = set.creation_timestamp().map_or(Duration::ZERO, |at| {
        Duration::try_from(now.duration_since(at.0)).unwrap_or_default()
    });
    let open = desired
        .services
        .iter()
        .filter(|service| service.catalog.tier.value == mrg_platform_catalog::Tier::P0)
        .find_map(|service| {
            let status = observed.resilience.get(service.catalog.name)?.as_ref()?;
            let open = status.breakers.iter().find(|breaker| breaker.open > 0)?;
            Some(format!(
                "{}'s breaker {}/{} is open",
                service.catalog.name, open.dependency, open.provider
            ))
        });
    Circumstances {
        ordered: desired.spec.rollout.ordered,
        frozen: open.or_else(|| database.trouble.clone()),
        database: database
            .missing
            .clone()
            .or_else(|| database.trouble.clone()),
        patience_over: age > desired.spec.start.patience.0.duration(),
    }
}

/// How many pods a Deployment is told to have. An autoscaler decides that; until it has, the number
/// stays as it is, since a field that nobody owns is reset to one.
fn replicas(service: &DesiredService, there: Option<&observe::LiveDeployment>) -> Option<i32> {
    let scaled = service.spec.autoscaling.is_some() || there.is_some_and(|there| there.scaled);
    match there {
        _ if !scaled => Some(service.replicas()),
        None => Some(service.replicas()),
        Some(there) => there.owns_replicas.then_some(there.replicas),
    }
}

/// The pods that are tried out beside a service's.
fn canary(
    desired: &Desired,
    service: &DesiredService,
    observed: &Observed,
    trials: &BTreeMap<&'static str, trial::Trial>,
    settings: &Settings,
) -> Option<Vec<Manifest>> {
    let state = trials
        .get(service.catalog.name)
        .filter(|trial| trial.runs)?;
    let stable = observed
        .deployments
        .get(service.catalog.name)
        .map_or(1, |there| there.replicas);
    build::trial(desired, service, state, stable, settings)
}

/// The Deployment as it should be now; `None` before its first turn.
fn deployment(
    desired: &Desired,
    service: &DesiredService,
    observed: &Observed,
    turns: &BTreeMap<&'static str, Turn>,
    settings: &Settings,
) -> Option<Manifest> {
    let there = observed.deployments.get(service.catalog.name);
    let replicas = replicas(service, there);
    let whole = |template: &Value, revision: &str| {
        build::deployment(desired, service, template, revision, replicas)
    };
    match turns.get(service.catalog.name)? {
        Turn::Wait(_) => None,
        Turn::Apply => {
            let template = build::template(desired, service, settings);
            Some(whole(
                &template,
                &build::revision(desired, service, settings),
            ))
        }
        Turn::Keep(_) => {
            let there = there?;
            match &there.template {
                Some(template) => Some(whole(template, &there.live.revision)),
                // Somebody took the annotation away; what it was made from is known by its revision
                // alone.
                None => Some(whole(
                    &build::template(desired, service, settings),
                    &build::revision(desired, service, settings),
                )),
            }
        }
    }
}

impl Context {
    /// All objects, in the order in which they are applied.
    async fn objects(
        &self,
        desired: &Desired,
        observed: &Observed,
        database: &DatabaseState,
        plan: &Plan<'_>,
    ) -> Result<Vec<Manifest>, kube::Error> {
        let mut objects: Vec<Manifest> = Vec::new();
        if let (Some(wiring), Some(password)) = (&desired.wiring, &database.password) {
            objects.push(build::queue_secret(desired, wiring, password));
        }
        objects.extend(build::around(desired, plan.trials, plan.split));
        objects.extend(build::alerting(desired));
        objects.extend(self.orders(desired, observed, database).await?);
        // What is named and not there would be missing in every pod.
        if database.missing.is_none() {
            objects.extend(desired.services.iter().filter_map(|service| {
                deployment(desired, service, observed, plan.turns, &self.settings)
            }));
            objects.extend(
                desired
                    .services
                    .iter()
                    .filter_map(|service| {
                        canary(desired, service, observed, plan.trials, &self.settings)
                    })
                    .flatten(),
            );
        }
        Ok(objects)
    }

    /// What answers order reads. Nothing before the pools let it in: pods that cannot log in help
    /// nobody.
    async fn orders(
        &self,
        desired: &Desired,
        observed: &Observed,
        database: &DatabaseState,
    ) -> Result<Vec<Manifest>, kube::Error> {
        let (Some(_), Some(wiring)) = (&desired.spec.read_split, &desired.wiring) else {
            return Ok(Vec::new());
        };
        if database.read_split_obstacle.is_some() || database.missing.is_some() {
            return Ok(Vec::new());
        }
        if !database.lacks_passwords.is_empty() {
            let fresh: BTreeMap<&String, String> = database
                .lacks_passwords
                .iter()
                .map(|key| (key, crate::password::generate()))
                .collect();
            let secrets: Api<Secret> =
                Api::namespaced(self.shared.client.clone(), &desired.namespace);
            let patch = json!({ "stringData": fresh });
            secrets
                .patch(
                    &wiring.secret,
                    &PatchParams::default(),
                    &Patch::Merge(&patch),
                )
                .await?;
            self.shared
                .secrets
                .forget(&desired.namespace, &wiring.secret);
        }
        let applied = |name: &str| {
            let there = observed.deployments.get(name)?;
            Some((there.live.revision.clone(), there.template.clone()?))
        };
        Ok(orders::objects(
            desired,
            &self.settings,
            database.prepared,
            applied,
        ))
    }

    /// Deletes what this set made and does not want any more; once for each generation of the spec.
    async fn prune(
        &self,
        set: &OrderServiceSet,
        desired: &Desired,
        objects: &[Manifest],
    ) -> Result<(), Error> {
        let (key, whose) = (
            (desired.namespace.clone(), desired.name.clone()),
            (set.uid(), set.metadata.generation),
        );
        if lock(&self.pruned).get(&key) == Some(&whose) {
            return Ok(());
        }
        let wanted = |kind: &str, name: &str| {
            // Deployments that wait for their turn are wanted, too.
            objects.iter().any(|object| object.kind() == kind && object.name() == name)
                || (kind == "Deployment" && desired.services.iter().any(|service| service.catalog.name == name))
                // What answers order reads goes with the split, not with a pool that is away for a
                // moment.
                || (desired.spec.read_split.is_some() && name.starts_with("orders-"))
                // Canaries go when nobody sends them anything any more.
                || desired.services.iter().any(|service| build::canary_name(service.catalog.name) == name)
        };
        let failed = |error| Error::Prune(Box::new(error));
        prune_kind::<Deployment>(&self.shared.client, desired, &wanted)
            .await
            .map_err(failed)?;
        prune_kind::<Service>(&self.shared.client, desired, &wanted)
            .await
            .map_err(failed)?;
        prune_kind::<ServiceAccount>(&self.shared.client, desired, &wanted)
            .await
            .map_err(failed)?;
        prune_kind::<NetworkPolicy>(&self.shared.client, desired, &wanted)
            .await
            .map_err(failed)?;
        prune_kind::<HorizontalPodAutoscaler>(&self.shared.client, desired, &wanted)
            .await
            .map_err(failed)?;
        prune_kind::<CronJob>(&self.shared.client, desired, &wanted)
            .await
            .map_err(failed)?;
        prune_kind::<ServiceResilience>(&self.shared.client, desired, &wanted)
            .await
            .map_err(failed)?;
        lock(&self.pruned).insert(key, whose);
        Ok(())
    }

    /// Writes the status if it is another.
    async fn report(&self, set: &OrderServiceSet, new: OrderServiceSetStatus) -> Result<(), Error> {
        if set.status.as_ref() == Some(&new) {
            return Ok(());
        }
        let alerting = set.spec.alerting.clone().unwrap_or_default();
        let news = set
            .status
            .as_ref()
            .map(|old| news::between(old, &new, &alerting))
            .unwrap_or_default();
        publish(&self.recorder, &set.object_ref(&()), news).await;
        let written = write_status(&self.shared.client, set, &new)
            .await
            .map_err(|error| Error::Status(Box::new(error)))?;
        if let Some(written) = written {
            self.reported.written(&written.metadata);
        }
        Ok(())
    }
}

async fn prune_kind<K>(
    client: &Client,
    desired: &Desired,
    wanted: &impl Fn(&str, &str) -> bool,
) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &desired.namespace);
    let ours = ListParams::default().labels(&format!("{}={}", build::SET_LABEL, desired.name));
    for object in api.list_metadata(&ours).await? {
        let name = object.name_any();
        let owned = object
            .owner_references()
            .iter()
            .any(|owner| owner.uid == desired.uid);
        if !owned || wanted(&K::kind(&()), &name) {
            continue;
        }
        tracing::info!(kind = %K::kind(&()), name, "deleted: it is not wanted any more");
        delete_if_unchanged(&api, &name, object.uid(), DeleteParams::default()).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_autoscaler_decides_once_it_has_changed_the_number() {
        let set = serde_json::from_value(json!({
            "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "OrderServiceSet", "metadata": { "name": "mrg", "namespace": "mrg" },
            "spec": { "template": { "image": "x" }, "services": [
                { "name": "configservice", "autoscaling": { "minReplicas": 4, "maxReplicas": 9 } },
                { "name": "orderorchestrator" }, { "name": "paymentprocessor", "without": ["payment-gateway"] },
                { "name": "taxipartnergateway", "without": ["tpg-bbd", "bbd-location", "partner-fleet"] },
                { "name": "sessionmanager", "without": ["maps"] }, { "name": "hogateway", "without": ["head-office"] },
                { "name": "notificationcenter", "without": ["sms", "mail", "push-fcm", "push-apns", "whatsapp"] },
            ] },
        }));
        let desired = validate::validate(&set.unwrap(), None, Timestamp::UNIX_EPOCH).unwrap();
        let of = |name: &str| {
            desired
                .services
                .iter()
                .find(|service| service.catalog.name == name)
                .unwrap()
        };
        let live = |replicas, owns_replicas, scaled| observe::LiveDeployment {
            live: order::Live {
                revision: String::new(),
                wanted: replicas,
                ready: 0,
                updated: 0,
                settled: false,
                stuck: false,
            },
            template: None,
            replicas,
            owns_replicas,
            scaled,
            told: true,
        };
        let configservice = of("configservice");
        assert_eq!(
            replicas(configservice, None),
            Some(4),
            "it begins with the fewest"
        );
        assert_eq!(
            replicas(configservice, Some(&live(4, true, false))),
            Some(4),
            "letting go of the field would reset it"
        );
        assert_eq!(
            replicas(configservice, Some(&live(7, false, false))),
            None,
            "the autoscaler has it now"
        );
        let orchestrator = of("orderorchestrator");
        assert_eq!(replicas(orchestrator, Some(&live(1, true, false))), Some(3));
        assert_eq!(
            replicas(orchestrator, Some(&live(8, false, true))),
            None,
            "somebody else's autoscaler counts, too"
        );
    }
}
