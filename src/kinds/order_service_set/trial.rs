//! Trials as they run: what is asked of pods, and what follows for the objects. The decisions are
//! [`canary`](super::canary)'s.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use super::build::{SERVICE_LABEL, SET_LABEL, canary_name};
use super::canary::{self, Seen, Step, step};
use super::observe::{DatabaseState, Observed};
use super::order::{Candidate, Live, Turn};
use super::orders::{ACTIVE, HISTORY};
use super::validate::Desired;
use crate::answers;
use crate::kinds::service_resilience::inject::ADMIN_PORT;
use mrg_api::order_service_set::{CanaryPhase, CanaryStatus, Command};
use mrg_api::{OrderServiceSet, ServiceResilience};
use mrg_kube_support::delete_if_unchanged;
use mrg_policy::Report;

/// What the split of order reads is called where people speak to it:
/// `mrg.bluebird.id/rollout-orders`.
pub const SPLIT: &str = "orders";

/// The beginning of the annotations by which people speak to trials.
pub const COMMAND: &str = "mrg.bluebird.id/rollout-";

/// A pod as trials see it.
#[derive(Debug)]
pub struct TrialPod {
    /// Its service, `fds` or `fds-canary`.
    pub service: String,
    /// Restarts of its containers.
    pub restarts: i32,
    /// What its sidecar says; `None` if it did not answer.
    pub report: Option<Report>,
}

/// The trial of a service.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What is remembered.
    pub state: CanaryStatus,
    /// Whether pods of the new version are wanted.
    pub runs: bool,
}

/// What somebody asked for, by service.
pub fn commands(set: &OrderServiceSet) -> BTreeMap<String, Command> {
    let one = |(key, value): (&String, &String)| {
        let service = key.strip_prefix(COMMAND)?;
        Some((
            service.to_owned(),
            serde_json::from_value(json!(value)).ok()?,
        ))
    };
    set.annotations().iter().filter_map(one).collect()
}

/// The services whose pods must be asked, since a trial of them runs or may have to end.
pub fn asked(set: &OrderServiceSet, desired: &Desired, observed: &Observed) -> Vec<&'static str> {
    let runs = |name: &str| {
        let known = set.status.as_ref().and_then(|status| {
            status
                .services
                .iter()
                .find(|service| service.name == name)?
                .canary
                .as_ref()
        });
        known.is_some_and(|state| state.phase != CanaryPhase::Aborted)
            || observed.deployments.contains_key(&canary_name(name))
    };
    // Order reads are split at the door of the orchestrator.
    let splits = |name: &str| {
        let state = set
            .status
            .as_ref()
            .and_then(|status| status.read_split.as_ref());
        let over = state.is_some_and(|state| {
            matches!(state.phase, CanaryPhase::Promoting | CanaryPhase::Aborted)
        });
        name == "orderorchestrator"
            && desired
                .spec
                .read_split
                .as_ref()
                .is_some_and(|split| split.weight.is_none())
            && !over
    };
    desired
        .services
        .iter()
        .map(|service| service.catalog.name)
        .filter(|name| runs(name) || splits(name))
        .collect()
}

/// Asks the sidecars of these services and of their canaries.
///
/// # Errors
/// If the API server does not answer.
pub async fn pods(
    client: &Client,
    http: &reqwest::Client,
    desired: &Desired,
    services: &[&str],
) -> Result<Vec<TrialPod>, kube::Error> {
    if services.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = services
        .iter()
        .flat_map(|name| [(*name).to_owned(), canary_name(name)])
        .collect();
    let selector = format!(
        "{SET_LABEL}={},{SERVICE_LABEL} in ({})",
        desired.name,
        names.join(",")
    );
    let pods: Api<Pod> = Api::namespaced(client.clone(), &desired.namespace);
    let ask = |pod: Pod| async move {
        let status = pod.status.clone().unwrap_or_default();
        let ready = status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let restarts = status
            .container_statuses
            .iter()
            .flatten()
            .map(|container| container.restart_count)
            .sum();
        let address = status
            .pod_ip
            .filter(|_| ready && pod.metadata.deletion_timestamp.is_none());
        let report = match address {
            Some(address) => report(http, &address).await,
            None => None,
        };
        let service = pod.labels().get(SERVICE_LABEL).cloned().unwrap_or_default();
        // A pod that is not ready gets no requests, so that it keeps no weight, either.
        (ready || restarts > 0).then_some(TrialPod {
            service,
            restarts,
            report,
        })
    };
    let all = pods.list(&ListParams::default().labels(&selector)).await?;
    Ok(futures::future::join_all(all.items.into_iter().map(ask))
        .await
        .into_iter()
        .flatten()
        .collect())
}

async fn report(http: &reqwest::Client, address: &str) -> Option<Report> {
    let host = if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    };
    let asked = http
        .get(format!("http://{host}:{ADMIN_PORT}/state"))
        .timeout(Duration::from_secs(2))
        .send()
        .await;
    answers::json(asked.ok()?.error_for_status().ok()?).await
}

