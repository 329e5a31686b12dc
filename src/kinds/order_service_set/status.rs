//! What is the case, for people.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::observe::{DatabaseState, Observed};
use super::order::Turn;
use super::stores::Known;
use super::trial::Trial;
use super::validate::{Desired, DesiredService};
use crate::conditions::{Verdict, conditions, verdict};
use mrg_api::OrderServiceSet;
use mrg_api::order_service_set::{
    BlastRow, CanaryPhase, CanaryStatus, ObjectiveRow, OrderServiceSetStatus, Phase, ServiceStatus,
    StoreStatus,
};
use mrg_api::service_resilience::Priority;
use mrg_base::Millis;
use mrg_platform_catalog::blast_radius::{Impact, impact, table};
use mrg_platform_catalog::{INFRASTRUCTURE, Objective, SERVICES};

/// What was found out in a reconciliation.
pub(super) struct Found<'a> {
    /// What there is.
    pub observed: &'a Observed,
    /// The database.
    pub database: &'a DatabaseState,
    /// Whose turn it is.
    pub turns: &'a BTreeMap<&'static str, Turn>,
    /// What is being tried out.
    pub trials: &'a BTreeMap<&'static str, Trial>,
    /// Cache and broker, as they answer.
    pub stores: &'a BTreeMap<&'static str, Known>,
    /// Where the split of order reads stands.
    pub split: Option<CanaryStatus>,
    /// What could not be applied.
    pub failure: Option<String>,
}

/// The status of a spec that cannot be done.
pub(super) fn stalled(
    object: &OrderServiceSet,
    reason: &'static str,
    message: &str,
    now: Timestamp,
) -> OrderServiceSetStatus {
    let old = object.status.clone().unwrap_or_default();
    let verdicts = vec![
        verdict("Ready", false, reason, message),
        verdict("Reconciling", false, reason, ""),
        verdict("Stalled", true, reason, message),
    ];
    OrderServiceSetStatus {
        observed_generation: object.metadata.generation,
        conditions: conditions(&old.conditions, verdicts, object.metadata.generation, now),
        ..old
    }
}

/// The status.
pub(super) fn status(
    object: &OrderServiceSet,
    desired: &Desired,
    found: &Found<'_>,
    now: Timestamp,
) -> OrderServiceSetStatus {
    let old = object.status.clone().unwrap_or_default();
    let services: Vec<ServiceStatus> = desired
        .services
        .iter()
        .map(|service| service_status(service, &old, found, now))
        .collect();
    let of_tier = |tier: Option<Priority>| {
        let all: Vec<&ServiceStatus> = services
            .iter()
            .filter(|service| tier.is_none_or(|tier| service.tier == tier))
            .collect();
        Some(format!(
            "{}/{}",
            all.iter().filter(|service| serves(service)).count(),
            all.len()
        ))
    };
    let blast: Vec<Impact> = table(&desired.graph);
    let stores = stores(found);
    let objectives = objectives(desired, &old, (&services, &stores), found.database, now);
    let verdicts = judge(desired, found, &services, &objectives);
    OrderServiceSetStatus {
        observed_generation: object.metadata.generation,
        ready: of_tier(None),
        p0: of_tier(Some(Priority::P0)),
        p1: of_tier(Some(Priority::P1)),
        p2: of_tier(Some(Priority::P2)),
        rollout: rollout(&services, found),
        read_split: found.split.clone(),
        risk: Some(risk(desired, found, &services)),
        blast_radius: blast.iter().map(row).collect(),
        conditions: conditions(&old.conditions, verdicts, object.metadata.generation, now),
        objectives,
        stores,
        services,
    }
}

fn stores(found: &Found<'_>) -> Vec<StoreStatus> {
    let one = |(name, known): (&&'static str, &Known)| StoreStatus {
        name: (*name).to_owned(),
        answers: known.trouble.is_none(),
        since: known.since.to_string(),
        message: known.trouble.clone(),
    };
    found.stores.iter().map(one).collect()
}

