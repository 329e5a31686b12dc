//! Every view of a bounded world: a decision is made, it is about what its rule says it is about,
//! it promotes nobody who may not lead, and wherever its steps are interrupted the next decisions
//! come to rest.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends with the first surprise"
)]

use std::collections::{BTreeMap, BTreeSet};

use mrg_base::{Lsn, MemberName, Millis, Moment, Position, Timeline};
use mrg_election::sync::{self, Names, Stored};
use mrg_election::{
    Action, Cluster, DataDirectory, DcsView, Decision, Failsafe, HandOverEvent, Initialize,
    LeaderKey, Lease, LeaseId, Member, Memory, Mode, Part, Postgres, Primary, RULES, Race, Reason,
    Replication, Revision, Settings, Silence, Standby, StartAs, StopMode, SwitchoverRequest, View,
    Vote, WalReceiver, WalSender, decide,
};

const NOW: Moment = Moment(1_000_000);
const MINE: LeaseId = LeaseId(1);
const OTHER: LeaseId = LeaseId(2);

fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

fn at(flushed: u64) -> Position {
    Position {
        timeline: Timeline(1),
        flushed: Lsn(flushed),
    }
}

/// What a [`View`] borrows.
#[derive(Clone, Debug)]
struct World {
    me: MemberName,
    settings: Settings,
    lease: Option<Lease>,
    dcs: DcsView,
    postgres: Postgres,
    race: Option<Race>,
    memory: Memory,
    /// `synchronous_standby_names` in the file.
    names: Names,
}

impl World {
    fn hand_over(&mut self, event: HandOverEvent) {
        self.memory.hand_over = self.memory.hand_over.on(event);
    }

    fn view(&self) -> View<'_> {
        View {
            now: NOW,
            me: &self.me,
            settings: &self.settings,
            lease: self.lease.as_ref(),
            next_lease: None,
            moving_to: None,
            dcs: &self.dcs,
            postgres: &self.postgres,
            race: self.race.as_ref(),
            memory: &self.memory,
        }
    }

    fn cluster(&mut self) -> Option<&mut Cluster> {
        match &mut self.dcs {
            DcsView::Read(cluster) => Some(cluster),
            _ => None,
        }
    }
}

/// Each list of choices, one after the other, from a number: a mixed-radix count through all of
/// them.
struct Choice(u64);

impl Choice {
    fn of<T: Clone>(&mut self, list: &[T]) -> T {
        let length = list.len() as u64;
        let index = self.0 % length;
        self.0 /= length;
        list[usize::try_from(index).unwrap()].clone()
    }
}

fn names_of(members: &[&str]) -> BTreeSet<MemberName> {
    members.iter().map(|member| name(member)).collect()
}

