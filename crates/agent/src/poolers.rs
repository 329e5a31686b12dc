//! Asks the poolers to hold their clients while the leader hands over.
//!
//! Cost of a pause without poolers: one read. With poolers: a read, a transaction, and one watched
//! change from each, the longest of which is its last transaction.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::context::Context;
use crate::perform::{NOT_LEADER, written};
use mrg_dcs::poolers::{HEARD_WITHIN, PoolerRecord};
use mrg_dcs::{Attempt, Poolers, Store};
use mrg_dcs_etcd::{WatchEvent, watch};
use mrg_election::{LeaseId, Outcome, Revision};
use mrg_telemetry::chain;

/// How a write pooler stands to a request.
struct Pooler {
    pod: String,
    record: PoolerRecord,
}

impl Pooler {
    fn heeds(&self, request: Revision) -> bool {
        self.record.pause == Some(request)
    }

    fn is_drained(&self, request: Revision) -> bool {
        self.heeds(request) && self.record.drained
    }
}

fn writers(poolers: &Poolers) -> Vec<Pooler> {
    let pooler = |(pod, record): (&String, &PoolerRecord)| Pooler {
        pod: pod.clone(),
        record: record.clone(),
    };
    poolers
        .0
        .iter()
        .filter(|(_, record)| record.writes)
        .map(pooler)
        .collect()
}

/// Asks, and waits until every pooler's transactions are done. One that says nothing is not waited
/// for.
pub(crate) async fn pause(context: &Context, lease: LeaseId, may_abandon: bool) -> Outcome {
    let (_commands, queue) = mpsc::channel(1);
    let (seen, mut events) = mpsc::channel(16);
    let watching = tokio::spawn(watch(context.store.clone(), queue, seen));
    let outcome = ask(context, lease, may_abandon, &mut events).await;
    watching.abort();
    outcome
}

/// The next state of the records, if etcd tells one in time.
async fn next(
    events: &mut mpsc::Receiver<WatchEvent<Poolers>>,
    by: Instant,
) -> Option<Arc<Poolers>> {
    match tokio::time::timeout_at(by, events.recv()).await {
        Ok(Some(WatchEvent::Seen { snapshot, .. })) => Some(snapshot),
        Ok(Some(WatchEvent::Lost(_)) | None) | Err(_) => None,
    }
}

async fn ask(
    context: &Context,
    lease: LeaseId,
    may_abandon: bool,
    events: &mut mpsc::Receiver<WatchEvent<Poolers>>,
) -> Outcome {
    let Some(mut snapshot) = next(events, Instant::now() + context.dcs_within()).await else {
        return Outcome::Failed("etcd does not tell which poolers there are".to_owned());
    };
    let poolers = writers(&snapshot);
    let Some(max_wait) = poolers
        .iter()
        .map(|pooler| pooler.record.max_wait_ms)
        .max()
        .map(Duration::from_millis)
    else {
        return Outcome::Done;
    };
    let status = context.status();
    let Some(leadership) = status.snapshot.leader_key().map(|key| key.created) else {
        return Outcome::Failed("there is no leader key".to_owned());
    };
    let within = context.dcs_within();
    let request = match context.store.ask_poolers(lease, leadership, within).await {
        Attempt::Done(revision) => revision,
        // Nothing is refused by a pooler here; who leads is found out by the steps that follow.
        Attempt::Conflict => return Outcome::Failed(NOT_LEADER.to_owned()),
        Attempt::InDoubt(error) | Attempt::Failed(error) => {
            return Outcome::Failed(chain(&error));
        }
    };
    let asked = Instant::now();
    let heard_by = asked + HEARD_WITHIN.duration().min(max_wait);
    loop {
        let by = if Instant::now() < heard_by {
            heard_by
        } else {
            asked + max_wait
        };
        let late = Instant::now() >= heard_by;
        let open: Vec<Pooler> = writers(&snapshot)
            .into_iter()
            .filter(|pooler| !pooler.is_drained(request) && (!late || pooler.heeds(request)))
            .collect();
        if open.is_empty() {
            tracing::info!(poolers = poolers.len(), waited = ?asked.elapsed(), "the poolers hold their clients");
            return Outcome::Done;
        }
        if let Some(newer) = next(events, by).await {
            snapshot = newer;
        } else if Instant::now() >= asked + max_wait {
            return give_up(context, lease, &open, may_abandon, max_wait).await;
        }
    }
}

/// The time is over and transactions are still open: the pools say what becomes of it.
async fn give_up(
    context: &Context,
    lease: LeaseId,
    open: &[Pooler],
    may_abandon: bool,
    waited: Duration,
) -> Outcome {
    let pods: Vec<&str> = open.iter().map(|pooler| pooler.pod.as_str()).collect();
    if !may_abandon || !open.iter().any(|pooler| pooler.record.abandons) {
        tracing::warn!(?pods, ?waited, "transactions are still open; they are cut");
        return Outcome::Done;
    }
    resume(context, lease).await;
    Outcome::Refused(format!(
        "transactions of {pods:?} were still open after {waited:?}; the switchover is abandoned"
    ))
}

/// Takes the request back.
pub(crate) async fn resume(context: &Context, lease: LeaseId) -> Outcome {
    let within = context.dcs_within();
    written(
        context.store.resume_poolers(lease, within).await,
        NOT_LEADER,
    )
}