/// Whether every request finds a pod: one that misses a pod or changes them serves.
fn serves(service: &ServiceStatus) -> bool {
    !matches!(service.phase, Phase::Down | Phase::Waiting)
}

fn row(impact: &Impact) -> BlastRow {
    BlastRow {
        part: impact.part.clone(),
        radius: impact.radius,
        remaining: impact.remaining,
        contained_by: impact.contained_by.clone(),
        fails: impact.fails.clone(),
        flows: impact
            .flows
            .iter()
            .map(|flow| format!("{} {}%", flow.flow, flow.loss))
            .collect(),
    }
}

fn service_status(
    service: &DesiredService,
    old: &OrderServiceSetStatus,
    found: &Found<'_>,
    now: Timestamp,
) -> ServiceStatus {
    let name = service.catalog.name;
    let before = old.services.iter().find(|before| before.name == name);
    let mut status = ServiceStatus {
        name: name.to_owned(),
        tier: service.tier(),
        ready: "0/0".to_owned(),
        ..ServiceStatus::default()
    };
    if let Some(resilience) = found.observed.resilience.get(name).and_then(Option::as_ref) {
        let open = resilience
            .breakers
            .iter()
            .filter(|breaker| breaker.open > 0);
        status.breakers_open = open
            .map(|breaker| format!("{}/{}", breaker.dependency, breaker.provider))
            .collect();
        status.queued = resilience
            .queue
            .as_ref()
            .map_or(0, |queue| queue.depth + queue.inquiry);
    }
    status.canary = found.trials.get(name).map(|trial| trial.state.clone());
    let was_up = before.is_some_and(|before| serves(before) || before.down_since.is_some());
    let since = || {
        Some(
            before
                .and_then(|before| before.down_since.clone())
                .unwrap_or_else(|| now.to_string()),
        )
    };
    let turn = found.turns.get(name);
    let Some(there) = found.observed.deployments.get(name) else {
        status.message = match turn {
            Some(Turn::Wait(why)) => Some(why.clone()),
            _ => None,
        };
        if was_up {
            (status.phase, status.down_since) = (Phase::Down, since());
        }
        return status;
    };
    let live = &there.live;
    status.ready = format!("{}/{}", live.ready, live.wanted);
    status.revision = Some(live.revision.clone());
    let changes = live.updated < live.wanted || matches!(turn, Some(Turn::Apply));
    (status.phase, status.message) = match turn {
        _ if live.ready == 0 && !was_up => (
            Phase::Waiting,
            Some("its first pods are starting".to_owned()),
        ),
        _ if live.ready == 0 => (Phase::Down, Some("no pod is ready".to_owned())),
        _ if live.stuck => (
            Phase::Stuck,
            Some(format!(
                "new pods of revision {} did not become ready; {} old ones serve; correct the spec",
                live.revision, live.ready
            )),
        ),
        Some(Turn::Keep(Some(why))) => match status.canary.as_ref().map(|canary| canary.phase) {
            Some(CanaryPhase::Aborted) => (Phase::Aborted, Some(why.clone())),
            Some(_) => (Phase::Progressing, Some(why.clone())),
            None => (Phase::Pending, Some(why.clone())),
        },
        _ if changes => (
            Phase::Progressing,
            Some(format!("{} of {} pods are new", live.updated, live.wanted)),
        ),
        _ if live.ready < live.wanted => (
            Phase::Degraded,
            Some(format!("{} of {} pods are ready", live.ready, live.wanted)),
        ),
        _ => (Phase::Ready, None),
    };
    if let Some(before) = before.filter(|_| !there.told && status.phase != Phase::Down) {
        // Numbers from before a change say nothing about it: a rollout would look finished as it
        // begins.
        (status.phase, status.message) = (before.phase, before.message.clone());
    }
    if status.phase == Phase::Down {
        status.down_since = since();
    }
    status
}