/// Names a step of a trial: what is counted in it is counted for it alone.
pub fn trial_name(state: &CanaryStatus) -> String {
    format!("{}-{}-{}", state.revision, state.step, state.weight)
}

/// Decides about all trials, and changes the turns of those services that are tried out.
pub fn decide(
    set: &OrderServiceSet,
    desired: &Desired,
    observed: &Observed,
    candidates: &[Candidate],
    pods: &[TrialPod],
    turns: &mut BTreeMap<&'static str, Turn>,
    now: Timestamp,
) -> BTreeMap<&'static str, Trial> {
    let Some(spec) = &desired.spec.rollout.canary else {
        return BTreeMap::new();
    };
    let said = commands(set);
    let mut trials = BTreeMap::new();
    for candidate in candidates {
        let Some(live) = &candidate.live else {
            continue;
        };
        let before = set.status.as_ref().and_then(|status| {
            status
                .services
                .iter()
                .find(|service| service.name == candidate.name)
        });
        let before = before
            .and_then(|service| service.canary.as_ref())
            .filter(|state| state.revision == candidate.revision);
        if live.revision == candidate.revision {
            let passed = before
                .filter(|_| !live.settled)
                .and_then(|before| canary::passed(before, now.as_second()));
            trials.extend(passed.map(|state| (candidate.name, Trial { state, runs: true })));
            continue;
        }
        let turn = turns.get(candidate.name);
        let held_up = match turn {
            Some(Turn::Keep(why)) => why.clone(),
            _ => None,
        };
        // One that does not serve has nothing to lose; one whose turn has not come does not begin.
        if live.ready == 0
            || live.stuck
            || matches!(turn, Some(Turn::Wait(_)))
            || (before.is_none() && held_up.is_some())
        {
            continue;
        }
        let seen = seen(
            candidate.name,
            before,
            observed,
            pods,
            held_up,
            said.get(candidate.name).copied(),
        );
        let (state, turn, runs) =
            match step(spec, &candidate.revision, before, &seen, now.as_second()) {
                Step::Try(state) => {
                    let told = format!(
                        "revision {} gets {}%: {}",
                        state.revision, state.weight, state.message
                    );
                    (state, Turn::Keep(Some(told)), true)
                }
                Step::Promote(state) => (state, Turn::Apply, true),
                Step::Abort(state) => {
                    let told = format!(
                        "revision {} was taken back: {}; correct the spec, or retry",
                        state.revision, state.message
                    );
                    (state, Turn::Keep(Some(told)), false)
                }
            };
        turns.insert(candidate.name, turn);
        trials.insert(candidate.name, Trial { state, runs });
    }
    trials
}

/// Where the split of order reads stands: as somebody has set it, or as far as it has come by
/// itself.
pub fn split(
    set: &OrderServiceSet,
    desired: &Desired,
    observed: &Observed,
    database: &DatabaseState,
    pods: &[TrialPod],
    now: Timestamp,
) -> Option<CanaryStatus> {
    let wanted = desired.spec.read_split.as_ref()?;
    let state = |weight, message: &str| CanaryStatus {
        revision: SPLIT.to_owned(),
        phase: CanaryPhase::Starting,
        weight,
        step: 0,
        steps: 1,
        since: 0,
        message: message.to_owned(),
    };
    if let Some(why) = &database.read_split_obstacle {
        return Some(state(0, why));
    }
    let before = set
        .status
        .as_ref()
        .and_then(|status| status.read_split.as_ref());
    if let Some(weight) = wanted.weight {
        return Some(CanaryStatus {
            phase: CanaryPhase::Promoting,
            ..state(weight, "set by spec.readSplit.weight")
        });
    }
    // A weight that somebody had set is no trial.
    let before = before.filter(|before| before.revision == SPLIT && before.steps > 1);
    let live = |name: &str| observed.deployments.get(name).map(|there| &there.live);
    let (active, history) = (live(ACTIVE), live(HISTORY));
    let sum = |of: fn(&Live) -> i32| active.map_or(0, of) + history.map_or(0, of);
    let mut seen = Seen {
        ready: sum(|live| live.ready),
        wanted: sum(|live| live.wanted),
        stuck: active.is_some_and(|live| live.stuck) || history.is_some_and(|live| live.stuck),
        command: commands(set).get(SPLIT).copied(),
        frozen: database.trouble.clone(),
        ..Seen::default()
    };
    if let Some(before) = before {
        let trial = trial_name(before);
        let stable: Vec<&TrialPod> = pods
            .iter()
            .filter(|pod| pod.service == "orderorchestrator")
            .collect();
        let keeps = |pod: &TrialPod| {
            let report = pod.report.as_ref()?;
            (!report.routes.is_empty() && report.routes.iter().all(|route| route.trial == trial))
                .then(|| report.routes.clone())
        };
        let reports: Vec<_> = stable.iter().filter_map(|pod| keeps(pod)).collect();
        seen.weight_kept = !stable.is_empty() && reports.len() == stable.len();
        for route in reports.iter().flatten() {
            seen.opened += route.opened;
            seen.canary.add(&route.canary);
            seen.stable.add(&route.stable);
        }
    }
    let spec = desired.spec.rollout.canary.clone().unwrap_or_default();
    Some(match step(&spec, SPLIT, before, &seen, now.as_second()) {
        Step::Try(state) | Step::Abort(state) => state,
        Step::Promote(state) => CanaryStatus {
            weight: 100,
            ..state
        },
    })
}

