//! The rules of an election: which member may take part, ahead of which others, and how it becomes
//! the leader.

use std::collections::BTreeSet;

use super::hand_over::successors;
use super::{leads, read, standby, stored};
use crate::action::{Action, Vote};
use crate::mutant::bug;
use crate::reason::Reason;
use crate::settings::Mode;
use crate::sync::{Names, Stored};
use crate::view::View;
use mrg_base::{MemberName, Millis, Position};

/// A lost race is run again after this time, in case the one who was ahead does not take the key.
pub(crate) const RACE_AGAIN_AFTER: Millis = Millis(500);

/// A promotion that stopped half-way: the key is ours and `/sync` already says that we lead.
pub(super) fn finish_promotion(view: &View<'_>) -> Option<Vec<Action>> {
    let may = if view.settings.is_synchronous() {
        stored(view).is_some_and(|stored| stored.leader == *view.me && stored.voters.is_empty())
    } else {
        view.race.is_some() && old_timeline(view).is_none()
    };
    let standby = standby(view).filter(|_| leads(view) && may)?;
    // How far it reaches is known when it has replayed everything.
    Some(
        standby
            .position
            .map_or_else(Vec::new, |position| promotion_steps(view, position)),
    )
}

/// The last steps of a promotion. In the synchronous modes `/sync` keeps all others from
/// beginning a timeline of the same number.
pub(super) fn promotion_steps(view: &View<'_>, position: Position) -> Vec<Action> {
    let mut steps = vec![Action::SetSyncNames(first_names(view))];
    if !view.settings.is_synchronous() && !bug!(TimelineNotReserved) {
        let known = view.dcs.last().and_then(|cluster| cluster.timeline);
        steps.push(Action::ReserveTimeline {
            after: position,
            known,
        });
    }
    if bug!(NamesNotSet) {
        steps.remove(0);
    }
    steps.push(Action::Promote);
    steps
}

/// The names for the first moments of a new primary: of the live members as many must confirm as
/// the mode asks for, so that nothing is acknowledged by the new primary alone.
pub(super) fn first_names(view: &View<'_>) -> Names {
    let replication = view.settings.replication;
    let members = view.dcs.last().map(|cluster| &cluster.members);
    let alive = members
        .into_iter()
        .flatten()
        .filter(|(name, member)| *name != view.me && member.may_sync);
    let alive: BTreeSet<MemberName> = alive.map(|(name, _)| name.clone()).collect();
    let alive = if replication.mode == Mode::Sync {
        // A member that answered in the race is there; a former leader that just crashed has its
        // key, too, and would let commits wait.
        let answered = |name: &MemberName| {
            view.race
                .iter()
                .flat_map(|race| race.votes.iter().flatten())
                .any(|vote| vote.member == *name)
        };
        let (first, then): (Vec<_>, Vec<_>) = alive.into_iter().partition(answered);
        first
            .into_iter()
            .chain(then)
            .take(replication.count)
            .collect()
    } else {
        alive
    };
    match Names::of(replication.mode, replication.count, alive) {
        Names::Nobody if replication.strict && view.settings.is_synchronous() => Names::Placeholder,
        names => names,
    }
}

pub(super) fn switchover_to_other(view: &View<'_>) -> Option<Vec<Action>> {
    let cluster = read(view)?;
    let request = cluster.switchover.as_ref()?;
    let mine = request.leader.as_ref() == Some(view.me);
    let candidate = request.candidate.as_ref();
    let waits =
        mine || candidate.is_some_and(|name| name != view.me && cluster.members.contains_key(name));
    // A candidate that does not take the key in time is no reason to stay without a leader.
    let patience = view.settings.failover.retry_timeout;
    let late = view
        .memory
        .leaderless
        .is_some_and(|since| view.since(since) >= patience);
    (waits && !late && !sole_hope(view)).then(Vec::new)
}

/// No other member could take over.
pub(super) fn sole_hope(view: &View<'_>) -> bool {
    successors(view).is_empty()
}

/// Whether this member may stand in an election at all, by `/sync`.
pub(super) fn may_stand(view: &View<'_>) -> bool {
    if !view.settings.is_synchronous() || bug!(AnybodyStands) {
        return true;
    }
    stored(view).is_some_and(|stored| stored.leader == *view.me || stored.voters.contains(view.me))
}

/// The newest timeline is another's, and we have nothing of it. One that we reserved and did not
/// begin is no obstacle.
pub(super) fn old_timeline(view: &View<'_>) -> Option<Vec<Action>> {
    let cluster = read(view)?;
    let told = cluster
        .timeline
        .map(|of| (of, cluster.timeline_of.as_ref()));
    let remembered = view.memory.timeline.as_ref();
    let remembered = remembered.map(|(of, by)| (*of, by.as_ref()));
    let (newest, by) = told.max(remembered)?;
    let behind = standby(view)?.position?.timeline < newest;
    (behind && !bug!(OldTimelineStands) && by != Some(view.me)).then(Vec::new)
}

