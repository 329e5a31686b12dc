//! The rules, in order; the first that applies decides. docs/ha.md prints this table.

mod bootstrap;
mod follow;
mod hand_over;
mod race;
mod reset;
mod sick;

pub use self::bootstrap::has_traces;
pub(crate) use self::hand_over::{CRASH_WINDOW, START_FAILURES_MAX};
pub(crate) use self::race::{RACE_AGAIN_AFTER, is_short_of_votes, would_lead};
use self::reset::{is_foreign, is_reset, recover, restore_keys, stay};
use self::sick::{again, alone, out_of_sight, start_timed_out, unresponsive};

use self::bootstrap::{
    bootstrap, initialize_missing, name_taken, slot_taken, store_system_id, system_unknown,
    unfinished_bootstrap, wrong_system,
};
use self::follow::{copy_from_leader, diverged, reinitialize, rejoin};
use self::hand_over::{
    crash_fails_over, restart_leader, shutting_down, switchover, switchover_done,
    switchover_refused,
};
use self::race::{
    finish_promotion, may_stand, old_timeline, outrun, race, switchover_to_other, too_far_behind,
    win,
};
use crate::action::{Action, StartAs, StopMode};
use crate::mutant::bug;
use crate::reason::Reason;
use crate::sync;
use crate::sync::{Names, Situation, Step, Stored};
use crate::view::{Cluster, DataDirectory, DcsView, Initialize, Postgres, Primary, Standby, View};
use mrg_base::MemberName;

/// What to do now, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The reason.
    pub reason: Reason,
    /// Steps, in order; the first failure ends them.
    pub actions: Vec<Action>,
}

/// When a rule is about anything at all. `tests/views.rs` holds every rule to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Always, before anything else.
    Always,
    /// The leader key is ours.
    Leading,
    /// It is another member's.
    Following,
    /// There is none.
    Leaderless,
}

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// When it is about anything.
    pub part: Part,
    /// Its reason.
    pub reason: Reason,
    /// The steps, if it applies.
    pub steps: fn(&View<'_>) -> Option<Vec<Action>>,
}