fn rollout(services: &[ServiceStatus], found: &Found<'_>) -> Option<String> {
    let one = |service: &ServiceStatus| {
        if let Some(canary) = &service.canary {
            let (name, step) = (&service.name, (canary.step + 1).min(canary.steps));
            return Some(match canary.phase {
                CanaryPhase::Starting | CanaryPhase::Baking => {
                    format!("{name} {}% ({step}/{})", canary.weight, canary.steps)
                }
                CanaryPhase::Promoting => format!("{name} 100% ({step}/{})", canary.steps),
                CanaryPhase::Paused => {
                    format!("{name} {}% ({step}/{}) paused", canary.weight, canary.steps)
                }
                CanaryPhase::Aborted => format!("{name} aborted"),
            });
        }
        let live = found
            .observed
            .deployments
            .get(&service.name)
            .map(|there| &there.live)?;
        match service.phase {
            Phase::Progressing => Some(format!(
                "{} {}/{}",
                service.name,
                live.updated.min(live.wanted),
                live.wanted
            )),
            Phase::Stuck => Some(format!("{} stuck", service.name)),
            _ => None,
        }
    };
    let mut moving: Vec<String> = services.iter().filter_map(one).collect();
    let split = found
        .split
        .as_ref()
        .filter(|split| split.phase != CanaryPhase::Promoting);
    moving.extend(split.map(|split| match split.phase {
        CanaryPhase::Aborted => "orders aborted".to_owned(),
        CanaryPhase::Paused => format!(
            "orders {}% ({}/{}) paused",
            split.weight,
            split.step + 1,
            split.steps
        ),
        _ => format!(
            "orders {}% ({}/{})",
            split.weight,
            split.step + 1,
            split.steps
        ),
    }));
    let pending = services
        .iter()
        .filter(|service| service.phase == Phase::Pending)
        .count();
    match (moving.is_empty(), pending) {
        (true, 0) => None,
        (true, _) => services
            .iter()
            .find(|service| service.phase == Phase::Pending)
            .and_then(|service| service.message.clone()),
        (false, 0) => Some(moving.join(", ")),
        (false, _) => Some(format!("{} (+{pending})", moving.join(", "))),
    }
}

/// What fails now and would be missed most.
fn risk(desired: &Desired, found: &Found<'_>, services: &[ServiceStatus]) -> String {
    let mut failing: Vec<&str> = services
        .iter()
        .filter(|service| service.phase == Phase::Down)
        .map(|service| service.name.as_str())
        .collect();
    if found.database.trouble.is_some() && found.database.wiring.is_some() {
        failing.push("postgresql");
    }
    failing.extend(
        found
            .stores
            .iter()
            .filter(|(_, known)| known.trouble.is_some())
            .map(|(name, _)| *name),
    );
    let provider = |text: &String| text.split('/').next_back().map(str::to_owned);
    let open: Vec<String> = services
        .iter()
        .flat_map(|service| &service.breakers_open)
        .filter_map(provider)
        .collect();
    failing.extend(open.iter().map(String::as_str));
    failing.retain(|name| desired.graph.part(name).is_some());
    let worst = failing
        .into_iter()
        .map(|name| impact(&desired.graph, name))
        .max_by_key(|impact| (impact.remaining, impact.radius));
    worst.map_or_else(
        || "-".to_owned(),
        |impact| format!("{}% ({})", impact.remaining, impact.part),
    )
}

fn wanted(desired: &Desired, part: &str, of_catalog: Objective) -> Objective {
    let own = desired
        .spec
        .objectives
        .iter()
        .find(|objective| objective.part == part);
    own.map_or(of_catalog, |own| Objective {
        rto: own.rto.0,
        rpo: own.rpo.map(|rpo| rpo.0).or(of_catalog.rpo),
    })
}

