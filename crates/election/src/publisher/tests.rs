use super::*;
use crate::view::{Member, Primary, Revision, Standby, WalReceiver};
use mrg_base::{Lsn, Position};

const LEASE: LeaseId = LeaseId(100);
const LOOP: Millis = Millis(10_000);

type Effect = PublisherEffect<&'static str, u64>;

/// Text before a colon is urgent.
impl MemberRecord for &'static str {
    fn is_urgent(&self, published: &Self) -> bool {
        self.split(':').next() != published.split(':').next()
    }
}

fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

fn primary(timeline: u32) -> Postgres {
    Postgres::Primary(Primary {
        system_id: 42,
        position: Position {
            timeline: Timeline(timeline),
            flushed: Lsn(100),
        },
        names: None,
        senders: BTreeMap::new(),
    })
}

fn standby() -> Postgres {
    Postgres::Standby(Standby {
        system_id: 42,
        position: None,
        upstream: None,
        receiver: WalReceiver::Stopped,
        fork: None,
    })
}

/// The member `a`, and the world as it observes it.
struct World {
    publisher: Publisher<&'static str, u64>,
    cluster: Cluster,
    postgres: Postgres,
    lease: Option<LeaseId>,
    member: &'static str,
    member_key: Option<LeaseId>,
    status: u64,
    holds_key: bool,
    config: ConfigKey,
    reachable: bool,
}

impl World {
    fn new(postgres: Postgres, holds_key: bool) -> Self {
        let member = Member {
            lease: LEASE,
            running: true,
            primary: false,
            position: None,
            may_lead: true,
            may_sync: true,
            just_started: false,
            created: Revision(0),
        };
        Self {
            publisher: Publisher::new(name("a"), Moment(0)),
            cluster: Cluster {
                initialize: Some(Initialize::Done(42)),
                members: ["a", "b"].map(|m| (name(m), member.clone())).into(),
                ..Cluster::default()
            },
            postgres,
            lease: Some(LEASE),
            member: "running:1",
            member_key: Some(LEASE),
            status: 100,
            holds_key,
            config: ConfigKey::Present,
            reachable: true,
        }
    }

    fn observe(&mut self, now: u64) -> Vec<Effect> {
        let observed = Observed {
            cluster: &self.cluster,
            reachable: self.reachable,
            postgres: &self.postgres,
            lease: self.lease,
            former_lease: None,
            holds_key: self.holds_key,
            member: self.member,
            member_key: self.member_key,
            status: self.status,
            config: self.config,
            loop_wait: LOOP,
        };
        self.publisher
            .on(Moment(now), PublisherEvent::Observed(Box::new(observed)))
    }

    /// Observes, and does what is to be written, with success.
    fn publish(&mut self, now: u64) -> Vec<Effect> {
        let effects = self.observe(now);
        for effect in &effects {
            self.end(now, effect, true);
        }
        effects
    }

    fn end(&mut self, now: u64, effect: &Effect, done: bool) {
        let event = match effect {
            PublisherEffect::WriteMember { .. } => PublisherEvent::MemberWritten(done),
            PublisherEffect::RestoreConfig => PublisherEvent::ConfigWritten,
            PublisherEffect::WriteStatus(_) => PublisherEvent::StatusWritten(done),
            PublisherEffect::WriteHistory { .. } => PublisherEvent::HistoryWritten(done),
            PublisherEffect::KeepSlots { .. } => PublisherEvent::SlotsKept(done),
        };
        assert_eq!(self.publisher.on(Moment(now), event), []);
    }
}

fn member(record: &'static str) -> Effect {
    PublisherEffect::WriteMember {
        lease: LEASE,
        former: None,
        record,
    }
}

fn history(timeline: u32, known: Option<u32>) -> Effect {
    PublisherEffect::WriteHistory {
        lease: LEASE,
        timeline: Timeline(timeline),
        known: known.map(Timeline),
    }
}

