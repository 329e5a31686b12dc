//! The rules for a DCS that went back in time; see [`crate::view::DcsReset`].

use super::{data_at_rest, other, primary, read, standby, start_leader};
use crate::action::Action;
use crate::mutant::bug;
use crate::sync::Stored;
use crate::view::{Initialize, View, WalReceiver};

/// Nothing was written since that settles who leads.
pub(super) fn is_reset(view: &View<'_>) -> bool {
    view.memory.reset.is_some() && !bug!(ResetIgnored)
}

/// What the DCS holds now is of another cluster.
pub(super) fn is_foreign(view: &View<'_>) -> bool {
    let known = view.memory.system_id;
    let found = read(view).and_then(|cluster| cluster.initialize);
    let (Some(known), Some(Initialize::Done(found))) = (known, found) else {
        return false;
    };
    is_reset(view) && known != found
}

/// The DCS may not be able to say it any more.
fn is_ours(view: &View<'_>, system_id: u64) -> bool {
    view.memory.system_id.is_none_or(|known| known == system_id)
}

/// This primary ran throughout: what it knows of the cluster is the truth.
pub(super) fn restore_keys(view: &View<'_>) -> Option<Vec<Action>> {
    let primary = primary(view).filter(|_| is_reset(view) && view.may_write())?;
    is_ours(view, primary.system_id).then_some(())?;
    let cluster = read(view)?;
    // The key of before the reset would stay until its lease ends.
    let stale = cluster.leader.as_ref().map(|key| key.lease);
    let mut steps: Vec<Action> = stale.into_iter().map(Action::EvictLeader).collect();
    let synchronous = view.settings.is_synchronous() || cluster.sync.is_some();
    let stored = synchronous.then(|| Stored::only(view.me.clone()));
    steps.push(Action::RestoreKeys {
        system_id: primary.system_id,
        stored: stored.filter(|_| !bug!(FormerSyncKept)),
    });
    Some(steps)
}

/// The leader's server crashed while the former key protects it: it recovers in place, since no
/// other member may take over.
pub(super) fn recover(view: &View<'_>) -> Option<Vec<Action>> {
    let data = data_at_rest(view).filter(|_| is_reset(view) && view.held_until().is_some())?;
    is_ours(view, data.system_id).then(|| vec![start_leader(data)])
}

/// A standby that streams does not turn to the leader of a key that may be old. Such a key ends
/// with its lease.
pub(super) fn stay(view: &View<'_>) -> Option<Vec<Action>> {
    let noticed = view.memory.reset?.noticed;
    let standby = standby(view).filter(|_| is_reset(view))?;
    let streams = standby.receiver == WalReceiver::Streaming;
    let elsewhere = standby.upstream.as_ref() != other(view);
    (streams && elsewhere && view.since(noticed) < view.settings.failover.ttl).then(Vec::new)
}
