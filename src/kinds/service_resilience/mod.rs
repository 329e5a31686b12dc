//! `ServiceResilience`: observe → validate → build → apply → status.

mod build;
pub mod inject;
mod news;
pub(crate) mod numbers;
mod observe;
mod proxies;
mod repair;
mod status;
pub mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self as core, Secret};
use kube::api::{Api, EvictParams};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};

use crate::news::publish;
use crate::reconciler::{self, Reconciler, recorder};
use crate::seen::Pod;
use crate::shared::{Shared, backstop, concerned, controller};
use mrg_api::ServiceResilience;
use mrg_api::service_resilience::{Convergence, Drift, Mode, ServiceResilienceStatus, TargetRef};
use mrg_kube_support::{Reader, take_as, write_status};
use observe::Observed;
use proxies::{Known, Place, Proxies};
use repair::{FLOOR_MANAGER, Floor};
use status::Found;
use validate::Desired;

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

/// The object, or why it cannot be read.
pub type Object = DeserializeGuard<ServiceResilience>;

struct Context {
    shared: Arc<Shared>,
    proxies: Proxies,
    recorder: Recorder,
}

const BACKSTOP: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(2);

/// Runs the controller until it is told to end.
pub async fn run(shared: Arc<Shared>, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let (proxies, news) = Proxies::new();
    let recorder = recorder(&shared.client);
    let controller = controller(&shared.resilience);
    // Asked of every object at every change of a workload: nothing is copied.
    let targets =
        |object: &Object, kind: &str, namespace: Option<&String>, name: Option<&String>| {
            let target = object.0.as_ref().ok().map(|object| &object.spec.target_ref);
            let same =
                |target: &TargetRef| target.kind.name() == kind && Some(&target.name) == name;
            object.meta().namespace.as_ref() == namespace && target.is_some_and(same)
        };
    let deployments = concerned(
        shared.deployments.changes(),
        controller.store(),
        move |object: &Object, it| {
            targets(
                object,
                "Deployment",
                it.metadata.namespace.as_ref(),
                it.metadata.name.as_ref(),
            )
        },
    );
    let stateful_sets = concerned(
        shared.stateful_sets.changes(),
        controller.store(),
        move |object: &Object, it| {
            targets(
                object,
                "StatefulSet",
                it.metadata.namespace.as_ref(),
                it.metadata.name.as_ref(),
            )
        },
    );
    let autoscalers = concerned(
        shared.autoscalers.changes(),
        controller.store(),
        move |object: &Object, it| {
            let target = it.spec.as_ref().map(|spec| &spec.scale_target_ref);
            target.is_some_and(|target| {
                targets(
                    object,
                    &target.kind,
                    it.metadata.namespace.as_ref(),
                    Some(&target.name),
                )
            })
        },
    );
    // Pods with a sidecar say whose they are; of the others, their workload's status tells.
    let labelled = |namespace: Option<String>, labels: &BTreeMap<String, String>| {
        let name = labels.get(inject::LABEL).cloned();
        futures::future::ready(
            name.zip(namespace)
                .map(|(name, namespace)| ObjectRef::new(&name).within(&namespace)),
        )
    };
    let pods = shared
        .pods
        .changes()
        .filter_map(move |pod| labelled(pod.namespace(), pod.labels()));
    let budgets = shared
        .budgets
        .changes()
        .filter_map(move |budget| labelled(budget.namespace(), budget.labels()));
    let controller = controller
        .reconcile_on(deployments)
        .reconcile_on(stateful_sets)
        .reconcile_on(autoscalers)
        .reconcile_on(pods)
        .reconcile_on(budgets)
        .reconcile_on(news);
    reconciler::run(
        controller,
        Context {
            shared,
            proxies,
            recorder,
        },
        stop,
    )
    .await;
}

impl Reconciler for Context {
    type Kind = ServiceResilience;
    type Error = Error;

