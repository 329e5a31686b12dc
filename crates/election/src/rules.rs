//! The rules, in order; the first that applies decides. docs/ha.md prints this table.

use std::collections::BTreeSet;

use crate::action::{Action, StartAs, StopMode, Vote};
use crate::mutant::bug;
use crate::settings::{Mode, OnCrash};
use crate::sync::{self, Names, Situation, Step, Stored};
use crate::view::{
    Cluster, DataDirectory, DcsView, Fork, Initialize, Postgres, Primary, Standby,
    SwitchoverRequest, View, WalReceiver,
};
use crate::why::Why;
use mrg_base::{MemberName, Millis, Position};

/// What to do now, and why.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The reason.
    pub why: Why,
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
    /// It is somebody else's.
    Following,
    /// It is nobody's.
    Leaderless,
}

/// One rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// When it is about anything.
    pub part: Part,
    /// Its reason.
    pub why: Why,
    /// The steps, if it applies.
    pub steps: fn(&View<'_>) -> Option<Vec<Action>>,
}

type Steps = fn(&View<'_>) -> Option<Vec<Action>>;

const fn always(why: Why, steps: Steps) -> Rule {
    Rule {
        part: Part::Always,
        why,
        steps,
    }
}

const fn leading(why: Why, steps: Steps) -> Rule {
    Rule {
        part: Part::Leading,
        why,
        steps,
    }
}

const fn following(why: Why, steps: Steps) -> Rule {
    Rule {
        part: Part::Following,
        why,
        steps,
    }
}

const fn leaderless(why: Why, steps: Steps) -> Rule {
    Rule {
        part: Part::Leaderless,
        why,
        steps,
    }
}

/// A WAL receiver that does not come up within this time means that the member cannot follow from
/// where it is.
const DIVERGED_AFTER: Millis = Millis::seconds(8);
/// A lost race is run again after this time, in case the one who was ahead does not take the key.
pub(crate) const RACE_AGAIN_AFTER: Millis = Millis(500);
/// More crashes than this within the window, and the leader recovers in place.
const CRASH_RELEASES_MAX: usize = 3;
/// After so many failed starts in a row, another way is tried.
pub(crate) const START_FAILURES_MAX: u32 = 3;
/// How long a release after a crash is remembered.
pub(crate) const CRASH_WINDOW: Millis = Millis::seconds(600);

/// Every rule, in order.
pub const RULES: &[Rule] = &[
    always(Why::WriterWithoutLease, writer_without_lease),
    always(Why::ShuttingDown, shutting_down),
    always(Why::DcsUnread, |view| {
        matches!(view.dcs, DcsView::Unread).then(Vec::new)
    }),
    always(Why::PostgresUnknown, |view| {
        matches!(view.postgres, Postgres::Unknown).then(Vec::new)
    }),
    always(Why::DcsAway, dcs_away),
    always(Why::NoLease, |view| {
        view.valid_lease().is_none().then(Vec::new)
    }),
    always(Why::NameTaken, name_taken),
    always(Why::Starting, |view| {
        matches!(view.postgres, Postgres::Starting).then(Vec::new)
    }),
    always(Why::UnfinishedBootstrap, unfinished_bootstrap),
    always(Why::WrongSystem, wrong_system),
    always(Why::InitializeMissing, initialize_missing),
    always(Why::Bootstrap, bootstrap),
    always(Why::BootstrapElsewhere, |view| {
        let cluster = read(view)?;
        (no_data(view)
            && cluster.leader.is_none()
            && matches!(cluster.initialize, Some(Initialize::InProgress(_))))
        .then(Vec::new)
    }),
    always(Why::Paused, |view| view.settings.paused.then(Vec::new)),
    leading(Why::HandOver, |view| {
        (leads(view) && stopped(view) && view.memory.hand_over.has_stopped())
            .then(|| vec![Action::ReleaseLeader])
    }),
    leading(Why::CrashedFailover, |view| {
        (leads(view) && stopped(view) && crash_fails_over(view))
            .then(|| vec![Action::ReleaseLeader])
    }),
    leading(Why::CrashedRestart, |view| {
        data_at_rest(view)
            .filter(|_| leads(view))
            .map(|data| vec![start_leader(data)])
    }),
    leading(Why::FinishPromotion, finish_promotion),
    leading(Why::GiveBackKey, |view| {
        (leads(view) && primary(view).is_none()).then(|| vec![Action::ReleaseLeader])
    }),
    leading(Why::ChangeLease, |view| {
        let next = view
            .next_lease
            .filter(|next| next.is_valid(view.now) && leads(view))?;
        Some(vec![Action::MoveLeader(next.id)])
    }),
    leading(Why::StoreSystemId, store_system_id),
    leading(Why::SwitchoverDone, switchover_done),
    leading(Why::SwitchoverRefused, switchover_refused),
    leading(Why::Switchover, switchover),
    leading(Why::RestartRequested, restart_leader),
    leading(Why::ResumePoolers, |view| {
        (leads(view) && primary(view).is_some() && view.memory.hand_over.pauses_poolers())
            .then(|| vec![Action::ResumePoolers])
    }),
    leading(Why::NarrowSync, |view| match sync_step(view)? {
        Step::Narrow(stored) => write_sync(view, stored),
        _ => None,
    }),
    leading(Why::ChangeSyncNames, |view| match sync_step(view)? {
        Step::Names(names) => Some(vec![Action::SetSyncNames(names)]),
        _ => None,
    }),
    leading(Why::WidenSync, |view| match sync_step(view)? {
        Step::Widen(stored) => write_sync(view, stored),
        _ => None,
    }),
    leading(Why::Leading, |view| leads(view).then(Vec::new)),
    following(Why::CopyFromLeader, copy_from_leader),
    following(Why::Rejoin, rejoin),
    following(Why::StartStandby, |view| {
        let leader = other(view)?;
        stopped(view).then(|| {
            vec![Action::Start(StartAs::Standby {
                upstream: Some(leader.clone()),
            })]
        })
    }),
    following(Why::FollowLeader, |view| {
        let leader = other(view)?;
        (standby(view)?.upstream.as_ref() != Some(leader))
            .then(|| vec![Action::Follow(leader.clone())])
    }),
    following(Why::Diverged, diverged),
    following(Why::RestartRequested, |view| {
        let upstream = Some(other(view)?.clone());
        let steps = || {
            vec![
                Action::Stop(StopMode::Fast),
                Action::Start(StartAs::Standby { upstream }),
            ]
        };
        (standby(view).is_some() && view.memory.restart_requested).then(steps)
    }),
    following(Why::Following, |view| other(view).map(|_| Vec::new())),
    leaderless(Why::Reclaim, |view| {
        primary(view).map(|_| vec![Action::AcquireLeader])
    }),
    leaderless(Why::NoLeaderToCopy, |view| no_data(view).then(Vec::new)),
    leaderless(Why::SystemUnknown, system_unknown),
    leaderless(Why::StartToRace, |view| {
        stopped(view).then(|| vec![Action::Start(StartAs::Standby { upstream: None })])
    }),
    leaderless(Why::Replaying, |view| {
        standby(view)?.position.is_none().then(Vec::new)
    }),
    leaderless(Why::JustStarted, |view| {
        view.may_have_promised().then(Vec::new)
    }),
    leaderless(Why::Promised, |view| view.is_promised().then(Vec::new)),
    leaderless(Why::NotInFailsafe, |view| {
        // Also when the setting is off by now: a leader that cannot read that may lead by promises,
        // and did not ask us.
        let listed = read(view)?.failsafe.as_ref()?;
        (!listed.members.contains(view.me) && !bug!(UnlistedRaces)).then(Vec::new)
    }),
    leaderless(Why::MayNotLead, |view| {
        view.memory.priority.is_none().then(Vec::new)
    }),
    leaderless(Why::SwitchoverToOther, switchover_to_other),
    leaderless(Why::SyncStateMissing, |view| {
        (view.settings.is_synchronous() && read(view)?.sync.is_none()).then(Vec::new)
    }),
    leaderless(Why::NotInSync, |view| (!may_stand(view)).then(Vec::new)),
    leaderless(Why::OldTimeline, old_timeline),
    leaderless(Why::TooFarBehind, too_far_behind),
    leaderless(Why::Race, race),
    leaderless(Why::TooFewVotes, |view| {
        is_short_of_votes(view).then(Vec::new)
    }),
    leaderless(Why::Outrun, |view| outrun(view).then(Vec::new)),
    leaderless(Why::Win, win),
];

/// Decides. Total: some rule always applies.
pub fn decide(view: &View<'_>) -> Decision {
    for rule in RULES {
        if let Some(actions) = (rule.steps)(view) {
            return Decision {
                why: rule.why,
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

fn stored<'a>(view: &View<'a>) -> Option<&'a Stored> {
    read(view)?.sync.as_ref().map(|(_, stored)| stored)
}

fn writer_without_lease(view: &View<'_>) -> Option<Vec<Action>> {
    (primary(view).is_some() && !view.may_write() && !bug!(WriterGoesOn))
        .then(|| vec![Action::Stop(StopMode::Kill)])
}

fn shutting_down(view: &View<'_>) -> Option<Vec<Action>> {
    if !view.memory.stop_requested {
        return None;
    }
    Some(match view.postgres {
        Postgres::Primary(_) if view.holds_key() => hand_over_steps(successors(view), false),
        Postgres::Primary(_) | Postgres::Standby(_) | Postgres::Starting => {
            vec![Action::Stop(StopMode::Fast)]
        }
        Postgres::Stopped(_) | Postgres::NoData if view.holds_key() => vec![Action::ReleaseLeader],
        Postgres::Stopped(_) | Postgres::NoData | Postgres::Unknown => vec![],
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

/// Before the data directory is touched the name must be ours; a running server is left alone.
fn name_taken(view: &View<'_>) -> Option<Vec<Action>> {
    let key = read(view)?.members.get(view.me);
    let ours = key.is_some_and(|key| view.lease.is_some_and(|lease| lease.id == key.lease));
    (!ours && (stopped(view) || no_data(view)) && !view.memory.stop_requested).then(Vec::new)
}

/// What was made for a new cluster and did not become one is of no use to anybody, and would keep
/// this member out of the one that did.
fn unfinished_bootstrap(view: &View<'_>) -> Option<Vec<Action>> {
    let data = data_at_rest(view).filter(|data| data.unfinished)?;
    let cluster = read(view)?;
    let remains = match cluster.initialize {
        Some(Initialize::Done(system_id)) => system_id == data.system_id,
        // Somebody may have deleted the key that said so.
        Some(Initialize::InProgress(_)) | None => has_traces(cluster),
    };
    (!remains && !bug!(UnfinishedKept)).then(|| vec![Action::RemoveData])
}

/// Whether there is what only a finished cluster writes. (`/sync` is written before the end, so
/// alone it tells nothing.)
pub fn has_traces(cluster: &Cluster) -> bool {
    cluster.optime.is_some() || cluster.timeline.is_some() || cluster.failsafe.is_some()
}

fn wrong_system(view: &View<'_>) -> Option<Vec<Action>> {
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

/// Data that nobody has said to be this cluster's does not lead because the key that would tell was
/// deleted.
fn system_unknown(view: &View<'_>) -> Option<Vec<Action>> {
    let cluster = read(view)?;
    let known = cluster.initialize.is_some() || view.system_id().is_some() || bug!(AnySystemLeads);
    (!known && (has_traces(cluster) || view.memory.knows_cluster)).then(Vec::new)
}

fn bootstrap(view: &View<'_>) -> Option<Vec<Action>> {
    let cluster = read(view)?;
    // The claim may be ours although nobody told us: its answer was lost.
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
/// this one saw the cluster before: somebody deleted a key, or all of them, and a new cluster would
/// lock the old one's members out.
fn initialize_missing(view: &View<'_>) -> Option<Vec<Action>> {
    let cluster = read(view)?;
    let lost = no_data(view) && cluster.initialize.is_none() && cluster.leader.is_none();
    let data = cluster
        .members
        .values()
        .any(|member| member.running || member.position.is_some());
    let known = view.memory.knows_cluster && !bug!(ClusterForgotten);
    (lost && (has_traces(cluster) || data || known) && !bug!(BootstrapsOverTraces)).then(Vec::new)
}

fn store_system_id(view: &View<'_>) -> Option<Vec<Action>> {
    let primary = primary(view).filter(|_| leads(view))?;
    let known = read(view)?.initialize == Some(Initialize::Done(primary.system_id));
    (!known).then(|| vec![Action::StoreSystemId(primary.system_id)])
}

/// Whether a crash of the leader's postgres is answered by letting the key go.
fn crash_fails_over(view: &View<'_>) -> bool {
    let recent = view
        .memory
        .crash_releases
        .iter()
        .filter(|at| view.since(**at) < CRASH_WINDOW)
        .count();
    let wanted = match view.settings.failover.on_crash {
        OnCrash::Failover => true,
        OnCrash::Restart => false,
        OnCrash::Auto => view.settings.is_synchronous() && view.memory.standby_was_streaming,
    };
    let hopeless = view.memory.start_failures >= START_FAILURES_MAX;
    (hopeless || wanted && recent < CRASH_RELEASES_MAX) && !successors(view).is_empty()
}

/// Members that may take over from us, as far as the DCS tells.
fn successors(view: &View<'_>) -> BTreeSet<MemberName> {
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
        member.is_some_and(|member| member.running && member.may_lead) && voter
    };
    view.peers().into_iter().filter(eligible).collect()
}

fn hand_over_steps(candidates: BTreeSet<MemberName>, may_abandon: bool) -> Vec<Action> {
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

/// A promotion that stopped half-way: the key is ours and `/sync` already says that we lead.
fn finish_promotion(view: &View<'_>) -> Option<Vec<Action>> {
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

/// The last steps of a promotion. In the synchronous modes `/sync` keeps everybody else from
/// beginning a timeline of the same number.
fn promotion_steps(view: &View<'_>, position: Position) -> Vec<Action> {
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

/// The names for the first moments of a new primary: whoever is alive must confirm, so that nothing
/// is acknowledged by the new primary alone.
fn first_names(view: &View<'_>) -> Names {
    let replication = view.settings.replication;
    let members = view.dcs.last().map(|cluster| &cluster.members);
    let alive = members
        .into_iter()
        .flatten()
        .filter(|(name, member)| *name != view.me && member.may_sync);
    let alive: BTreeSet<MemberName> = alive.map(|(name, _)| name.clone()).collect();
    let alive = if replication.mode == Mode::Sync {
        // Whoever answered in the race is there; a former leader that just crashed has its key,
        // too, and would let commits wait.
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

/// The switchover request that is meant for us, and the members that could take over by it.
fn requested<'a>(view: &View<'a>) -> Option<(&'a SwitchoverRequest, BTreeSet<MemberName>)> {
    primary(view).filter(|_| leads(view))?;
    let request = read(view)?.switchover.as_ref()?;
    let mut candidates = successors(view);
    if let Some(candidate) = &request.candidate {
        candidates.retain(|name| name == candidate);
    }
    Some((request, candidates))
}

/// The request named the leader before us, or us: it is done.
fn switchover_done(view: &View<'_>) -> Option<Vec<Action>> {
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

fn switchover_refused(view: &View<'_>) -> Option<Vec<Action>> {
    let (request, candidates) = requested(view)?;
    let abandoned = view.memory.abandoned == Some(request.revision);
    (candidates.is_empty() || abandoned).then(|| {
        vec![Action::ClearSwitchover {
            expected: request.revision,
        }]
    })
}

fn switchover(view: &View<'_>) -> Option<Vec<Action>> {
    requested(view).map(|(_, candidates)| hand_over_steps(candidates, true))
}

fn restart_leader(view: &View<'_>) -> Option<Vec<Action>> {
    primary(view).filter(|_| leads(view) && view.memory.restart_requested)?;
    let pause = Action::PausePoolers { may_abandon: false };
    Some(vec![
        Action::Checkpoint,
        pause,
        Action::Stop(StopMode::Fast),
        Action::Start(StartAs::Primary),
    ])
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
    // Names that nobody here wrote cannot be reasoned about: once nobody may take over, they are
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

fn copy_from_leader(view: &View<'_>) -> Option<Vec<Action>> {
    let leader = other(view).filter(|_| no_data(view))?;
    let cluster = read(view)?;
    let runs = cluster
        .members
        .get(leader)
        .is_some_and(|member| member.running && member.primary);
    // A cluster that is still being made may be given up; a copy of it would be of another system
    // than the one that comes after.
    let made = matches!(cluster.initialize, Some(Initialize::Done(_))) || bug!(CopiesUnfinished);
    if !runs || !made {
        return None;
    }
    Some(copy_steps(view, leader))
}

fn copy_steps(view: &View<'_>, leader: &MemberName) -> Vec<Action> {
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

/// The steps that bring a data directory of another history in line: rewind, and after a failed
/// rewind a fresh copy. Nothing is touched, or even stopped, for a leader that only its key speaks
/// for: it may be dead, and this the last good copy.
fn realign(view: &View<'_>, leader: &MemberName) -> Vec<Action> {
    let mut steps = vec![Action::ConfirmLeader(leader.clone())];
    if standby(view).is_some() {
        steps.push(Action::Stop(StopMode::Fast));
    }
    if view.settings.use_rewind && view.memory.rewind_failures == 0 {
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

fn rejoin(view: &View<'_>) -> Option<Vec<Action>> {
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

fn diverged(view: &View<'_>) -> Option<Vec<Action>> {
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
    let WalReceiver::Broken(since) = standby.receiver else {
        return None;
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

fn switchover_to_other(view: &View<'_>) -> Option<Vec<Action>> {
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

/// Nobody else could take over.
fn sole_hope(view: &View<'_>) -> bool {
    successors(view).is_empty()
}

/// Whether this member may stand in an election at all, by `/sync`.
fn may_stand(view: &View<'_>) -> bool {
    if !view.settings.is_synchronous() || bug!(AnybodyStands) {
        return true;
    }
    stored(view).is_some_and(|stored| stored.leader == *view.me || stored.voters.contains(view.me))
}

/// The newest timeline is another's, and we have nothing of it. One that we reserved and did not
/// begin is no obstacle.
fn old_timeline(view: &View<'_>) -> Option<Vec<Action>> {
    let cluster = read(view)?;
    let behind = standby(view)?.position?.timeline < cluster.timeline?;
    (behind && !bug!(OldTimelineStands) && cluster.timeline_of.as_ref() != Some(view.me))
        .then(Vec::new)
}

fn too_far_behind(view: &View<'_>) -> Option<Vec<Action>> {
    let cluster = read(view)?;
    let position = standby(view)?.position?;
    let lag = cluster.optime?.bytes_since(position.flushed);
    (!view.settings.is_synchronous() && lag > view.settings.failover.maximum_lag_bytes)
        .then(Vec::new)
}

fn race(view: &View<'_>) -> Option<Vec<Action>> {
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
pub(crate) fn would_lead(why: Why) -> bool {
    matches!(why, Why::Race | Why::TooFewVotes | Why::Outrun | Why::Win)
}

/// Whom to ask: every member whose key is there, and every voter.
fn electorate(view: &View<'_>) -> BTreeSet<MemberName> {
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

fn votes<'a>(view: &View<'a>) -> Option<Vec<&'a Vote>> {
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

fn votes_needed(view: &View<'_>) -> usize {
    match stored(view).filter(|_| view.settings.is_synchronous()) {
        Some(stored) if stored.leader == *view.me => 0,
        Some(stored) if bug!(OneVoteFewer) => stored.quorum.saturating_sub(1),
        Some(stored) => stored.quorum,
        None => 0,
    }
}

/// Whether somebody who would take over is ahead: by position, then by being named, then by
/// priority, then by name.
fn outrun(view: &View<'_>) -> bool {
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

fn win(view: &View<'_>) -> Option<Vec<Action>> {
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