type Steps = fn(&View<'_>) -> Option<Vec<Action>>;

const fn always(reason: Reason, steps: Steps) -> Rule {
    Rule {
        part: Part::Always,
        reason,
        steps,
    }
}

const fn leading(reason: Reason, steps: Steps) -> Rule {
    Rule {
        part: Part::Leading,
        reason,
        steps,
    }
}

const fn following(reason: Reason, steps: Steps) -> Rule {
    Rule {
        part: Part::Following,
        reason,
        steps,
    }
}

const fn leaderless(reason: Reason, steps: Steps) -> Rule {
    Rule {
        part: Part::Leaderless,
        reason,
        steps,
    }
}

/// Every rule, in order.
pub const RULES: &[Rule] = &[
    always(Reason::WriterWithoutLease, writer_without_lease),
    always(Reason::ShuttingDown, shutting_down),
    always(Reason::DcsUnread, |view| {
        matches!(view.dcs, DcsView::Unread).then(Vec::new)
    }),
    // Before the rules that wait for postgres: a leader's wait has an end.
    always(Reason::StartTimedOut, start_timed_out),
    always(Reason::Unresponsive, unresponsive),
    always(Reason::UnresponsiveAlone, |view| out_of_sight(view, alone)),
    always(Reason::UnresponsiveAgain, |view| out_of_sight(view, again)),
    always(Reason::PostgresUnknown, |view| {
        matches!(view.postgres, Postgres::Unknown).then(Vec::new)
    }),
    always(Reason::DcsAway, dcs_away),
    always(Reason::NoLease, |view| {
        view.valid_lease().is_none().then(Vec::new)
    }),
    always(Reason::DcsReset, |view| is_foreign(view).then(Vec::new)),
    always(Reason::RestoreKeys, restore_keys),
    always(Reason::NameTaken, name_taken),
    always(Reason::SlotTaken, slot_taken),
    // Before the rules that leave data as it is: a person asked to replace it.
    always(Reason::Reinitialize, reinitialize),
    always(Reason::Starting, |view| {
        matches!(view.postgres, Postgres::Starting).then(Vec::new)
    }),
    always(Reason::CrashedRestart, recover),
    always(Reason::UnfinishedBootstrap, unfinished_bootstrap),
    always(Reason::WrongSystem, wrong_system),
    always(Reason::InitializeMissing, initialize_missing),
    always(Reason::StandbyCluster, |view| {
        let leaderless = read(view)?.leader.is_none();
        (no_data(view) && leaderless && is_standby_cluster(view)).then(Vec::new)
    }),
    always(Reason::Bootstrap, bootstrap),
    always(Reason::BootstrapElsewhere, |view| {
        let cluster = read(view)?;
        (no_data(view)
            && cluster.leader.is_none()
            && matches!(cluster.initialize, Some(Initialize::InProgress(_))))
        .then(Vec::new)
    }),
    always(Reason::Paused, |view| view.settings.paused.then(Vec::new)),
    // In every part of the table: nothing else can come of it, not even a copy over it.
    always(Reason::UnusableData, unusable_data),
    leading(Reason::HandOver, |view| {
        let planned = view.memory.hand_over.has_stopped() && !view.memory.writes_fail;
        (leads(view) && stopped(view) && planned).then(|| vec![Action::ReleaseLeader])
    }),
    leading(Reason::CrashedFailover, |view| {
        (leads(view) && stopped(view) && crash_fails_over(view))
            .then(|| vec![Action::ReleaseLeader])
    }),
    leading(Reason::CrashedRestart, |view| {
        data_at_rest(view)
            .filter(|_| leads(view))
            .map(|data| vec![start_leader(data)])
    }),
    leading(Reason::FinishPromotion, finish_promotion),
    leading(Reason::GiveBackKey, |view| {
        (leads(view) && primary(view).is_none()).then(|| vec![Action::ReleaseLeader])
    }),
    leading(Reason::ChangeLease, |view| {
        let next = view
            .next_lease
            .filter(|next| next.is_valid(view.now) && leads(view))?;
        Some(vec![Action::MoveLeader(next.id)])
    }),
    leading(Reason::StoreSystemId, store_system_id),
    leading(Reason::SwitchoverDone, switchover_done),
    leading(Reason::SwitchoverRefused, switchover_refused),
    leading(Reason::Switchover, switchover),
    leading(Reason::RestartRequested, restart_leader),
    leading(Reason::ResumePoolers, |view| {
        (leads(view) && primary(view).is_some() && view.memory.hand_over.pauses_poolers())
            .then(|| vec![Action::ResumePoolers])
    }),
    leading(Reason::NarrowSync, |view| match sync_step(view)? {
        Step::Narrow(stored) => write_sync(view, stored),
        _ => None,
    }),
    leading(Reason::ChangeSyncNames, |view| match sync_step(view)? {
        Step::Names(names) => Some(vec![Action::SetSyncNames(names)]),
        _ => None,
    }),
    leading(Reason::WidenSync, |view| match sync_step(view)? {
        Step::Widen(stored) => write_sync(view, stored),
        _ => None,
    }),
    // Behind the rules of `/sync`, by which a member may come to be fit to take over.
    leading(Reason::UnresponsiveAlone, |view| alone(view).then(Vec::new)),
    leading(Reason::UnresponsiveAgain, |view| again(view).then(Vec::new)),
    leading(Reason::Leading, |view| leads(view).then(Vec::new)),
    following(Reason::CopyFromLeader, copy_from_leader),
    following(Reason::Rejoin, rejoin),
    following(Reason::StartStandby, |view| {
        let leader = other(view)?;
        stopped(view).then(|| {
            vec![Action::Start(StartAs::Standby {
                upstream: Some(leader.clone()),
            })]
        })
    }),
    following(Reason::DcsReset, stay),
    following(Reason::FollowLeader, |view| {
        let leader = other(view)?;
        (standby(view)?.upstream.as_ref() != Some(leader))
            .then(|| vec![Action::Follow(leader.clone())])
    }),
    following(Reason::Diverged, diverged),
    following(Reason::RestartRequested, |view| {
        let upstream = Some(other(view)?.clone());
        let steps = || {
            vec![
                Action::Stop(StopMode::Fast),
                Action::Start(StartAs::Standby { upstream }),
            ]
        };
        (standby(view).is_some() && view.memory.restart_requested).then(steps)
    }),
    following(Reason::Following, |view| other(view).map(|_| Vec::new())),
    leaderless(Reason::Reclaim, |view| {
        primary(view).map(|_| vec![Action::AcquireLeader])
    }),
    leaderless(Reason::NoLeaderToCopy, |view| no_data(view).then(Vec::new)),
    leaderless(Reason::SystemUnknown, system_unknown),
    leaderless(Reason::StartToRace, |view| {
        stopped(view).then(|| vec![Action::Start(StartAs::Standby { upstream: None })])
    }),
    leaderless(Reason::Replaying, |view| {
        standby(view)?.position.is_none().then(Vec::new)
    }),
    leaderless(Reason::DcsReset, |view| is_reset(view).then(Vec::new)),
    leaderless(Reason::JustStarted, |view| {
        view.may_have_promised().then(Vec::new)
    }),
    leaderless(Reason::Promised, |view| view.is_promised().then(Vec::new)),
    leaderless(Reason::NotInFailsafe, |view| {
        // Also when the setting is off by now: a leader that cannot read that may lead by promises,
        // and did not ask us.
        let listed = read(view)?.failsafe.as_ref()?;
        (!listed.members.contains(view.me) && !bug!(UnlistedRaces)).then(Vec::new)
    }),
    leaderless(Reason::StandbyCluster, |view| {
        is_standby_cluster(view).then(Vec::new)
    }),
    leaderless(Reason::MayNotLead, |view| {
        view.memory.priority.is_none().then(Vec::new)
    }),
    leaderless(Reason::SwitchoverToOther, switchover_to_other),
    leaderless(Reason::SyncStateMissing, |view| {
        (view.settings.is_synchronous() && read(view)?.sync.is_none()).then(Vec::new)
    }),
    leaderless(Reason::NotInSync, |view| (!may_stand(view)).then(Vec::new)),
    leaderless(Reason::OldTimeline, old_timeline),
    leaderless(Reason::TooFarBehind, too_far_behind),
    leaderless(Reason::Race, race),
    leaderless(Reason::TooFewVotes, |view| {
        is_short_of_votes(view).then(Vec::new)
    }),
    leaderless(Reason::Outrun, |view| outrun(view).then(Vec::new)),
    leaderless(Reason::Win, win),
];

/// Decides. Total: some rule always applies.
pub fn decide(view: &View<'_>) -> Decision {
    for rule in RULES {
        if let Some(actions) = (rule.steps)(view) {
            return Decision {
                reason: rule.reason,
                actions,
            };
        }
    }
    unreachable!("no rule applies to {view:?}; please report this as a bug of mrg-operator");
}

fn read<'a>(view: &View<'a>) -> Option<&'a Cluster> {
    match view.dcs {
        DcsView::Read(cluster) => Some(cluster),
        DcsView::Unread | DcsView::Away { .. } => None,
    }
}

