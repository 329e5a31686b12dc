//! Asks the poolers to hold their clients while the leader hands over.
//!
//! Cost of a pause without poolers: one read. With poolers: a read, a transaction, and one watched
//! change from each, the longest of which is its last transaction.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{DeleteOptions, TxnOp};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::context::Context;
use crate::perform::{owned, under, written};
use mrg_dcs::poolers::{HEARD_WITHIN, PoolerRecord, record, render_pause};
use mrg_dcs_etcd::{Snapshot, WatchEvent, watch};
use mrg_election::{LeaseId, Outcome, Revision};

/// How a write pooler stands to a request.
struct Pooler {
    pod: String,
    record: PoolerRecord,
}

impl Pooler {
    fn heeds(&self, request: Revision) -> bool {
        self.record.pause == Some(request.0)
    }

    fn is_drained(&self, request: Revision) -> bool {
        self.heeds(request) && self.record.drained
    }
}

fn writers(snapshot: &Snapshot) -> Vec<Pooler> {
    let pooler = |(pod, entry): (&String, _)| {
        Some(Pooler {
            pod: pod.clone(),
            record: record(entry)?,
        })
    };
    snapshot
        .entries
        .iter()
        .filter_map(pooler)
        .filter(|pooler| pooler.record.writes)
        .collect()
}

/// Asks, and waits until every pooler's transactions are done. One that says nothing is not waited
/// for.
pub(crate) async fn pause(context: &Context, lease: LeaseId, may_abandon: bool) -> Outcome {
    let (_commands, queue) = mpsc::channel(1);
    let (seen, mut events) = mpsc::channel(16);
    let watching = tokio::spawn(watch(
        context.etcd.clone(),
        context.keys.poolers(),
        queue,
        seen,
    ));
    let outcome = ask(context, lease, may_abandon, &mut events).await;
    watching.abort();
    outcome
}

/// The next state of the records, if etcd tells one in time.
async fn next(events: &mut mpsc::Receiver<WatchEvent>, by: Instant) -> Option<Arc<Snapshot>> {
    match tokio::time::timeout_at(by, events.recv()).await {
        Ok(Some(WatchEvent::Seen { snapshot, .. })) => Some(snapshot),
        Ok(Some(WatchEvent::Lost(_)) | None) | Err(_) => None,
    }
}

async fn ask(
    context: &Context,
    lease: LeaseId,
    may_abandon: bool,
    events: &mut mpsc::Receiver<WatchEvent>,
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
    let leader = context.keys.leader();
    let leads = |status: &crate::context::Status| {
        status
            .snapshot
            .entries
            .get("leader")
            .map(|entry| Revision(entry.created))
    };
    let Some(leadership) = leads(&context.status()) else {
        return Outcome::Failed("there is no leader key".to_owned());
    };
    let put = TxnOp::put(context.keys.pause(), render_pause(leadership), under(lease));
    let done = context
        .etcd
        .transact(vec![owned(&leader, lease)], vec![put], context.dcs_within())
        .await;
    let request = match written(done, "the leader key is not ours") {
        Outcome::Written(revision) => revision,
        // Nothing is refused by a pooler here; who leads is found out by the steps that follow.
        Outcome::Refused(why) | Outcome::Unknown(why) => return Outcome::Failed(why),
        other => return other,
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
    let delete = TxnOp::delete(context.keys.pause(), Some(DeleteOptions::new()));
    let done = context
        .etcd
        .transact(
            vec![owned(&context.keys.leader(), lease)],
            vec![delete],
            context.dcs_within(),
        )
        .await;
    written(done, "the leader key is not ours")
}