/// The view of this number; `None` behind the last.
#[expect(clippy::too_many_lines, reason = "a table of choices")]
fn world(number: u64) -> Option<World> {
    let mut choice = Choice(number);
    let mode = choice.of(&[Mode::Async, Mode::Sync, Mode::Quorum]);
    let strict = choice.of(&[false, true]);
    let lease_until = choice.of(&[None, Some(NOW + Millis(5_000)), Some(NOW - Millis(1))]);
    let leader = choice.of(&[
        None,
        Some(("a", MINE)),
        Some(("a", OTHER)),
        Some(("b", OTHER)),
    ]);
    let initialize = choice.of(&[
        Some(Initialize::Done(42)),
        Some(Initialize::Done(7)),
        Some(Initialize::InProgress(MINE)),
        Some(Initialize::InProgress(OTHER)),
        None,
    ]);
    let stored = choice.of(&[
        None,
        Some(("a", &[][..], 0)),
        Some(("a", &["b", "c"][..], 1)),
        Some(("b", &["a", "c"][..], 1)),
        Some(("b", &["c"][..], 0)),
    ]);
    let postgres = postgres(&mut choice);
    let race = choice.of(&[
        None,
        Some(None),
        Some(Some(None)),
        Some(Some(Some(100))),
        Some(Some(Some(101))),
    ]);
    let reach = choice.of(&["read", "away", "unread"]);
    let promised = choice.of(&[false, true]);
    let held = choice.of(&[false, true]);
    let stop = choice.of(&[false, true]);
    let listed = choice.of(&[true, false]);
    let request = choice.of(&[None, Some(("a", Some("b"))), Some(("b", Some("a")))]);
    let sick = choice.of(&[false, true]);
    if choice.0 > 0 {
        return None;
    }
    let member = |lease, primary| Member {
        lease,
        running: true,
        primary,
        position: Some(at(100)),
        may_lead: true,
        may_sync: true,
        just_started: false,
        created: Revision(0),
    };
    let others = BTreeMap::from([
        (
            name("b"),
            member(OTHER, leader.is_some_and(|(who, _)| who == "b")),
        ),
        (name("c"), member(LeaseId(3), false)),
    ]);
    let mut members = others;
    members.insert(name("a"), member(MINE, false));
    let cluster = Cluster {
        revision: Revision(10),
        initialize,
        leader: leader.map(|(who, lease)| LeaderKey {
            member: name(who),
            lease,
            created: Revision(5),
        }),
        sync: stored.map(|(leader, voters, quorum)| {
            (
                Revision(7),
                Stored {
                    leader: name(leader),
                    voters: names_of(voters),
                    quorum,
                },
            )
        }),
        members,
        switchover: request.map(|(from, to)| SwitchoverRequest {
            leader: Some(name(from)),
            candidate: to.map(name),
            revision: Revision(8),
        }),
        optime: Some(Lsn(100)),
        timeline: None,
        timeline_of: None,
        failsafe: Some(Failsafe {
            members: names_of(if listed {
                &["a", "b", "c"]
            } else {
                &["b", "c"]
            }),
            ..Failsafe::default()
        }),
        expected: None,
    };
    let ttl = Millis::seconds(10);
    let votes = |flushed: Option<u64>| {
        flushed
            .map(|flushed| Vote {
                member: name("c"),
                position: at(flushed),
                candidate: Some(1),
            })
            .into_iter()
            .collect()
    };
    let names = match &postgres {
        Postgres::Primary(primary) => primary.names.clone().unwrap(),
        _ => Names::Any {
            count: 1,
            members: names_of(&["b", "c"]),
        },
    };
    Some(World {
        names,
        me: name("a"),
        settings: Settings {
            replication: Replication {
                mode,
                count: 1,
                strict,
            },
            ..Settings::default()
        },
        lease: lease_until.map(|valid_until| Lease {
            id: MINE,
            requested: ttl,
            ttl,
            valid_until,
        }),
        dcs: match reach {
            "read" => DcsView::Read(cluster),
            "away" => DcsView::Away {
                since: NOW - Millis(10),
                last: cluster,
            },
            _ => DcsView::Unread,
        },
        postgres,
        race: race.map(|votes_known: Option<Option<u64>>| Race {
            position: at(100),
            votes: votes_known.map(votes),
            asked: NOW,
        }),
        memory: Memory {
            priority: Some(1),
            stop_requested: stop,
            promised: promised.then_some(mrg_election::Promise {
                lease: OTHER,
                until: NOW + Millis(3_000),
                round: 1,
            }),
            held_promises: held.then_some(NOW + Millis(3_000)),
            leaderless: leader.is_none().then_some(NOW - Millis(100)),
            standby_was_streaming: true,
            unserved: sick.then_some(NOW - Millis::seconds(400)),
            silence: sick.then_some(Silence {
                since: NOW - Millis::seconds(30),
                pulses: 3,
            }),
            ..Memory::default()
        },
    })
}

fn data(was_primary: bool, unfinished: bool) -> Postgres {
    Postgres::Stopped(DataDirectory {
        system_id: 42,
        timeline: Timeline(1),
        checkpoint: Lsn(90),
        was_primary,
        clean: false,
        unfinished,
    })
}

fn primary(names: Names) -> Postgres {
    let sender = WalSender {
        streaming: true,
        flushed: Lsn(100),
    };
    Postgres::Primary(Primary {
        system_id: 42,
        position: at(100),
        names: Some(names),
        senders: BTreeMap::from([(name("b"), sender), (name("c"), sender)]),
    })
}

fn standby(position: Option<u64>, upstream: Option<&str>) -> Postgres {
    let receiver = if upstream.is_some() {
        WalReceiver::Streaming
    } else {
        WalReceiver::Stopped
    };
    Postgres::Standby(Standby {
        system_id: 42,
        position: position.map(at),
        upstream: upstream.map(name),
        receiver,
        fork: None,
    })
}

fn postgres(choice: &mut Choice) -> Postgres {
    choice.of(&[
        Postgres::Unknown,
        Postgres::NoData,
        Postgres::Unusable,
        Postgres::Starting,
        data(true, false),
        data(false, false),
        data(true, true),
        primary(Names::Nobody),
        primary(Names::Any {
            count: 1,
            members: names_of(&["b", "c"]),
        }),
        standby(None, None),
        standby(Some(100), None),
        standby(Some(100), Some("b")),
    ])
}