fn slots(wanted: &[&str], dropped: &[&str], primary: bool) -> Effect {
    PublisherEffect::KeepSlots {
        wanted: wanted.iter().map(|m| name(m)).collect(),
        dropped: dropped.iter().map(|m| name(m)).collect(),
        primary,
    }
}

#[test]
fn the_member_key_is_written_at_once_where_others_act_on_the_change() {
    let mut world = World::new(Postgres::Starting, false);
    for (at, record, effects) in [
        (1_000, "starting:1", vec![member("starting:1")]),
        (1_001, "starting:1", vec![]),
        (1_002, "starting:2", vec![]),
        (1_003, "running:2", vec![member("running:2")]),
        (1_004, "running:3", vec![]),
        (11_002, "running:4", vec![]),
        (11_003, "running:4", vec![member("running:4")]),
        (31_003, "running:4", vec![]),
    ] {
        world.member = record;
        assert_eq!(world.publish(at), effects, "at {at}");
    }
}

#[test]
fn a_member_key_that_is_gone_or_of_another_lease_is_written_again() {
    let mut world = World::new(Postgres::Starting, false);
    assert_eq!(world.publish(1_000), [member("running:1")]);
    world.member_key = None;
    assert_eq!(world.publish(1_500), [], "it may not have been read yet");
    assert_eq!(world.publish(1_501), [member("running:1")]);
    world.member_key = Some(LeaseId(7));
    assert_eq!(world.publish(2_002), [member("running:1")]);
    world.lease = Some(LeaseId(101));
    world.member_key = world.lease;
    let under_the_new = PublisherEffect::WriteMember {
        lease: LeaseId(101),
        former: None,
        record: "running:1",
    };
    assert_eq!(world.publish(2_003), [under_the_new]);
    world.lease = None;
    assert_eq!(world.publish(9_000), []);
}

#[test]
fn a_write_that_failed_is_due_again_and_one_that_is_under_way_is_not() {
    let mut world = World::new(Postgres::Starting, false);
    let effects = world.observe(1_000);
    assert_eq!(effects, [member("running:1")]);
    assert_eq!(world.observe(1_001), []);
    world.end(1_002, &effects[0], false);
    assert_eq!(world.observe(1_003), [member("running:1")]);
}

#[test]
fn only_a_leader_of_a_finished_cluster_writes_status_and_history() {
    let leads = |holds_key, initialize, postgres| {
        let mut world = World::new(postgres, holds_key);
        world.cluster.initialize = initialize;
        let effects = world.publish(1_000);
        effects.contains(&PublisherEffect::WriteStatus(100)) && effects.contains(&history(3, None))
    };
    let done = Some(Initialize::Done(42));
    assert!(leads(true, done, primary(3)));
    assert!(!leads(false, done, primary(3)));
    assert!(!leads(true, done, standby()));
    let claimed = Some(Initialize::InProgress(LEASE));
    assert!(!leads(true, claimed, primary(3)));
}

#[test]
fn status_is_written_once_a_loop_if_it_changes() {
    let mut world = World::new(primary(1), true);
    let written = |effects: Vec<Effect>| {
        let status = |effect| match effect {
            PublisherEffect::WriteStatus(status) => Some(status),
            _ => None,
        };
        effects.into_iter().find_map(status)
    };
    for (at, status, expected) in [
        (0, 100, Some(100)),
        (9_999, 200, None),
        (10_000, 200, Some(200)),
        (30_000, 200, None),
    ] {
        world.status = status;
        assert_eq!(written(world.publish(at)), expected, "at {at}");
    }
}

