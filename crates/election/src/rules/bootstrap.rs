//! The rules about a cluster that is made, or that has lost keys, and about data that is not its
//! own.

use super::{data_at_rest, leads, no_data, primary, read, stopped};
use crate::action::{Action, StartAs, StopMode};
use crate::mutant::bug;
use crate::sync::Stored;
use crate::view::{Cluster, Initialize, Postgres, View};

/// Before the data directory is touched the name must be ours; a running server is left alone.
pub(super) fn name_taken(view: &View<'_>) -> Option<Vec<Action>> {
    let key = read(view)?.members.get(view.me);
    let ours = key.is_some_and(|key| view.lease.is_some_and(|lease| lease.id == key.lease));
    (!ours && (stopped(view) || no_data(view)) && !view.memory.stop_requested).then(Vec::new)
}

/// Two members with one replication slot would take it from each other. The one that came later does
/// not take part; a leader goes on.
pub(super) fn slot_taken(view: &View<'_>) -> Option<Vec<Action>> {
    read(view)?
        .earlier_with_slot_of(view.me)
        .filter(|_| !leads(view) && !bug!(SlotShared))?;
    Some(match view.postgres {
        Postgres::Standby(_) => vec![Action::Stop(StopMode::Fast)],
        _ => vec![],
    })
}

/// What was made for a new cluster and did not become one is of no use, and would keep
/// this member out of the one that did.
pub(super) fn unfinished_bootstrap(view: &View<'_>) -> Option<Vec<Action>> {
    let data = data_at_rest(view).filter(|data| data.unfinished)?;
    let cluster = read(view)?;
    let remains = match cluster.initialize {
        Some(Initialize::Done(system_id)) => system_id == data.system_id,
        // The key that said so may have been deleted.
        Some(Initialize::InProgress(_)) | None => has_traces(cluster),
    };
    (!remains && !bug!(UnfinishedKept)).then(|| vec![Action::RemoveData])
}

/// Whether there is what only a finished cluster writes. (`/sync` is written before the end, so
/// alone it tells nothing.)
pub fn has_traces(cluster: &Cluster) -> bool {
    cluster.optime.is_some() || cluster.timeline.is_some() || cluster.failsafe.is_some()
}

pub(super) fn wrong_system(view: &View<'_>) -> Option<Vec<Action>> {
    read(view)?;
    let expected = view.system_id()?;
    match view.postgres {
        Postgres::Stopped(data) if data.system_id != expected => Some(vec![]),
        Postgres::Standby(standby) if standby.system_id != expected => {
            Some(vec![Action::Stop(StopMode::Fast)])
        }
        _ => None,
    }
}

/// Data that is not known to be this cluster's does not lead because the key that would show it was
/// deleted.
pub(super) fn system_unknown(view: &View<'_>) -> Option<Vec<Action>> {
    let cluster = read(view)?;
    let known = cluster.initialize.is_some() || view.system_id().is_some() || bug!(AnySystemLeads);
    (!known && (has_traces(cluster) || view.memory.knows_cluster)).then(Vec::new)
}

pub(super) fn bootstrap(view: &View<'_>) -> Option<Vec<Action>> {
    let cluster = read(view)?;
    // The claim may be ours although its answer was lost.
    let ours = |claim| matches!((claim, view.lease), (Initialize::InProgress(claim), Some(lease)) if claim == lease.id);
    let claimed = cluster.initialize.is_some_and(ours) && !bug!(ClaimNotRecognised);
    let virgin =
        no_data(view) && (cluster.initialize.is_none() || claimed) && cluster.leader.is_none();
    if !virgin || view.settings.paused {
        return None;
    }
    let mut steps = if claimed {
        vec![]
    } else {
        vec![Action::ClaimInitialize]
    };
    steps.extend([
        Action::InitDb,
        Action::AcquireLeader,
        Action::Start(StartAs::Primary),
        Action::PostBootstrap,
    ]);
    if view.settings.is_synchronous() {
        let expected = cluster.sync.as_ref().map(|(revision, _)| *revision);
        steps.push(Action::WriteSync {
            expected,
            stored: Stored::only(view.me.clone()),
        });
    }
    Some(steps)
}

/// `initialize` is gone, but what only a finished cluster writes is there, or a member has data, or
/// this one saw the cluster before: a key was deleted, or all of them, and a new cluster would
/// lock the old one's members out.
pub(super) fn initialize_missing(view: &View<'_>) -> Option<Vec<Action>> {
    let cluster = read(view)?;
    let lost = no_data(view) && cluster.initialize.is_none() && cluster.leader.is_none();
    let data = cluster
        .members
        .values()
        .any(|member| member.running || member.position.is_some());
    let known = view.memory.knows_cluster && !bug!(ClusterForgotten);
    (lost && (has_traces(cluster) || data || known) && !bug!(BootstrapsOverTraces)).then(Vec::new)
}

pub(super) fn store_system_id(view: &View<'_>) -> Option<Vec<Action>> {
    let primary = primary(view).filter(|_| leads(view))?;
    let known = read(view)?.initialize == Some(Initialize::Done(primary.system_id));
    (!known).then(|| vec![Action::StoreSystemId(primary.system_id)])
}
