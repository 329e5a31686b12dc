//! What the status says. Pure but for the time of a condition's change, which comes in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::observe::Observed;
use super::proxies::Known;
use super::repair::{Floor, template_probes};
use super::validate::Desired;
use crate::conditions::{Verdict, conditions, verdict};
use crate::seen::Pod;
use mrg_api::ServiceResilience;
use mrg_api::service_resilience::{
    Audit, AuditRow, AuditState, BreakerStatus, Check, DRIFT_KEPT, Drift, Mode, PodsStatus,
    QueueStatus, ServiceResilienceSpec, ServiceResilienceStatus,
};
use mrg_breaker::State;
use mrg_policy::{Dependency, Forced, ProviderReport};

/// As many drifts are kept.
const DRIFTS: usize = 10;

/// Requests that wait longer than this are more than a short outage; the analysis has them sent
/// again after five minutes.
const OVERDUE: Duration = Duration::from_secs(330);

/// A status for a spec that cannot be done: everything stays, and the reason is told.
pub(super) fn stalled(
    object: &ServiceResilience,
    reason: &'static str,
    message: &str,
    now: Timestamp,
) -> ServiceResilienceStatus {
    let old = object.status.clone().unwrap_or_default();
    let verdicts = vec![
        verdict("Ready", false, reason, message),
        verdict("Reconciling", false, reason, message),
        verdict(
            "Stalled",
            true,
            reason,
            format!("{message}; proxies keep the last good configuration"),
        ),
    ];
    let generation = object.metadata.generation;
    ServiceResilienceStatus {
        observed_generation: generation,
        conditions: conditions(&old.conditions, verdicts, generation, now),
        ..old
    }
}

/// What was found and done in one reconciliation.
pub(super) struct Found<'a> {
    /// What there is.
    pub observed: &'a Observed,
    /// What the proxies said, by pod.
    pub proxies: &'a BTreeMap<String, Known>,
    /// What became of the number of pods.
    pub floor: &'a Floor,
    /// New drifts.
    pub drifts: Vec<Drift>,
    /// What could not be applied.
    pub failure: Option<String>,
    /// What is missing of the Secrets.
    pub missing: Option<String>,
}

/// The status, from what was found.
pub(super) fn status(
    object: &ServiceResilience,
    desired: &Desired,
    found: &Found<'_>,
    now: Timestamp,
) -> ServiceResilienceStatus {
    let old = object.status.clone().unwrap_or_default();
    let generation = object.metadata.generation;
    let pods = pods(desired, found);
    let breakers = breakers(desired, found.proxies);
    let enforced =
        desired.spec.mode == Mode::Enforce && pods.all > 0 && pods.acknowledged == pods.all;
    let queue = queue(desired, found.proxies);
    let mut verdicts = judge(desired, found, &pods, &breakers);
    verdicts.extend(queue.as_ref().map(|queue| overdue(queue, now)));
    let mut drift: Vec<Drift> = old
        .drift
        .into_iter()
        .filter(|drift| is_recent(drift, now))
        .collect();
    drift.extend(found.drifts.iter().cloned());
    drift.drain(..drift.len().saturating_sub(DRIFTS));
    ServiceResilienceStatus {
        observed_generation: generation,
        config_hash: Some(desired.hash.clone()),
        breakers_summary: (!breakers.is_empty()).then(|| summary(&breakers)),
        provider_summary: providers(desired, found.proxies),
        template_probes: found
            .observed
            .workload
            .as_ref()
            .map(|workload| template_probes(desired, workload)),
        audit: Some(audit(&desired.spec, enforced)),
        conditions: conditions(&old.conditions, verdicts, generation, now),
        queue,
        pods,
        breakers,
        drift,
    }
}

fn is_recent(drift: &Drift, now: Timestamp) -> bool {
    drift
        .at
        .parse::<Timestamp>()
        .is_ok_and(|at| at + DRIFT_KEPT.0.duration() > now)
}

fn pods(desired: &Desired, found: &Found<'_>) -> PodsStatus {
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let acknowledged = |pod: &&Arc<Pod>| {
        let report = found
            .proxies
            .get(&pod.name_any())
            .and_then(|known| known.report.as_ref());
        report.is_some_and(|report| report.config_hash == desired.hash)
    };
    let all = &found.observed.pods;
    let bypassing: Vec<String> = all
        .iter()
        .filter(|pod| !pod.injected)
        .map(|pod| pod.name_any())
        .collect();
    let acknowledged = all.iter().filter(acknowledged).count();
    PodsStatus {
        summary: format!("{acknowledged}/{}", all.len()),
        all: count(all.len()),
        injected: count(all.len() - bypassing.len()),
        acknowledged: count(acknowledged),
        bypassing,
    }
}