    async fn reconcile(
        &self,
        resilience: &ServiceResilience,
        reference: ObjectRef<Object>,
    ) -> Result<Action, Error> {
        if let Err(unread) = self.shared.whole().await {
            self.report(
                resilience,
                status::stalled(resilience, "Unread", &unread.to_string(), Timestamp::now()),
            )
            .await?;
            return Ok(Action::requeue(SOON));
        }
        let now = Timestamp::now();
        let desired = match validate::validate(resilience, now) {
            Ok(desired) => desired,
            Err(problems) => {
                self.report(
                    resilience,
                    status::stalled(resilience, "InvalidSpec", &problems.to_string(), now),
                )
                .await?;
                return Ok(Action::await_change());
            }
        };
        let observed = observe::observe(&self.shared, &desired)
            .await
            .map_err(|error| Error::Observe(Box::new(error)))?;
        let foreign_budget = observed.foreign_budget.is_some();
        let applied = self
            .shared
            .applied
            .apply_all(&build::build(
                &desired,
                observed.workload.as_deref(),
                foreign_budget,
            ))
            .await;
        let secrets = self.shared.secrets.reader();
        let token = self.token(&desired, &secrets).await?;
        let missing = missing(&desired, &secrets).await?;
        let floor = repair::floor(&desired, &observed, now);
        let mut drifts = Vec::new();
        let mut failure = applied
            .as_ref()
            .err()
            .map(|error| mrg_telemetry::chain(error));
        if let Floor::Raise { manifest, drift } = &floor {
            // Only this field, and only because nobody owns it who would bring it back.
            match take_as(&self.shared.client, manifest, FLOOR_MANAGER).await {
                // What the cache does not show yet is raised again, and told once.
                Ok(_) => {
                    drifts.extend(Some(drift.clone()).filter(|drift| !is_known(resilience, drift)));
                }
                Err(error) => failure = Some(mrg_telemetry::chain(&error)),
            }
        }
        let before = resilience
            .status
            .as_ref()
            .and_then(|status| status.template_probes);
        drifts.extend(
            observed
                .workload
                .as_deref()
                .and_then(|workload| repair::probe_drift(&desired, workload, before, now)),
        );
        let (known, pushed) = self
            .bring_up_to_date(&reference, &desired, &observed, &token)
            .await;
        // What pods, proxies and the workload do is told by them; this is for what nobody tells.
        let mut waits = failure.is_some() || missing.is_some() || !pushed;
        let found = Found {
            observed: &observed,
            proxies: &known,
            floor: &floor,
            drifts,
            failure,
            missing,
        };
        let new = status::status(resilience, &desired, &found, now);
        self.report(resilience, new).await?;
        applied?;
        waits |= !self.converge(&desired, &observed).await;
        let next = until_override_ends(&desired, now).unwrap_or(if waits {
            SOON
        } else {
            backstop(resilience, BACKSTOP)
        });
        Ok(Action::requeue(
            secrets.look_again().map_or(next, |soon| next.min(soon)),
        ))
    }

    fn forget(&self, namespace: &str, name: &str) {
        self.proxies.forget(namespace, name);
    }
}

fn is_known(resilience: &ServiceResilience, drift: &Drift) -> bool {
    resilience
        .status
        .as_ref()
        .is_some_and(|status| status.drift.contains(drift))
}

/// When the next override is over, the file is another.
fn until_override_ends(desired: &Desired, now: Timestamp) -> Option<Duration> {
    let ends = desired
        .spec
        .overrides
        .iter()
        .filter_map(|forced| forced.until.parse::<Timestamp>().ok());
    let next = ends.filter(|until| *until > now).min()?;
    Duration::try_from(next.duration_since(now))
        .ok()
        .map(|left| left + Duration::from_millis(100))
}

/// What is missing of the Secrets: pods that need it would not start.
async fn missing(desired: &Desired, secrets: &Reader<'_>) -> Result<Option<String>, Error> {
    let providers = desired
        .spec
        .dependencies
        .iter()
        .flat_map(|dependency| &dependency.providers);
    let of_providers = providers
        .filter_map(|provider| provider.credentials.as_ref())
        .map(|credentials| (&credentials.secret_name, &credentials.key));
    let of_queue = desired
        .spec
        .queue
        .iter()
        .filter_map(|queue| queue.database.as_ref())
        .map(|database| (&database.secret_name, &database.key));
    for (name, key) in of_providers.chain(of_queue).collect::<BTreeSet<_>>() {
        let secret = secrets
            .get(&desired.namespace, name)
            .await
            .map_err(|error| Error::Observe(Box::new(error)))?;
        let Some(secret) = secret else {
            return Ok(Some(format!(
                "the Secret `{name}` is not there; pods wait for it; create it"
            )));
        };
        if secret.get(key).is_none_or(Vec::is_empty) {
            return Ok(Some(format!(
                "the Secret `{name}` has no `{key}`, or it is empty; add it"
            )));
        }
    }
    Ok(None)
}