/// Does a step, as if everything went well; false if it cannot be done.
fn apply(world: &mut World, action: &Action) -> bool {
    let me = world.me.clone();
    match action {
        Action::ClaimInitialize => {
            world.cluster().unwrap().initialize = Some(Initialize::InProgress(MINE));
        }
        Action::StoreSystemId(id) => {
            world.cluster().unwrap().initialize = Some(Initialize::Done(*id));
        }
        Action::AcquireLeader => {
            let cluster = world.cluster().unwrap();
            if cluster.leader.is_some() {
                return false;
            }
            cluster.leader = Some(LeaderKey {
                member: me,
                lease: MINE,
                created: Revision(20),
            });
        }
        Action::ReleaseLeader => {
            if let DcsView::Read(cluster) | DcsView::Away { last: cluster, .. } = &mut world.dcs {
                cluster.leader.take_if(|leader| leader.lease == MINE);
            }
            world.hand_over(HandOverEvent::Released);
            (world.memory.unserved, world.memory.silence) = (None, None);
        }
        Action::WriteSync { expected, stored } => {
            let cluster = world.cluster().unwrap();
            if cluster.sync.as_ref().map(|(revision, _)| *revision) != *expected {
                return false;
            }
            cluster.sync = Some((Revision(21), stored.clone()));
        }
        Action::ClearSwitchover { .. } => world.cluster().unwrap().switchover = None,
        Action::ReserveTimeline { .. } => world.cluster().unwrap().timeline_of = Some(me),
        Action::PausePoolers { .. } => world.hand_over(HandOverEvent::Pause),
        Action::ResumePoolers => world.hand_over(HandOverEvent::Resumed),
        Action::AskPeers(_) => {
            if let Some(race) = &mut world.race {
                race.votes = Some(vec![Vote {
                    member: name("c"),
                    position: at(100),
                    candidate: Some(1),
                }]);
            }
        }
        other => apply_locally(world, other),
    }
    true
}

/// What a step does to the local server.
fn apply_locally(world: &mut World, action: &Action) {
    if !matches!(
        action,
        Action::StopReceiver | Action::SetSyncNames(_) | Action::Promote
    ) {
        world.race = None;
    }
    match action {
        Action::InitDb => world.postgres = data(true, true),
        Action::RemoveData => world.postgres = Postgres::NoData,
        Action::BaseBackup(_) | Action::Rewind(_) => world.postgres = data(false, false),
        Action::Start(StartAs::Primary) | Action::Promote => {
            world.postgres = primary(world.names.clone());
        }
        Action::Start(StartAs::Standby { upstream }) => {
            world.postgres = standby(Some(100), upstream.as_ref().map(MemberName::as_str));
        }
        Action::Follow(leader) => world.postgres = standby(Some(100), Some(leader.as_str())),
        Action::StopReceiver => {
            world.postgres = standby(Some(100), None);
            world.race = Some(Race {
                position: at(100),
                votes: None,
                asked: NOW,
            });
        }
        Action::SetSyncNames(names) => {
            world.names = names.clone();
            if let Postgres::Primary(primary) = &mut world.postgres {
                primary.names = Some(names.clone());
            }
        }
        Action::Stop(mode) => {
            let was_primary = matches!(world.postgres, Postgres::Primary(_));
            if matches!(
                world.postgres,
                Postgres::Primary(_) | Postgres::Standby(_) | Postgres::Starting
            ) {
                world.postgres = data(was_primary, false);
                world.hand_over(HandOverEvent::Stopped {
                    to_hand_over: was_primary && *mode == StopMode::Fast,
                });
            }
        }
        _ => {}
    }
}

impl World {
    /// Whether `/sync` and the names never permit an election that misses a commit.
    fn is_safe(&self) -> bool {
        let (DcsView::Read(cluster), Postgres::Primary(primary)) = (&self.dcs, &self.postgres)
        else {
            return true;
        };
        let (Some((_, stored)), Some(names)) = (&cluster.sync, &primary.names) else {
            return true;
        };
        !self.settings.is_synchronous() || stored.leader != self.me || sync::is_safe(stored, names)
    }
}