/// What is to be achieved, and how long parts were away, as it was seen from here.
fn objectives(
    desired: &Desired,
    old: &OrderServiceSetStatus,
    there: (&[ServiceStatus], &[StoreStatus]),
    database: &DatabaseState,
    now: Timestamp,
) -> Vec<ObjectiveRow> {
    let of_services = SERVICES
        .iter()
        .map(|service| (service.name, service.objective.value));
    let of_infrastructure = INFRASTRUCTURE
        .iter()
        .map(|part| (part.name, part.objective.value));
    let written = |millis: Millis| mrg_api::Duration(millis).to_string();
    let one = |(part, objective): (&str, Objective)| {
        let objective = wanted(desired, part, objective);
        let before = old
            .objectives
            .iter()
            .find(|row| row.part == part)
            .cloned()
            .unwrap_or_default();
        let mut row = ObjectiveRow {
            part: part.to_owned(),
            rto: written(objective.rto),
            rpo: objective.rpo.map(written),
            last: before.last,
            worst: before.worst,
            at: before.at,
            met: None,
        };
        if let Some((away, at)) =
            ended(part, old, there, database, now).filter(|(_, at)| row.at.as_ref() != Some(at))
        {
            let worst = row
                .worst
                .as_ref()
                .and_then(|text| mrg_api::Duration::try_from(text.clone()).ok())
                .map_or(Millis(0), |worst| worst.0);
            row.last = Some(written(away));
            row.worst = Some(written(away.max(worst)));
            row.at = Some(at);
        }
        let worst = row
            .worst
            .as_ref()
            .and_then(|text| mrg_api::Duration::try_from(text.clone()).ok());
        row.met = worst.map(|worst| worst.0 <= objective.rto);
        row
    };
    of_services.chain(of_infrastructure).map(one).collect()
}

/// How long a part was away, if it has just come back, and when.
fn ended(
    part: &str,
    old: &OrderServiceSetStatus,
    (services, stores): (&[ServiceStatus], &[StoreStatus]),
    database: &DatabaseState,
    now: Timestamp,
) -> Option<(Millis, String)> {
    if part == "postgresql" {
        let (held, at) = database.last_hold.clone()?;
        return Some((Millis(u64::try_from(held).ok()?), at));
    }
    if let Some(before) = old.stores.iter().find(|store| store.name == part) {
        let back = stores
            .iter()
            .find(|store| store.name == part && store.answers && !before.answers)?;
        let (from, to) = (
            before.since.parse::<Timestamp>().ok()?,
            back.since.parse::<Timestamp>().ok()?,
        );
        return Some((
            Millis(u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)),
            back.since.clone(),
        ));
    }
    let since = old
        .services
        .iter()
        .find(|service| service.name == part)?
        .down_since
        .as_ref()?;
    let back = services
        .iter()
        .any(|service| service.name == part && service.down_since.is_none() && serves(service));
    let away: SignedDuration = now.duration_since(since.parse::<Timestamp>().ok()?);
    back.then(|| {
        (
            Millis(u64::try_from(away.as_millis()).unwrap_or(0)),
            now.to_string(),
        )
    })
}

fn judge(
    desired: &Desired,
    found: &Found<'_>,
    services: &[ServiceStatus],
    objectives: &[ObjectiveRow],
) -> Vec<Verdict> {
    vec![
        ready(desired, found, services),
        reconciling(found, services),
        stalled_by_rollout(services),
        degraded(found, services),
        met(objectives),
    ]
}