fn leads(view: &View<'_>) -> bool {
    view.holds_key()
}

fn other<'a>(view: &View<'a>) -> Option<&'a MemberName> {
    view.other_leader().map(|key| &key.member)
}

fn primary<'a>(view: &View<'a>) -> Option<&'a Primary> {
    if let Postgres::Primary(primary) = view.postgres {
        Some(primary)
    } else {
        None
    }
}

fn standby<'a>(view: &View<'a>) -> Option<&'a Standby> {
    if let Postgres::Standby(standby) = view.postgres {
        Some(standby)
    } else {
        None
    }
}

fn data_at_rest(view: &View<'_>) -> Option<DataDirectory> {
    if let Postgres::Stopped(data) = view.postgres {
        Some(*data)
    } else {
        None
    }
}

fn stopped(view: &View<'_>) -> bool {
    data_at_rest(view).is_some()
}

fn no_data(view: &View<'_>) -> bool {
    matches!(view.postgres, Postgres::NoData)
}

fn is_standby_cluster(view: &View<'_>) -> bool {
    view.settings.standby_cluster && !bug!(SecondPrimary)
}

fn stored<'a>(view: &View<'a>) -> Option<&'a Stored> {
    read(view)?.sync.as_ref().map(|(_, stored)| stored)
}

