//! What the status says. Pure but for the time of a condition's change, which comes in.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use crate::conditions::{Verdict, conditions, verdict};
use crate::kinds::pgbouncer_pool::validate::{Desired, Invalid};
use mrg_api::PgBouncerPool;
use mrg_api::pgbouncer_pool::{LastRewire, PgBouncerPoolStatus, PodStatus};
use mrg_dcs::poolers::PoolerRecord;
use mrg_pool_core::Reason;

/// A status for a spec that cannot be built: everything stays, and the reason is told.
pub(super) fn stalled(
    pool: &PgBouncerPool,
    invalid: &Invalid,
    now: Timestamp,
) -> PgBouncerPoolStatus {
    let old = pool.status.clone().unwrap_or_default();
    let waits = invalid.is_waiting();
    let reason = invalid.reason();
    let verdicts = vec![
        verdict("Ready", false, reason, invalid.to_string()),
        verdict("Reconciling", waits, reason, invalid.to_string()),
        verdict(
            "Stalled",
            !waits,
            reason,
            format!("{invalid}; the last good state keeps running"),
        ),
    ];
    let conditions = conditions(&old.conditions, verdicts, pool.metadata.generation, now);
    PgBouncerPoolStatus {
        observed_generation: pool.metadata.generation,
        conditions,
        ..old
    }
}

/// What was seen of a pool.
pub(super) struct Observed {
    /// The records of its pods; `None` if etcd does not answer.
    pub records: Option<BTreeMap<String, PoolerRecord>>,
    /// Pods that the Deployment has, that are ready, and that run the newest template.
    pub pods: (i32, i32, i32),
    /// What could not be applied.
    pub failure: Option<String>,
    /// That the pools of the cluster together ask for too many connections.
    pub overcommitment: Option<String>,
}

/// The status, from what was observed.
pub(super) fn status(
    pool: &PgBouncerPool,
    desired: &Desired,
    observed: &Observed,
    now: Timestamp,
) -> PgBouncerPoolStatus {
    let old = pool.status.clone().unwrap_or_default();
    let generation = pool.metadata.generation;
    let (replicas, ready, updated) = observed.pods;
    let wanted = desired.spec.replicas;
    let Some(records) = &observed.records else {
        let message =
            "etcd does not answer, so nothing is known of the pods; they go on by themselves";
        let verdicts = vec![
            verdict("Ready", ready > 0, "EtcdUnreachable", message),
            verdict("Reconciling", true, "EtcdUnreachable", message),
            verdict("Stalled", false, "Progressing", ""),
            verdict("Degraded", true, "EtcdUnreachable", message),
        ];
        let conditions = conditions(&old.conditions, verdicts, generation, now);
        return PgBouncerPoolStatus {
            observed_generation: generation,
            replicas,
            conditions,
            ..old
        };
    };
    let joined = |of: fn(&PoolerRecord) -> &Vec<String>| {
        let all: BTreeSet<&String> = records.values().flat_map(of).collect();
        (!all.is_empty()).then(|| all.into_iter().cloned().collect::<Vec<_>>().join(","))
    };
    let sum = |of: fn(&PoolerRecord) -> u64| {
        i64::try_from(records.values().map(of).sum::<u64>()).unwrap_or(i64::MAX)
    };
    let pod = |(name, record): (&String, &PoolerRecord)| PodStatus {
        name: name.clone(),
        why: record.reason.to_string(),
        generation: i64::try_from(record.generation).unwrap_or(i64::MAX),
        target: (!record.members.is_empty()).then(|| record.members.join(",")),
    };
    PgBouncerPoolStatus {
        observed_generation: generation,
        replicas,
        ready: Some(format!("{ready}/{wanted}")),
        target: joined(|record| &record.members),
        address: joined(|record| &record.addresses),
        clients: sum(|record| record.clients),
        waiting: sum(|record| record.waiting),
        // The pod that knows of the newest may be gone.
        last_rewire: [last_rewire(records), old.last_rewire]
            .into_iter()
            .flatten()
            .max_by(|a, b| a.at.cmp(&b.at)),
        pods: records.iter().map(pod).collect(),
        conditions: conditions(
            &old.conditions,
            judge(wanted, ready, updated, records, observed),
            generation,
            now,
        ),
    }
}

/// The newest hold that began with a cause, at its longest among the pods.
fn last_rewire(records: &BTreeMap<String, PoolerRecord>) -> Option<LastRewire> {
    let rewires = || records.values().filter_map(|record| record.rewire.as_ref());
    let newest = rewires().map(|rewire| rewire.at_ms).max()?;
    // Pods end a hold within moments of each other.
    let together: Vec<_> = rewires()
        .filter(|rewire| newest - rewire.at_ms < 5_000)
        .collect();
    let longest = together.iter().max_by_key(|rewire| rewire.held_ms)?;
    let clients: u64 = together.iter().map(|rewire| rewire.clients).sum();
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    Some(LastRewire {
        cause: longest.cause.to_string(),
        held_milliseconds: signed(longest.held_ms),
        clients: signed(clients),
        at: Timestamp::from_millisecond(signed(newest))
            .map(|at| at.to_string())
            .unwrap_or_default(),
        summary: format!("{} {} ms", longest.cause, longest.held_ms),
    })
}

fn judge(
    wanted: i32,
    ready: i32,
    updated: i32,
    records: &BTreeMap<String, PoolerRecord>,
    observed: &Observed,
) -> Vec<Verdict> {
    let stuck = records
        .iter()
        .find(|(_, record)| record.reason.known() != Some(Reason::Confirmed));
    let failing = records
        .iter()
        .find_map(|(name, record)| Some(format!("{name}: {}", record.failure.as_ref()?)));
    let sentence = |(name, record): (&String, &PoolerRecord)| {
        let because = record
            .reason
            .known()
            .map_or_else(|| record.reason.to_string(), |why| why.to_string());
        format!("{name}: {because}")
    };
    let why = stuck
        .and_then(|(_, record)| record.reason.known())
        .map_or("PodsMissing", Reason::name);
    let reason = if failing.is_some() {
        "PgBouncerFails"
    } else {
        why
    };
    let whole = ready >= wanted && stuck.is_none() && failing.is_none();
    let pods = format!("{ready} of {wanted} pods serve");
    let message = failing
        .or(stuck.map(sentence))
        .unwrap_or_else(|| pods.clone());
    let ready_now = if whole {
        verdict("Ready", true, "Healthy", pods)
    } else {
        verdict("Ready", false, reason, message.clone())
    };
    let degraded = match &observed.overcommitment {
        _ if !whole => verdict("Degraded", true, reason, message),
        Some(sum) => verdict("Degraded", true, "MoreThanMaxConnections", sum.clone()),
        None => verdict("Degraded", false, "Healthy", ""),
    };
    let reconciling = match &observed.failure {
        Some(what) => verdict(
            "Reconciling",
            true,
            "ApplyFailed",
            format!("{what}; it is tried again"),
        ),
        None if updated < wanted || ready < wanted => verdict(
            "Reconciling",
            true,
            "Rolling",
            format!("{updated} of {wanted} pods have the newest template"),
        ),
        None => verdict("Reconciling", false, "Settled", ""),
    };
    vec![
        ready_now,
        reconciling,
        verdict("Stalled", false, "Progressing", ""),
        degraded,
    ]
}