fn seen(
    name: &str,
    state: Option<&CanaryStatus>,
    observed: &Observed,
    pods: &[TrialPod],
    frozen: Option<String>,
    command: Option<Command>,
) -> Seen {
    let canary = canary_name(name);
    let there = observed.deployments.get(&canary).map(|there| &there.live);
    // Pods of an earlier revision do not speak for this one.
    let there = there.filter(|live| state.is_some_and(|state| state.revision == live.revision));
    let open = |name: &str| {
        let status = observed.resilience.get(name).and_then(Option::as_ref);
        let open = status
            .into_iter()
            .flat_map(|status| &status.breakers)
            .filter(|breaker| breaker.open > 0);
        open.map(|breaker| format!("{}/{}", breaker.dependency, breaker.provider))
            .collect::<Vec<_>>()
    };
    let beside = open(name);
    let mut seen = Seen {
        ready: there.map_or(0, |live| {
            if live.settled {
                live.ready
            } else {
                live.ready.min(live.updated)
            }
        }),
        wanted: there.map_or(0, |live| live.wanted),
        stuck: there.is_some_and(|live| live.stuck),
        restarts: pods
            .iter()
            .filter(|pod| pod.service == canary && there.is_some())
            .map(|pod| pod.restarts)
            .sum(),
        breakers_open: open(&canary)
            .into_iter()
            .filter(|breaker| there.is_some() && !beside.contains(breaker))
            .collect(),
        frozen,
        command,
        ..Seen::default()
    };
    let Some(state) = state else { return seen };
    let trial = trial_name(state);
    let stable: Vec<&TrialPod> = pods.iter().filter(|pod| pod.service == name).collect();
    let reports: Vec<_> = stable
        .iter()
        .filter_map(|pod| {
            pod.report
                .as_ref()?
                .canary
                .as_ref()
                .filter(|canary| canary.trial == trial)
        })
        .collect();
    seen.weight_kept = !stable.is_empty() && reports.len() == stable.len();
    for report in reports {
        seen.opened += report.opened;
        seen.canary.add(&report.canary);
        seen.stable.add(&report.stable);
    }
    seen
}

/// Takes a canary's pods away that nobody wants any more, once no sidecar sends them anything. Says
/// whether one is still there.
///
/// # Errors
/// If the API server does not do it.
pub async fn retire(
    client: &Client,
    desired: &Desired,
    observed: &Observed,
    trials: &BTreeMap<&'static str, Trial>,
    pods: &[TrialPod],
) -> Result<bool, kube::Error> {
    let mut left = false;
    for service in &desired.services {
        let (name, canary) = (service.catalog.name, canary_name(service.catalog.name));
        let there =
            observed.deployments.contains_key(&canary) || observed.resilience.contains_key(&canary);
        if !there || trials.get(name).is_some_and(|trial| trial.runs) {
            continue;
        }
        left = true;
        let sends = |pod: &TrialPod| {
            pod.service == name
                && pod
                    .report
                    .as_ref()
                    .is_none_or(|report| report.canary.is_some())
        };
        if pods.iter().any(sends) {
            continue;
        }
        tracing::info!(name = canary, "deleted: its trial is over");
        delete::<Deployment>(client, desired, &canary).await?;
        delete::<Service>(client, desired, &canary).await?;
        delete::<ServiceResilience>(client, desired, &canary).await?;
    }
    Ok(left)
}

async fn delete<K>(client: &Client, desired: &Desired, name: &str) -> Result<(), kube::Error>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &desired.namespace);
    let owned = api.get_metadata_opt(name).await?.filter(|object| {
        object
            .owner_references()
            .iter()
            .any(|owner| owner.uid == desired.uid)
    });
    let Some(object) = owned else { return Ok(()) };
    delete_if_unchanged(&api, name, object.uid(), DeleteParams::default()).await
}

/// Takes away what somebody said, once it is in the status.
///
/// # Errors
/// If the API server does not do it.
pub async fn heard(client: &Client, set: &OrderServiceSet) -> Result<(), kube::Error> {
    let said: BTreeMap<&String, Option<String>> = set
        .annotations()
        .keys()
        .filter(|key| key.starts_with(COMMAND))
        .map(|key| (key, None))
        .collect();
    if said.is_empty() {
        return Ok(());
    }
    let api: Api<OrderServiceSet> =
        Api::namespaced(client.clone(), &set.namespace().unwrap_or_default());
    let patch =
        json!({ "metadata": { "annotations": said, "resourceVersion": set.resource_version() } });
    match api
        .patch(
            &set.name_any(),
            &PatchParams::default(),
            &Patch::Merge(&patch),
        )
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
