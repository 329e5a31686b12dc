//! The rules of a member that follows a leader: copy, rewind, stream.

use super::{data_at_rest, no_data, other, read, standby, stored};
use crate::action::{Action, StartAs, StopMode};
use crate::mutant::bug;
use crate::view::{Cluster, Fork, Initialize, Postgres, View, WalReceiver};
use mrg_base::{MemberName, Millis};

/// A WAL receiver that does not come up within this time means that the member cannot follow from
/// where it is.
pub(super) const DIVERGED_AFTER: Millis = Millis::seconds(8);

pub(super) fn copy_from_leader(view: &View<'_>) -> Option<Vec<Action>> {
    let leader = other(view).filter(|_| no_data(view))?;
    can_be_copied(read(view)?, leader).then(|| copy_steps(view, leader))
}

pub(super) fn copy_steps(view: &View<'_>, leader: &MemberName) -> Vec<Action> {
    let mut steps = Vec::new();
    // Where two copies do not fit, ours goes first, but never while an acknowledged commit may be
    // counted on it.
    let voter = stored(view).is_some_and(|stored| stored.voters.contains(view.me));
    if view.memory.no_space && !voter {
        steps.extend([Action::ConfirmLeader(leader.clone()), Action::RemoveData]);
    }
    steps.extend([
        Action::BaseBackup(leader.clone()),
        Action::Start(StartAs::Standby {
            upstream: Some(leader.clone()),
        }),
    ]);
    steps
}

/// The steps that bring a data directory of another history in line: rewind, and after a rewind that
/// failed, or that brought no streaming, a fresh copy. Nothing is touched, or even stopped, for a leader that only its key speaks
/// for: it may be dead, and this the last good copy.
pub(super) fn realign(view: &View<'_>, leader: &MemberName) -> Vec<Action> {
    let mut steps = vec![Action::ConfirmLeader(leader.clone())];
    if standby(view).is_some() {
        steps.push(Action::Stop(StopMode::Fast));
    }
    let rewinds =
        view.memory.rewind_failures == 0 && (!view.memory.rewound || bug!(RewindsForEver));
    if view.settings.use_rewind && rewinds {
        steps.extend([
            Action::Rewind(leader.clone()),
            Action::Start(StartAs::Standby {
                upstream: Some(leader.clone()),
            }),
        ]);
    } else {
        steps.extend(copy_steps(view, leader));
    }
    steps
}

/// The steps that replace what is here by a copy of the leader's data. See [`realign`].
fn replace(view: &View<'_>, leader: &MemberName) -> Vec<Action> {
    let mut steps = vec![Action::ConfirmLeader(leader.clone())];
    if matches!(view.postgres, Postgres::Standby(_) | Postgres::Starting) {
        steps.push(Action::Stop(StopMode::Fast));
    }
    steps.extend(copy_steps(view, leader));
    steps
}

/// A person asked for a fresh copy of the leader's data.
pub(super) fn reinitialize(view: &View<'_>) -> Option<Vec<Action>> {
    view.memory.reinitialize?;
    let leader = other(view)?;
    if matches!(view.postgres, Postgres::Primary(_) | Postgres::Unknown) {
        return None;
    }
    let ready = can_be_copied(read(view)?, leader);
    Some(if ready { replace(view, leader) } else { vec![] })
}

/// Whether the leader's data is a whole cluster's: one that is still being made may be given up, and a
/// copy of it would be of another system than the one that comes after.
fn can_be_copied(cluster: &Cluster, leader: &MemberName) -> bool {
    let runs = cluster
        .members
        .get(leader)
        .is_some_and(|member| member.running && member.primary);
    let made = matches!(cluster.initialize, Some(Initialize::Done(_))) || bug!(CopiesUnfinished);
    runs && made
}

pub(super) fn rejoin(view: &View<'_>) -> Option<Vec<Action>> {
    let leader = other(view)?;
    let data = data_at_rest(view)?;
    let suspect = data.was_primary || view.memory.rewind_failures > 0;
    if !suspect {
        return None;
    }
    let ready = read(view)?
        .members
        .get(leader)
        .is_some_and(|member| member.running && member.primary);
    Some(if ready { realign(view, leader) } else { vec![] })
}

pub(super) fn diverged(view: &View<'_>) -> Option<Vec<Action>> {
    if bug!(DivergenceIgnored) {
        return None;
    }
    let leader = other(view)?;
    let member = read(view)?
        .members
        .get(leader)
        .filter(|member| member.running && member.primary)?;
    let standby = standby(view)?;
    // The leader's own history says that it does not have the end of ours: no waiting makes that
    // another.
    let beyond = |fork: &Fork| {
        let (Some(mine), Some(theirs)) = (standby.position, member.position) else {
            return false;
        };
        fork.by == theirs.timeline && mine.timeline < theirs.timeline && mine.flushed > fork.at
    };
    if standby.fork.as_ref().is_some_and(beyond) {
        return Some(realign(view, leader));
    }
    let since = match standby.receiver {
        // A rewind would not bring it back.
        WalReceiver::WalRemoved if bug!(RemovedWalRewound) => return Some(realign(view, leader)),
        WalReceiver::WalRemoved => return Some(replace(view, leader)),
        WalReceiver::Broken(since) => since,
        WalReceiver::Streaming | WalReceiver::Stopped => return None,
    };
    let elsewhere = match (standby.position, member.position) {
        (Some(mine), Some(theirs)) => {
            mine.timeline != theirs.timeline || mine.flushed > theirs.flushed
        }
        _ => false,
    };
    let patience = if elsewhere {
        DIVERGED_AFTER
    } else {
        Millis(DIVERGED_AFTER.0 * 4)
    };
    if view.since(since) < patience {
        return None;
    }
    Some(realign(view, leader))
}