fn writer_without_lease(view: &View<'_>) -> Option<Vec<Action>> {
    (primary(view).is_some() && !view.may_write() && !bug!(WriterGoesOn))
        .then(|| vec![Action::Stop(StopMode::Kill)])
}

/// A leader whose data cannot be used cannot serve, today or after a restart: the key is of use to
/// the others only.
fn unusable_data(view: &View<'_>) -> Option<Vec<Action>> {
    if !matches!(view.postgres, Postgres::Unusable) {
        return None;
    }
    let release = leads(view) && !bug!(UnusableLeads);
    Some(if release {
        vec![Action::ReleaseLeader]
    } else {
        vec![]
    })
}

fn dcs_away(view: &View<'_>) -> Option<Vec<Action>> {
    if !matches!(view.dcs, DcsView::Away { .. }) {
        return None;
    }
    Some(match view.postgres {
        Postgres::Stopped(data)
            if data.unfinished
                || view
                    .system_id()
                    .is_some_and(|expected| expected != data.system_id) =>
        {
            vec![]
        }
        Postgres::Stopped(data) if view.may_write() => vec![start_leader(*data)],
        Postgres::Stopped(_) => vec![Action::Start(StartAs::Standby { upstream: None })],
        _ => vec![],
    })
}

/// A standby's data does not become a primary's by being started as one: without a promotion its
/// timeline would go on in two places.
fn start_leader(data: DataDirectory) -> Action {
    Action::Start(if data.was_primary || bug!(StandbyStartedAsPrimary) {
        StartAs::Primary
    } else {
        StartAs::Standby { upstream: None }
    })
}

fn sync_step(view: &View<'_>) -> Option<Step> {
    let primary = primary(view).filter(|_| leads(view))?;
    let cluster = read(view)?;
    let nobody = Names::Nobody;
    if !view.settings.is_synchronous() && cluster.sync.is_none() {
        return (primary.names != Some(nobody.clone())).then_some(Step::Names(nobody));
    }
    let Some(names) = &primary.names else {
        return Some(Step::Narrow(Stored::only(view.me.clone())));
    };
    let Some((_, stored)) = &cluster.sync else {
        return Some(Step::Narrow(Stored::only(view.me.clone())));
    };
    let may_sync = |name: &MemberName| {
        cluster
            .members
            .get(name)
            .is_some_and(|member| member.may_sync)
    };
    let senders = primary
        .senders
        .iter()
        .filter(|(name, _)| may_sync(name))
        .map(|(name, sender)| (name.clone(), *sender))
        .collect();
    let patient = view
        .memory
        .promoted
        .is_some_and(|at| view.since(at) < view.settings.failover.retry_timeout);
    sync::next_step(&Situation {
        me: view.me,
        replication: view.settings.replication,
        senders: &senders,
        names,
        stored,
        names_set_at: view.memory.names_set_at.unwrap_or(primary.position.flushed),
        patient,
    })
}

fn write_sync(view: &View<'_>, stored: Stored) -> Option<Vec<Action>> {
    let expected = read(view)?.sync.as_ref().map(|(revision, _)| *revision);
    // Names that no member wrote cannot be reasoned about: once no standby may take over, they are
    // replaced.
    let foreign = primary(view)?.names.is_none();
    let already = read(view)?
        .sync
        .as_ref()
        .is_some_and(|(_, now)| *now == stored);
    if foreign && already {
        return Some(vec![Action::SetSyncNames(Names::Nobody)]);
    }
    Some(vec![Action::WriteSync { expected, stored }])
}