pub(super) fn too_far_behind(view: &View<'_>) -> Option<Vec<Action>> {
    let cluster = read(view)?;
    let position = standby(view)?.position?;
    let lag = cluster.optime?.bytes_since(position.flushed);
    (!view.settings.is_synchronous() && lag > view.settings.failover.maximum_lag_bytes)
        .then(Vec::new)
}

pub(super) fn race(view: &View<'_>) -> Option<Vec<Action>> {
    let stale = view
        .race
        .is_none_or(|race| race.votes.is_none() || view.since(race.asked) >= RACE_AGAIN_AFTER);
    let steps = || vec![Action::StopReceiver, Action::AskPeers(electorate(view))];
    if bug!(CandidateKeepsReceiver) {
        return stale.then(|| steps().split_off(1));
    }
    stale.then(steps)
}

/// Whether a member that decided so would take the key if it were the most advanced.
pub(crate) fn would_lead(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Race | Reason::TooFewVotes | Reason::Outrun | Reason::Win
    )
}

/// Whom to ask: every member whose key is there, and every voter.
pub(super) fn electorate(view: &View<'_>) -> BTreeSet<MemberName> {
    let mut peers = view.peers();
    if let Some(stored) = stored(view).filter(|_| view.settings.is_synchronous()) {
        peers.extend(
            stored
                .voters
                .iter()
                .filter(|name| *name != view.me)
                .cloned(),
        );
    }
    peers
}

pub(super) fn votes<'a>(view: &View<'a>) -> Option<Vec<&'a Vote>> {
    let cast = view.race?.votes.as_ref()?;
    let voter = |vote: &&Vote| {
        !view.settings.is_synchronous()
            || stored(view).is_some_and(|stored| stored.voters.contains(&vote.member))
    };
    Some(cast.iter().filter(voter).collect())
}

/// Whether fewer voters answered than `/sync` asks for.
pub(crate) fn is_short_of_votes(view: &View<'_>) -> bool {
    votes(view).is_some_and(|votes| votes.len() < votes_needed(view))
}

pub(super) fn votes_needed(view: &View<'_>) -> usize {
    match stored(view).filter(|_| view.settings.is_synchronous()) {
        Some(stored) if stored.leader == *view.me => 0,
        Some(stored) if bug!(OneVoteFewer) => stored.quorum.saturating_sub(1),
        Some(stored) => stored.quorum,
        None => 0,
    }
}

/// Whether a member that would take over is ahead: by position, then by being named, then by
/// priority, then by name.
pub(super) fn outrun(view: &View<'_>) -> bool {
    let Some(race) = view.race.filter(|_| !bug!(LaggardWins)) else {
        return !bug!(LaggardWins);
    };
    let named = read(view)
        .and_then(|cluster| cluster.switchover.as_ref())
        .and_then(|request| request.candidate.as_ref());
    let rank = |position: Position, name: &MemberName, priority: i32| {
        (
            position,
            named == Some(name),
            priority,
            std::cmp::Reverse(name.clone()),
        )
    };
    let mine = rank(race.position, view.me, view.memory.priority.unwrap_or(0));
    let eligible = |name: &MemberName| {
        stored(view).is_none_or(|stored| stored.leader == *name || stored.voters.contains(name))
    };
    // A voter that is ahead may have an acknowledged commit that we lack, whether it would lead
    // itself or not.
    let must_heed = |vote: &&Vote| {
        if view.settings.is_synchronous() {
            eligible(&vote.member)
        } else {
            vote.candidate.is_some()
        }
    };
    race.votes.iter().flatten().filter(must_heed).any(|vote| {
        vote.position > race.position
            || vote
                .candidate
                .is_some_and(|priority| rank(vote.position, &vote.member, priority) > mine)
    })
}

pub(super) fn win(view: &View<'_>) -> Option<Vec<Action>> {
    let mut steps = vec![Action::AcquireLeader];
    let sync = read(view).and_then(|cluster| cluster.sync.as_ref());
    if (view.settings.is_synchronous() || sync.is_some()) && !bug!(SyncNotTaken) {
        let expected = sync.map(|(revision, _)| *revision);
        steps.push(Action::WriteSync {
            expected,
            stored: Stored::only(view.me.clone()),
        });
    }
    steps.extend(promotion_steps(view, standby(view)?.position?));
    Some(steps)
}