impl Context {
    /// The token by which proxies know the operator. Made once; another would lock the operator out
    /// of pods that have the first.
    async fn token(&self, desired: &Desired, secrets: &Reader<'_>) -> Result<String, Error> {
        let failed = |error| Error::Observe(Box::new(error));
        if let Some(token) = secrets
            .text(&desired.namespace, &desired.file_name(), "token")
            .await
            .map_err(failed)?
        {
            return Ok(token);
        }
        let random: [u8; 24] = rand::random();
        let token = mrg_base::hex(&random);
        let secret: Secret = serde_json::from_value(build::token_secret(desired, &token))
            .map_err(|error| failed(kube::Error::SerdeError(error)))?;
        let there = self.shared.secrets.create(&secret).await.map_err(failed)?;
        let known = there
            .get("token")
            .and_then(|bytes| String::from_utf8(bytes.clone()).ok());
        Ok(known.unwrap_or(token))
    }

    /// Asks the proxies, and gives the newest configuration to those that run another; whether all
    /// of them took it.
    async fn bring_up_to_date(
        &self,
        reference: &ObjectRef<Object>,
        desired: &Desired,
        observed: &Observed,
        token: &str,
    ) -> (BTreeMap<String, Known>, bool) {
        let injected = observed.pods.iter().filter(|pod| pod.injected);
        let place = |pod: &Arc<Pod>| {
            Some(Place {
                address: pod.address.clone()?,
                ready: pod.ready,
            })
        };
        let places: BTreeMap<String, Place> = injected
            .filter_map(|pod| Some((pod.name_any(), place(pod)?)))
            .collect();
        let known = self.proxies.ask(reference, &places);
        if desired.spec.mode == Mode::Audit {
            return (known, true);
        }
        let stale = |name: &String| {
            let report = known.get(name).and_then(|known| known.report.as_ref());
            report.is_some_and(|report| {
                report.config_hash != desired.hash && report.refused.is_none()
            })
        };
        let push = async |(name, place): (&String, &Place)| match self
            .proxies
            .push(&place.address, token, &desired.file)
            .await
        {
            Ok(()) => true,
            Err(why) => {
                tracing::warn!(
                    pod = name,
                    why,
                    "a proxy did not take the newest configuration; it is tried again"
                );
                false
            }
        };
        let pushed =
            futures::future::join_all(places.iter().filter(|(name, _)| stale(name)).map(push))
                .await;
        (known, pushed.into_iter().all(|taken| taken))
    }

    /// Pods without the sidecar are evicted one at a time, while all others are well. The budget
    /// has the last word; false if that was no.
    async fn converge(&self, desired: &Desired, observed: &Observed) -> bool {
        if desired.spec.mode == Mode::Audit || desired.spec.convergence == Convergence::Wait {
            return true;
        }
        let Some(workload) = &observed.workload else {
            return true;
        };
        let whole = observed.pods.len() >= usize::try_from(workload.wanted).unwrap_or(0)
            && observed.pods.iter().all(|pod| pod.ready);
        let Some(pod) = observed
            .pods
            .iter()
            .find(|pod| !pod.injected)
            .filter(|_| whole)
        else {
            return true;
        };
        let api: Api<core::Pod> = Api::namespaced(self.shared.client.clone(), &desired.namespace);
        match api.evict(&pod.name_any(), &EvictParams::default()).await {
            Ok(_) => {
                tracing::info!(
                    pod = pod.name_any(),
                    "evicted, to come back with the sidecar"
                );
                true
            }
            Err(error) => {
                tracing::info!(
                    pod = pod.name_any(),
                    error = mrg_telemetry::chain(&error),
                    "not evicted yet"
                );
                false
            }
        }
    }

    /// Writes the status if it is another.
    async fn report(
        &self,
        object: &ServiceResilience,
        new: ServiceResilienceStatus,
    ) -> Result<(), Error> {
        if object.status.as_ref() == Some(&new) {
            return Ok(());
        }
        let news = object
            .status
            .as_ref()
            .map(|old| news::between(old, &new))
            .unwrap_or_default();
        publish(&self.recorder, &object.object_ref(&()), news).await;
        write_status(&self.shared.client, object, &new)
            .await
            .map_err(|error| Error::Status(Box::new(error)))?;
        Ok(())
    }
}