/// What must hold of a decision, whatever comes of it.
fn check(world: &World, decision: &Decision) {
    let view = world.view();
    let part = RULES
        .iter()
        .find(|rule| rule.reason == decision.reason && (rule.steps)(&view).is_some())
        .expect("a rule that applies")
        .part;
    match part {
        Part::Always => {}
        Part::Leading => assert!(view.holds_key(), "{decision:?} {world:?}"),
        Part::Following => assert!(
            view.other_leader().is_some() && !view.holds_key(),
            "{decision:?} {world:?}"
        ),
        Part::Leaderless => assert!(
            view.other_leader().is_none() && !view.holds_key(),
            "{decision:?} {world:?}"
        ),
    }
    let position = |wanted: fn(&Action) -> bool| decision.actions.iter().position(wanted);
    let promote = position(|action| matches!(action, Action::Promote));
    let acquire = position(|action| matches!(action, Action::AcquireLeader));
    if let Some(promote) = promote {
        assert!(
            view.valid_lease().is_some(),
            "promotes without a lease: {world:?}"
        );
        assert!(
            view.holds_key() || acquire.is_some_and(|acquire| acquire < promote),
            "promotes without the key: {world:?}"
        );
        if view.settings.is_synchronous() {
            let cluster = view.dcs.last().unwrap();
            let (_, stored) = cluster
                .sync
                .as_ref()
                .expect("without /sync nobody promotes");
            assert!(
                stored.leader == world.me || stored.voters.contains(&world.me),
                "promotes from outside /sync: {world:?}"
            );
            let written = position(|action| matches!(action, Action::WriteSync { .. }));
            let alone = stored.leader == world.me && stored.voters.is_empty();
            assert!(
                alone || written.is_some_and(|written| written < promote),
                "promotes before /sync is its own: {world:?}"
            );
        }
        let names = position(|action| matches!(action, Action::SetSyncNames(_)));
        assert!(
            names.is_some_and(|names| names < promote),
            "promotes before the names are set: {world:?}"
        );
    }
    if let Some(start) = position(|action| matches!(action, Action::Start(StartAs::Primary))) {
        assert!(
            view.may_write() || acquire.is_some_and(|acquire| acquire < start),
            "starts a writer without a right to: {world:?}"
        );
    }
    if let Some(release) = position(|action| matches!(action, Action::ReleaseLeader)) {
        let stopped = position(|action| matches!(action, Action::Stop(_)));
        let writes = matches!(world.postgres, Postgres::Primary(_));
        assert!(
            !writes || stopped.is_some_and(|stopped| stopped < release),
            "releases the key of a running primary: {world:?}"
        );
    }
}

/// Decisions follow each other until there is nothing more to do.
fn comes_to_rest(mut world: World) {
    let mut path = Vec::new();
    for _ in 0..24 {
        let decision = decide(&world.view());
        check(&world, &decision);
        if decision.actions.is_empty() {
            return;
        }
        path.push(decision.reason);
        let safe = world.is_safe();
        for action in &decision.actions {
            if !apply(&mut world, action) {
                break;
            }
            assert!(
                !safe || world.is_safe(),
                "{action:?} of {:?} makes lost commits possible: {world:?}",
                decision.reason
            );
        }
        if matches!(world.postgres, Postgres::Primary(_)) && !world.view().may_write() {
            assert_eq!(
                decide(&world.view()).reason,
                Reason::WriterWithoutLease,
                "a writer without a right to write: {world:?}"
            );
        }
    }
    panic!("it does not come to rest: {path:?} {world:?}");
}

/// The count of all views; found by trying.
fn count() -> u64 {
    let mut most = 1;
    while world(most).is_some() {
        most *= 2;
    }
    let mut least = most / 2;
    while least + 1 < most {
        let middle = least.midpoint(most);
        if world(middle).is_some() {
            least = middle;
        } else {
            most = middle;
        }
    }
    most
}

#[test]
fn of_every_view_something_is_decided_and_nobody_leads_who_may_not() {
    for number in 0..count() {
        let world = world(number).unwrap();
        check(&world, &decide(&world.view()));
    }
}

#[test]
fn wherever_the_steps_are_interrupted_the_next_decisions_come_to_rest() {
    // Every view would take hours; a stride that shares no factor with the choices goes evenly
    // through all of them.
    for number in (0..count()).step_by(211) {
        let world = world(number).unwrap();
        let decision = decide(&world.view());
        for prefix in 0..=decision.actions.len() {
            let mut interrupted = world.clone();
            if decision
                .actions
                .iter()
                .take(prefix)
                .all(|action| apply(&mut interrupted, action))
            {
                comes_to_rest(interrupted);
            }
        }
    }
}
