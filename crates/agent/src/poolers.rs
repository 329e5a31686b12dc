//! Asks the poolers to pause their clients while the leader hands over: performs what [`PoolPause`]
//! decides.
//!
//! Cost of a pause without poolers: one read. With poolers: a read, a transaction, and one watched
//! change from each, the longest of which is its last transaction.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::context::Context;
use crate::perform::{NOT_LEADER, written};
use mrg_base::Millis;
use mrg_dcs::{Poolers, Store};
use mrg_dcs_etcd::{WatchEvent, watch};
use mrg_election::pool_pause::{PauseEffect, PauseEvent, PoolPause};
use mrg_election::{LeaseId, Outcome};

/// Asks, and waits until every pooler's transactions are done. One that does not answer is not
/// waited for.
pub(crate) async fn pause(context: &Context, lease: LeaseId, may_abandon: bool) -> Outcome {
    let (_commands, queue) = mpsc::channel(1);
    let (sender, mut records) = mpsc::channel(16);
    let watching = tokio::spawn(watch(context.store.clone(), queue, sender));
    let outcome = ask(context, lease, may_abandon, &mut records).await;
    watching.abort();
    outcome
}

async fn ask(
    context: &Context,
    lease: LeaseId,
    may_abandon: bool,
    records: &mut mpsc::Receiver<WatchEvent<Poolers>>,
) -> Outcome {
    let began = mrg_clock::now();
    let timeout = Millis(u64::try_from(context.dcs_within().as_millis()).unwrap_or(u64::MAX));
    let mut pause = PoolPause::new(began, timeout, may_abandon);
    let mut events = VecDeque::new();
    let mut watched = true;
    loop {
        let event = match events.pop_front() {
            Some(event) => event,
            None => next(context, &pause, records, &mut watched).await,
        };
        for effect in pause.on(mrg_clock::now(), event) {
            match effect {
                PauseEffect::Request { leadership } => {
                    let within = context.dcs_within();
                    let attempt = context.store.ask_poolers(lease, leadership, within).await;
                    events.push_back(PauseEvent::Requested(written(attempt, NOT_LEADER)));
                }
                PauseEffect::Withdraw => {
                    resume(context, lease).await;
                }
                PauseEffect::Cut { pods } => {
                    tracing::warn!(?pods, "transactions are still open; they are cut");
                }
                PauseEffect::End(outcome) => {
                    let waited = mrg_clock::now().since(began).duration();
                    tracing::info!(?outcome, ?waited, "asked the poolers to pause");
                    return outcome;
                }
            }
        }
    }
}

/// The next state of the records, that etcd does not give any, or that time has passed.
async fn next(
    context: &Context,
    pause: &PoolPause,
    records: &mut mpsc::Receiver<WatchEvent<Poolers>>,
    watched: &mut bool,
) -> PauseEvent {
    let wake = pause.wake_at(mrg_clock::now());
    let wake = async {
        match wake {
            Some(moment) => mrg_clock::sleep_until(moment).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        event = records.recv(), if *watched => match event {
            Some(WatchEvent::Seen { snapshot, .. }) => PauseEvent::Poolers {
                poolers: snapshot.write_poolers(),
                leadership: context.status().snapshot.leader_key().map(|key| key.created),
            },
            Some(WatchEvent::Lost(_) | WatchEvent::Reset) => PauseEvent::Lost,
            None => {
                *watched = false;
                PauseEvent::Lost
            }
        },
        () = wake => PauseEvent::Tick,
    }
}

/// Takes the request back.
pub(crate) async fn resume(context: &Context, lease: LeaseId) -> Outcome {
    let within = context.dcs_within();
    written(
        context.store.resume_poolers(lease, within).await,
        NOT_LEADER,
    )
}
