//! The rules of a leader that stops, crashes, or hands over.

use std::collections::BTreeSet;

use super::{leads, primary, read};
use crate::action::{Action, StartAs, StopMode};
use crate::mutant::bug;
use crate::settings::OnCrash;
use crate::view::{Member, Postgres, SwitchoverRequest, View};
use mrg_base::{MemberName, Millis, Position};

pub(super) fn shutting_down(view: &View<'_>) -> Option<Vec<Action>> {
    if !view.memory.stop_requested {
        return None;
    }
    Some(match view.postgres {
        Postgres::Primary(_) if view.holds_key() => hand_over_steps(successors(view), false),
        Postgres::Primary(_) | Postgres::Standby(_) | Postgres::Starting => {
            vec![Action::Stop(StopMode::Fast)]
        }
        // One that is refused is not tried again: the key goes with the lease.
        Postgres::Stopped(_) | Postgres::NoData | Postgres::Unusable
            if view.holds_key() && !view.memory.writes_fail =>
        {
            vec![Action::ReleaseLeader]
        }
        Postgres::Stopped(_) | Postgres::NoData | Postgres::Unusable | Postgres::Unknown => vec![],
    })
}

/// Whether a crash of the leader's postgres is answered by letting the key go.
pub(super) fn crash_fails_over(view: &View<'_>) -> bool {
    let at_once = view.settings.failover.primary_start_timeout == Millis(0);
    let wanted = match view.settings.failover.on_crash {
        OnCrash::Failover => true,
        OnCrash::Restart => false,
        OnCrash::Auto => {
            at_once || view.settings.is_synchronous() && view.memory.standby_was_streaming
        }
    };
    let hopeless = view.memory.start_failures >= START_FAILURES_MAX;
    (hopeless || wanted && !has_crashed_often(view)) && !successors(view).is_empty()
}

/// Whether the key was let go so often that another release would not help.
pub(super) fn has_crashed_often(view: &View<'_>) -> bool {
    let recent = view
        .memory
        .crash_releases
        .iter()
        .filter(|at| view.since(**at) < CRASH_WINDOW)
        .count();
    recent >= CRASH_RELEASES_MAX
}

/// Members that may take over from us, as far as the DCS tells. None while it takes no writes: it
/// may still delete the leader key, and no member could create it again.
pub(super) fn successors(view: &View<'_>) -> BTreeSet<MemberName> {
    if view.memory.writes_fail && !bug!(ReleasesWhileWritesFail) {
        return BTreeSet::new();
    }
    let Some(cluster) = view.dcs.last() else {
        return BTreeSet::new();
    };
    let eligible = |name: &MemberName| {
        let member = cluster.members.get(name);
        let voter = !view.settings.is_synchronous()
            || cluster
                .sync
                .as_ref()
                .is_some_and(|(_, sync)| sync.voters.contains(name));
        // One that cannot win yet would leave the cluster without a leader for the rest of a ttl.
        let can_win = |member: &Member| !member.just_started || bug!(ReleasesToTheJustStarted);
        member.is_some_and(|member| member.running && member.may_lead && can_win(member)) && voter
    };
    view.peers().into_iter().filter(eligible).collect()
}

pub(super) fn hand_over_steps(candidates: BTreeSet<MemberName>, may_abandon: bool) -> Vec<Action> {
    if bug!(ReleasedTooEarly) {
        return vec![Action::ReleaseLeader, Action::Stop(StopMode::Fast)];
    }
    let mut steps = vec![
        Action::Checkpoint,
        Action::PausePoolers { may_abandon },
        Action::Stop(StopMode::Fast),
    ];
    if !candidates.is_empty() {
        steps.push(Action::AwaitReceipt {
            candidates,
            position: Position::default(),
        });
    }
    steps.push(Action::ReleaseLeader);
    steps
}

/// The switchover request that is meant for us, and the members that could take over by it.
pub(super) fn requested<'a>(
    view: &View<'a>,
) -> Option<(&'a SwitchoverRequest, BTreeSet<MemberName>)> {
    primary(view).filter(|_| leads(view))?;
    let request = read(view)?.switchover.as_ref()?;
    let mut candidates = successors(view);
    if let Some(candidate) = &request.candidate {
        candidates.retain(|name| name == candidate);
    }
    Some((request, candidates))
}

/// The request named the leader before us, or us: it is done.
pub(super) fn switchover_done(view: &View<'_>) -> Option<Vec<Action>> {
    let (request, _) = requested(view)?;
    let from_another = request
        .leader
        .as_ref()
        .is_some_and(|leader| leader != view.me);
    let to_us = request.candidate.as_ref() == Some(view.me);
    (from_another || to_us).then(|| {
        vec![Action::ClearSwitchover {
            expected: request.revision,
        }]
    })
}

pub(super) fn switchover_refused(view: &View<'_>) -> Option<Vec<Action>> {
    let (request, candidates) = requested(view)?;
    let abandoned = view.memory.abandoned == Some(request.revision);
    (candidates.is_empty() || abandoned).then(|| {
        vec![Action::ClearSwitchover {
            expected: request.revision,
        }]
    })
}

pub(super) fn switchover(view: &View<'_>) -> Option<Vec<Action>> {
    requested(view).map(|(_, candidates)| hand_over_steps(candidates, true))
}

pub(super) fn restart_leader(view: &View<'_>) -> Option<Vec<Action>> {
    primary(view).filter(|_| leads(view) && view.memory.restart_requested)?;
    let pause = Action::PausePoolers { may_abandon: false };
    Some(vec![
        Action::Checkpoint,
        pause,
        Action::Stop(StopMode::Fast),
        Action::Start(StartAs::Primary),
    ])
}

/// More crashes than this within the window, and the leader recovers in place.
pub(super) const CRASH_RELEASES_MAX: usize = 3;

/// After so many failed starts in a row, another way is tried.
pub(crate) const START_FAILURES_MAX: u32 = 3;

/// How long a release after a crash is remembered.
pub(crate) const CRASH_WINDOW: Millis = Millis::seconds(600);