/// What each pod says of one breaker.
fn reports<'a>(
    proxies: &'a BTreeMap<String, Known>,
    dependency: &'a str,
    provider: &'a str,
) -> impl Iterator<Item = &'a ProviderReport> {
    let reports = proxies
        .values()
        .filter_map(|known| known.report.as_ref())
        .flat_map(|report| &report.dependencies);
    reports
        .filter(move |report| report.name == dependency)
        .flat_map(|report| &report.providers)
        .filter(move |report| report.name == provider)
}

fn breakers(desired: &Desired, proxies: &BTreeMap<String, Known>) -> Vec<BreakerStatus> {
    let one = |dependency: &Dependency, provider: &str| {
        let all: Vec<&ProviderReport> = reports(proxies, &dependency.name, provider).collect();
        let count = |state: State| {
            i32::try_from(all.iter().filter(|report| report.state == state).count())
                .unwrap_or(i32::MAX)
        };
        let worst = all.iter().map(|report| report.state).max();
        let forced = all.iter().find_map(|report| report.forced);
        let leading = worst.and_then(|worst| {
            all.iter()
                .filter(|report| report.state == worst)
                .min_by(|a, b| a.since.cmp(&b.since))
        });
        let state = match (forced, worst) {
            (Some(Forced::Open), _) => "ForcedOpen",
            (Some(Forced::Closed), _) => "ForcedClosed",
            (None, Some(State::Open)) => "Open",
            (None, Some(State::HalfOpen)) => "HalfOpen",
            (None, Some(State::Closed)) => "Closed",
            (None, None) => "Unknown",
        };
        let spec = desired.spec.overrides.iter().find(|spec| {
            spec.dependency == dependency.name
                && spec.provider.as_deref().is_none_or(|name| name == provider)
        });
        let reason = match (forced, spec) {
            (Some(_), Some(spec)) => Some(format!("{}, until {}", spec.reason, spec.until)),
            _ => leading
                .filter(|report| report.state != State::Closed)
                .map(|report| report.why.clone()),
        };
        BreakerStatus {
            dependency: dependency.name.clone(),
            provider: provider.to_owned(),
            state: state.to_owned(),
            open: count(State::Open),
            half_open: count(State::HalfOpen),
            closed: count(State::Closed),
            since: leading
                .filter(|report| report.state != State::Closed)
                .map(|report| seconds(&report.since)),
            reason,
            next_probe: all
                .iter()
                .filter_map(|report| report.next_probe.as_deref())
                .min()
                .map(seconds),
        }
    };
    let counted = desired
        .spec
        .dependencies
        .iter()
        .filter(|dependency| dependency.breaker.mode != mrg_breaker::Mode::Off);
    counted
        .flat_map(|dependency| {
            dependency
                .providers
                .iter()
                .map(move |provider| one(dependency, &provider.name))
        })
        .collect()
}

/// A moment without its fraction.
fn seconds(text: &str) -> String {
    text.parse::<Timestamp>()
        .ok()
        .and_then(|at| Timestamp::from_second(at.as_second()).ok())
        .map_or_else(|| text.to_owned(), |at| at.to_string())
}

fn summary(breakers: &[BreakerStatus]) -> String {
    let all = breakers.len();
    let count = |states: &[&str]| {
        breakers
            .iter()
            .filter(|breaker| states.contains(&breaker.state.as_str()))
            .count()
    };
    match (count(&["Open", "ForcedOpen"]), count(&["HalfOpen"])) {
        (0, 0) => format!("{all} closed"),
        (0, half_open) => format!("{half_open} half-open/{all}"),
        (open, _) => format!("{open} open/{all}"),
    }
}

