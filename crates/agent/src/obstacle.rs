//! What is in the way of this member, for its key and for `GET /patroni`.

use crate::context::{Context, Status};
use mrg_base::Moment;
use mrg_election::{Postgres, Reason, WalReceiver};

/// What is in the way: the reason of the last decision if it is one, why the last step on the server
/// failed, why the server refuses sessions, and why a standby does not stream, each in the words of
/// the program that says so.
pub(crate) fn obstacle(context: &Context, status: &Status) -> Option<String> {
    let receiver = receiver_error(context, status, mrg_clock::now());
    let copy = status.reinitialize_failure.as_ref();
    let copy = copy.map(|why| format!("the copy that was asked for failed: {why}"));
    let refusal = context.server.refusal();
    let refusal =
        refusal.map(|why| format!("postgres runs and refuses the sessions of the agent: {why}"));
    let sentences: Vec<String> = [decided(context, status), refusal, receiver, copy]
        .into_iter()
        .flatten()
        .collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

fn decided(context: &Context, status: &Status) -> Option<String> {
    let why = status.why?;
    let sentence = match slot_sharer(context, status).filter(|_| why == Reason::SlotTaken) {
        Some(named) => format!("{named}: {}", why.sentence()),
        None => why.sentence().to_owned(),
    };
    match &status.failure {
        Some(failure) => Some(format!("{sentence}: {failure}")),
        None => why.is_obstacle().then_some(sentence),
    }
}

/// The members that share a replication slot.
fn slot_sharer(context: &Context, status: &Status) -> Option<String> {
    let me = &context.config.name;
    let other = status.cluster.earlier_with_slot_of(me)?;
    let slot = me.slot_name();
    Some(format!("{other} and {me} have the same slot {slot}"))
}

/// Why the WAL receiver has not streamed for a loop, although it should.
fn receiver_error(context: &Context, status: &Status, now: Moment) -> Option<String> {
    let Postgres::Standby(standby) = &status.postgres else {
        return None;
    };
    let patience = status.settings.failover.loop_wait;
    let is_late = match standby.receiver {
        WalReceiver::Broken(since) => now.since(since) >= patience,
        WalReceiver::WalRemoved => true,
        WalReceiver::Streaming | WalReceiver::Stopped => false,
    };
    let upstream = standby.upstream.as_ref().filter(|_| is_late)?;
    let why = context.server.receiver_error();
    let why = why.unwrap_or_else(|| "PostgreSQL's log does not say why".to_owned());
    Some(format!("no WAL is streamed from {upstream}: {why}"))
}