#[test]
fn history_is_written_once_on_each_timeline_and_never_over_a_newer_one() {
    let mut world = World::new(primary(1), true);
    let written = |effects: Vec<Effect>| {
        let history = |effect: &Effect| matches!(effect, PublisherEffect::WriteHistory { .. });
        effects.into_iter().find(history)
    };
    for (timeline, known, expected) in [
        (1, None, None),
        (2, Some(3), None),
        (3, Some(3), Some(history(3, Some(3)))),
        (3, Some(3), None),
        (4, Some(3), Some(history(4, Some(3)))),
    ] {
        world.postgres = primary(timeline);
        world.cluster.timeline = known.map(Timeline);
        assert_eq!(written(world.publish(1_000)), expected, "{timeline}");
    }
    world.postgres = primary(5);
    let effect = written(world.observe(2_000)).unwrap();
    world.end(2_001, &effect, false);
    assert_eq!(written(world.observe(2_002)), Some(effect));
}

#[test]
fn config_is_restored_by_the_leader_first_and_by_those_who_read_it() {
    let restores_after = |holds_key, remembered| {
        let mut world = World::new(Postgres::Starting, holds_key);
        world.publish(0);
        world.config = ConfigKey::Missing { remembered };
        (1..50_000)
            .step_by(1_000)
            .find(|at| world.publish(*at).contains(&PublisherEffect::RestoreConfig))
    };
    assert_eq!(restores_after(true, true), Some(1));
    assert_eq!(restores_after(false, true), Some(10_001));
    assert_eq!(restores_after(true, false), Some(30_001));
    assert_eq!(restores_after(false, false), None);
}

#[test]
fn config_that_came_back_is_not_restored() {
    let mut world = World::new(Postgres::Starting, false);
    let missing = ConfigKey::Missing { remembered: true };
    for (at, config, restores) in [
        (1, missing, false),
        (9_000, ConfigKey::Present, false),
        (12_000, missing, false),
        (21_999, missing, false),
        (22_000, missing, true),
        (23_000, ConfigKey::Unknown, false),
    ] {
        world.config = config;
        let restored = world.publish(at).contains(&PublisherEffect::RestoreConfig);
        assert_eq!(restored, restores, "at {at}");
    }
}

#[test]
fn a_slot_outlives_the_key_of_a_member_that_may_return() {
    let mut world = World::new(standby(), false);
    let kept = |effects: Vec<Effect>| {
        let slots = |effect: &Effect| matches!(effect, PublisherEffect::KeepSlots { .. });
        effects.into_iter().find(slots)
    };
    assert_eq!(kept(world.publish(0)), Some(slots(&["b"], &[], false)));
    assert_eq!(kept(world.publish(1)), None);
    world.postgres = primary(1);
    assert_eq!(kept(world.publish(2)), Some(slots(&["b"], &[], true)));
    world.cluster.members.remove(&name("b"));
    assert_eq!(kept(world.publish(3)), None);
    let later = 2 + SLOT_OUTLIVES_MEMBER.0;
    assert_eq!(
        kept(world.publish(later - 1)),
        Some(slots(&["b"], &[], true)),
        "they are checked now and then"
    );
    assert_eq!(
        kept(world.publish(later)),
        Some(slots(&[], &["b"], true)),
        "it has been away for too long"
    );
    assert_eq!(kept(world.publish(later + 1)), None);
}

#[test]
fn a_slot_of_a_member_that_was_removed_goes_at_once_and_until_it_is_gone() {
    let mut world = World::new(primary(1), true);
    world.publish(0);
    world.cluster.members.remove(&name("b"));
    world.cluster.expected = Some([name("a")].into());
    let drop = slots(&[], &["b"], true);
    assert!(world.observe(1).contains(&drop));
    world.end(2, &drop, false);
    assert!(world.publish(3).contains(&drop));
    assert!(!world.publish(60_000).contains(&drop));
}

#[test]
fn nothing_is_written_while_the_dcs_does_not_answer() {
    let mut world = World::new(primary(2), true);
    world.reachable = false;
    world.config = ConfigKey::Missing { remembered: true };
    assert_eq!(world.publish(1_000), []);
}