/// The services in one of these phases, separated by commas.
fn in_phase(services: &[ServiceStatus], phases: &[Phase]) -> String {
    services
        .iter()
        .filter(|service| phases.contains(&service.phase))
        .map(|service| service.name.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

fn ready(desired: &Desired, found: &Found<'_>, services: &[ServiceStatus]) -> Verdict {
    let unready = |reason, message| verdict("Ready", false, reason, message);
    if let Some(missing) = &found.database.missing {
        return unready("DatabaseNotFound", missing.clone());
    }
    if let Some(missing) = found.observed.missing_secrets.first() {
        return unready("SecretNotFound", missing.clone());
    }
    let down = in_phase(services, &[Phase::Down]);
    if !down.is_empty() {
        return unready("ServicesDown", format!("no pod is ready of {down}"));
    }
    let waiting = in_phase(services, &[Phase::Waiting]);
    if !waiting.is_empty() {
        return unready("Starting", format!("not there yet: {waiting}"));
    }
    let reason = if in_phase(services, &[Phase::Stuck]).is_empty() {
        "Healthy"
    } else {
        "RolloutStuck"
    };
    let message = format!("{} services serve", desired.services.len());
    verdict("Ready", true, reason, message)
}

fn degraded(found: &Found<'_>, services: &[ServiceStatus]) -> Verdict {
    let failing = [Phase::Down, Phase::Degraded, Phase::Stuck, Phase::Aborted];
    let failing = services
        .iter()
        .filter(|service| failing.contains(&service.phase))
        .map(told);
    let open = services
        .iter()
        .filter(|service| !service.breakers_open.is_empty())
        .map(|service| {
            let breakers = service.breakers_open.join(", ");
            format!("{} has open breakers: {breakers}", service.name)
        });
    let stores = found.stores.iter().filter_map(|(name, known)| {
        let trouble = known.trouble.as_ref()?;
        Some(format!("{name} does not answer: {trouble}"))
    });
    let database = found.database.trouble.clone();
    let bad: Vec<String> = failing.chain(open).chain(database).chain(stores).collect();
    if bad.is_empty() {
        verdict("Degraded", false, "Healthy", "")
    } else {
        verdict("Degraded", true, "PartsFail", bad.join("; "))
    }
}

fn reconciling(found: &Found<'_>, services: &[ServiceStatus]) -> Verdict {
    let busy = |reason, message| verdict("Reconciling", true, reason, message);
    if let Some(what) = &found.failure {
        return busy("ApplyFailed", format!("{what}; it is tried again"));
    }
    let moving = [Phase::Progressing, Phase::Pending, Phase::Waiting];
    let moving = in_phase(services, &moving);
    if !moving.is_empty() {
        return busy("Progressing", moving);
    }
    if splits(found) {
        let split = found.split.as_ref();
        let message = split.map_or("", |split| split.message.as_str());
        return busy("SplittingReads", format!("reads of orders: {message}"));
    }
    verdict("Reconciling", false, "Settled", "")
}

fn stalled_by_rollout(services: &[ServiceStatus]) -> Verdict {
    let aborted = in_phase(services, &[Phase::Aborted]);
    if aborted.is_empty() {
        return verdict("Stalled", false, "Progressing", "");
    }
    let message = format!(
        "the change of {aborted} was taken back; the old pods serve; correct the spec, or say retry: kubectl mrg rollout"
    );
    verdict("Stalled", true, "RolloutAborted", message)
}

/// Whether the split of order reads is under way.
fn splits(found: &Found<'_>) -> bool {
    found
        .split
        .as_ref()
        .is_some_and(|split| !matches!(split.phase, CanaryPhase::Promoting | CanaryPhase::Aborted))
}

fn told(service: &ServiceStatus) -> String {
    format!(
        "{}: {}",
        service.name,
        service.message.as_deref().unwrap_or("-")
    )
}

fn met(objectives: &[ObjectiveRow]) -> Verdict {
    let missed: Vec<String> = objectives
        .iter()
        .filter(|row| row.met == Some(false))
        .map(|row| {
            format!(
                "{} was away for {}, and {} is its objective",
                row.part,
                row.worst.as_deref().unwrap_or("-"),
                row.rto
            )
        })
        .collect();
    let measured = objectives.iter().filter(|row| row.met.is_some()).count();
    match (missed.is_empty(), measured) {
        (false, _) => verdict("ObjectivesMet", false, "Missed", missed.join("; ")),
        (true, 0) => verdict(
            "ObjectivesMet",
            false,
            "NotMeasured",
            "nothing has failed yet",
        ),
        (true, _) => verdict(
            "ObjectivesMet",
            true,
            "Measured",
            format!(
                "{measured} of {} parts were away, none for longer than its objective",
                objectives.len()
            ),
        ),
    }
}