/// Where another than the first provider serves; `-` where nobody does.
fn providers(desired: &Desired, proxies: &BTreeMap<String, Known>) -> Option<String> {
    let mut parts = Vec::new();
    for dependency in desired
        .spec
        .dependencies
        .iter()
        .filter(|dependency| dependency.providers.len() > 1)
    {
        let first = dependency
            .providers
            .first()
            .map(|provider| provider.name.as_str());
        let reports = proxies
            .values()
            .filter_map(|known| known.report.as_ref())
            .flat_map(|report| &report.dependencies);
        let mut active: Vec<&str> = reports
            .filter(|report| report.name == dependency.name)
            .map(|report| report.active.as_deref().unwrap_or("-"))
            .collect();
        active.sort_unstable();
        active.dedup();
        if active.iter().any(|name| Some(*name) != first) {
            parts.push(format!("{}: {}", dependency.name, active.join("|")));
        }
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn queue(desired: &Desired, proxies: &BTreeMap<String, Known>) -> Option<QueueStatus> {
    desired.spec.queue.as_ref()?;
    let of_database = desired
        .spec
        .queue
        .as_ref()
        .is_some_and(|queue| queue.database.is_some());
    let mut status = QueueStatus::default();
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    for dependency in &desired.spec.dependencies {
        let reports = proxies
            .values()
            .filter_map(|known| known.report.as_ref())
            .flat_map(|report| &report.dependencies);
        let queues: Vec<_> = reports
            .filter(|report| report.name == dependency.name)
            .filter_map(|report| report.queue.as_ref())
            .collect();
        let on_volumes: u64 = queues.iter().map(|queue| queue.on_disk).sum();
        // Every pod counts the same table, and its own volume.
        let of = |count: fn(&mrg_policy::QueueReport) -> u64| {
            if of_database {
                queues.iter().map(|queue| count(queue)).max()
            } else {
                Some(queues.iter().map(|queue| count(queue)).sum())
            }
            .unwrap_or(0)
        };
        status.depth += signed(of(|queue| queue.waiting));
        status.inquiry += signed(of(|queue| queue.inquiry));
        status.on_volumes += signed(on_volumes);
        let oldest = queues
            .iter()
            .filter_map(|queue| queue.oldest.as_deref())
            .min()
            .map(seconds);
        status.oldest = [status.oldest, oldest].into_iter().flatten().min();
        status.trouble = status
            .trouble
            .or_else(|| queues.iter().find_map(|queue| queue.trouble.clone()));
    }
    Some(status)
}

fn overdue(queue: &QueueStatus, now: Timestamp) -> Verdict {
    let oldest = queue
        .oldest
        .as_ref()
        .and_then(|text| text.parse::<Timestamp>().ok());
    let waited = oldest.and_then(|oldest| Duration::try_from(now.duration_since(oldest)).ok());
    match (waited.filter(|waited| *waited > OVERDUE), &queue.oldest) {
        (Some(_), Some(since)) => {
            let message = format!(
                "{} requests wait, the oldest since {since}; docs/runbooks/resilience.md says what to do",
                queue.depth
            );
            verdict("QueueOverdue", true, "OldRequests", message)
        }
        _ => verdict("QueueOverdue", false, "None", ""),
    }
}

/// The checklist of the analysis, from the spec and from whether every pod runs it.
pub(super) fn audit(spec: &ServiceResilienceSpec, enforced: bool) -> Audit {
    let lacking = |has: fn(&Dependency) -> bool| {
        let names: Vec<&str> = spec
            .dependencies
            .iter()
            .filter(|dependency| !has(dependency))
            .map(|dependency| dependency.name.as_str())
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let degrades = |dependency: &Dependency| {
        let fallback = &dependency.fallback;
        fallback.queue.is_some() || fallback.stale.is_some() || fallback.fixed.is_some()
    };
    let found = |check| match check {
        Check::Timeout => None,
        Check::CircuitBreaker => {
            lacking(|dependency| dependency.breaker.mode == mrg_breaker::Mode::Enforce)
        }
        Check::Retry => {
            lacking(|dependency| dependency.retry.attempts > 1 && !dependency.retry.on.is_empty())
        }
        Check::Fallback => lacking(|dependency| {
            dependency.providers.len() > 1 || dependency.fallback != mrg_policy::Fallback::default()
        }),
        Check::GracefulDegradation => lacking(degrades),
    };
    let row = |check| {
        if let Some(exemption) = spec
            .exemptions
            .iter()
            .find(|exemption| exemption.check == check)
        {
            return AuditRow {
                check,
                state: AuditState::Exempt,
                note: Some(exemption.reason.clone()),
            };
        }
        match found(check) {
            _ if spec.dependencies.is_empty() => AuditRow {
                check,
                state: AuditState::Missing,
                note: Some("no dependencies are named".to_owned()),
            },
            Some(names) => AuditRow {
                check,
                state: AuditState::Missing,
                note: Some(names),
            },
            None => AuditRow {
                check,
                state: if enforced {
                    AuditState::Enforced
                } else {
                    AuditState::Configured
                },
                note: None,
            },
        }
    };
    let rows: Vec<AuditRow> = [
        Check::Timeout,
        Check::CircuitBreaker,
        Check::Fallback,
        Check::Retry,
        Check::GracefulDegradation,
    ]
    .into_iter()
    .map(row)
    .collect();
    let counted = rows
        .iter()
        .filter(|row| row.state != AuditState::Exempt)
        .count();
    let points: usize = rows
        .iter()
        .map(|row| match row.state {
            AuditState::Enforced => 2,
            AuditState::Configured => 1,
            AuditState::Missing | AuditState::Exempt => 0,
        })
        .sum();
    let score = (points * 50).checked_div(counted).unwrap_or(100);
    Audit {
        score: i32::try_from(score).unwrap_or(0),
        rows,
    }
}

fn judge(
    desired: &Desired,
    found: &Found<'_>,
    pods: &PodsStatus,
    breakers: &[BreakerStatus],
) -> Vec<Verdict> {
    let stalled = verdict("Stalled", false, "Progressing", "");
    let target = &desired.spec.target_ref;
    if found.observed.workload.is_none() {
        let message = format!(
            "spec.targetRef: there is no {} `{}` in this namespace; it is picked up when it appears",
            target.kind.name(),
            target.name
        );
        return vec![
            verdict("Ready", false, "TargetNotFound", message.clone()),
            verdict("Reconciling", true, "TargetNotFound", message.clone()),
            stalled,
            verdict("Enforced", false, "TargetNotFound", message),
        ];
    }
    let refused = found
        .proxies
        .iter()
        .find_map(|(pod, known)| Some((pod, known.report.as_ref()?.refused.as_ref()?)));
    let enforced = enforced(desired, found, pods, refused);
    let open: Vec<String> = breakers
        .iter()
        .filter(|breaker| breaker.open > 0)
        .map(|breaker| {
            format!(
                "{}/{} is open in {} of {} pods ({})",
                breaker.dependency,
                breaker.provider,
                breaker.open,
                pods.injected,
                breaker.reason.as_deref().unwrap_or("-")
            )
        })
        .collect();
    let ready_pods = found.observed.pods.iter().filter(|pod| pod.ready).count();
    let degraded = if open.is_empty() {
        verdict("Degraded", false, "Healthy", "")
    } else {
        verdict("Degraded", true, "BreakerOpen", open.join("; "))
    };
    let conflict = match found.floor {
        Floor::Conflict(why) => verdict("FieldConflict", true, "OwnedByOthers", why.clone()),
        Floor::Kept | Floor::Raise { .. } => verdict("FieldConflict", false, "None", ""),
    };
    let reconciling = match &found.failure {
        Some(what) => verdict(
            "Reconciling",
            true,
            "ApplyFailed",
            format!("{what}; it is tried again"),
        ),
        None if desired.spec.mode == Mode::Enforce && pods.acknowledged < pods.all => verdict(
            "Reconciling",
            true,
            "Converging",
            format!("{} pods run the newest configuration", pods.summary),
        ),
        None => verdict("Reconciling", false, "Settled", ""),
    };
    let ready = if ready_pods == 0 {
        verdict(
            "Ready",
            false,
            "NoReadyPods",
            format!("no pod of {} {} is ready", target.kind.name(), target.name),
        )
    } else if desired.spec.mode == Mode::Audit {
        verdict(
            "Ready",
            true,
            "AuditOnly",
            "nothing is enforced: spec.mode is Audit",
        )
    } else if !enforced.holds {
        verdict("Ready", false, enforced.reason, enforced.message.clone())
    } else {
        verdict(
            "Ready",
            true,
            if open.is_empty() {
                "Enforced"
            } else {
                "BreakerOpen"
            },
            format!("{} pods enforce it", pods.summary),
        )
    };
    vec![ready, reconciling, stalled, enforced, degraded, conflict]
}

fn enforced(
    desired: &Desired,
    found: &Found<'_>,
    pods: &PodsStatus,
    refused: Option<(&String, &String)>,
) -> Verdict {
    if desired.spec.mode == Mode::Audit {
        return verdict(
            "Enforced",
            false,
            "AuditOnly",
            "spec.mode is Audit: set Enforce to have it done",
        );
    }
    if let Some(missing) = &found.missing {
        return verdict("Enforced", false, "SecretNotFound", missing.clone());
    }
    if let Some((pod, why)) = refused {
        return verdict(
            "Enforced",
            false,
            "ConfigurationRefused",
            format!("{pod} keeps its last good configuration: {why}"),
        );
    }
    if !pods.bypassing.is_empty() {
        let message = format!(
            "{} without the sidecar: {}; they get it when they are replaced",
            pods.bypassing.len(),
            pods.bypassing.join(", ")
        );
        return verdict("Enforced", false, "PodsBypass", message);
    }
    if pods.all == 0 || pods.acknowledged < pods.all {
        return verdict(
            "Enforced",
            false,
            "NotAcknowledged",
            format!("{} pods run the newest configuration", pods.summary),
        );
    }
    verdict(
        "Enforced",
        true,
        "Enforced",
        format!("{} pods run configuration {}", pods.summary, desired.hash),
    )
}
