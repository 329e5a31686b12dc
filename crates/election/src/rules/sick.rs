//! The rules of a leader whose server is there and does not serve: one that does not come up, and
//! one that does not respond.

use std::collections::BTreeSet;

use super::hand_over::{has_crashed_often, successors};
use super::{leads, primary, read};
use crate::action::{Action, StopMode};
use crate::mutant::bug;
use crate::view::{Postgres, View};
use mrg_base::{MemberName, Millis};

/// Fewer failed pulses in a row than this may be chance.
const PULSES_LEAST: u32 = 3;

/// A server that accepts a connection and fails to answer is given this long at least, whatever
/// `primary_start_timeout` says: one statement that is late proves nothing.
const UNKNOWN_LEAST: Millis = Millis::seconds(20);

/// A member that let the key go because its server did not respond does not do so again for this
/// long: what ails one server in a row with the next is not the server.
pub(crate) const GIVES_UP_EVERY: Millis = Millis::seconds(600);

/// A writer is ended before the key goes; a shutdown in order would wait for what does not respond.
fn let_go() -> Vec<Action> {
    vec![Action::Stop(StopMode::Kill), Action::ReleaseLeader]
}

fn may_let_go(view: &View<'_>) -> bool {
    leads(view) && read(view).is_some() && !view.settings.paused && !bug!(SickLeaderStays)
}

/// Members that would take over at once: in `Async` those that are not too far behind for it.
fn fit_successors(view: &View<'_>) -> BTreeSet<MemberName> {
    let mut fit = successors(view);
    let Some(cluster) = view.dcs.last() else {
        return fit;
    };
    let (Some(head), false) = (cluster.optime, view.settings.is_synchronous()) else {
        return fit;
    };
    let most = view.settings.failover.maximum_lag_bytes;
    fit.retain(|name| {
        let position = cluster.members.get(name).and_then(|member| member.position);
        position.is_some_and(|position| head.bytes_since(position.flushed) <= most)
    });
    fit
}

/// Postgres has been on its way up, or silent, for longer than `primary_start_timeout`.
pub(super) fn start_timed_out(view: &View<'_>) -> Option<Vec<Action>> {
    let timeout = view.settings.failover.primary_start_timeout;
    let patience = match view.postgres {
        Postgres::Starting => timeout,
        Postgres::Unknown => timeout.max(UNKNOWN_LEAST),
        _ => return None,
    };
    let late = view.since(view.memory.unserved?) >= patience;
    (late && may_let_go(view) && !has_crashed_often(view) && !fit_successors(view).is_empty())
        .then(let_go)
}

/// Whether clients have been without an answer for `unresponsive_after`.
fn is_unresponsive(view: &View<'_>) -> bool {
    let after = view.settings.failover.unresponsive_after;
    let is_there = matches!(
        view.postgres,
        Postgres::Primary(_) | Postgres::Starting | Postgres::Unknown
    );
    let silent = view.memory.silence.is_some_and(|silence| {
        silence.pulses >= PULSES_LEAST && view.since(silence.since) >= after
    });
    is_there && silent && view.settings.failover.wants_pulse() && may_let_go(view)
}

fn gave_up_lately(view: &View<'_>) -> bool {
    let lately = |at| view.since(at) < GIVES_UP_EVERY;
    view.memory.gave_up.is_some_and(lately) && !bug!(GivesUpAgain)
}

pub(super) fn unresponsive(view: &View<'_>) -> Option<Vec<Action>> {
    (is_unresponsive(view) && !gave_up_lately(view) && !fit_successors(view).is_empty())
        .then(let_go)
}

/// The server does not respond, and no member would be better off.
pub(super) fn alone(view: &View<'_>) -> bool {
    is_unresponsive(view) && fit_successors(view).is_empty()
}

/// The server does not respond again.
pub(super) fn again(view: &View<'_>) -> bool {
    is_unresponsive(view) && gave_up_lately(view)
}

/// A server that is not even seen to be a primary: nothing else can be done with it.
pub(super) fn out_of_sight(view: &View<'_>, stays: fn(&View<'_>) -> bool) -> Option<Vec<Action>> {
    (primary(view).is_none() && stays(view)).then(Vec::new)
}
