use super::*;
use crate::view::{Leader, Member};
use mrg_base::Timeline;
use mrg_election::Revision;

fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

fn address(text: &str) -> Address {
    Address {
        host: format!("10.0.0.{}", text.trim_start_matches('n')),
        port: 5432,
    }
}

fn snapshot(leader: &str, members: &[&str]) -> Snapshot {
    let member = |text: &&str| {
        (
            name(text),
            Member {
                address: address(text),
            },
        )
    };
    let leader = Leader {
        key: Revision(1),
        member: name(leader),
        address: address(leader),
    };
    Snapshot {
        revision: 1,
        system_id: Some(7),
        leader: Some(leader),
        members: members.iter().map(member).collect(),
    }
}

fn dcs(snapshot: Snapshot) -> Event {
    Event::Dcs { snapshot, read: 0 }
}

impl ReadPool {
    /// The target that an event leads to, if it is another one.
    fn target_after(&mut self, now: u64, event: Event) -> Option<PoolTarget> {
        let effects = self.on(Moment(now), event);
        effects.into_iter().find_map(|effect| match effect {
            Effect::Retarget(target) => Some(target),
            _ => None,
        })
    }
}

fn standby(replayed: u64) -> Finding {
    Finding::Standby {
        system_id: 7,
        replayed: Lsn(replayed),
        behind: Millis(0),
    }
}

fn monitored(text: &str, finding: Finding) -> Event {
    Event::Monitored {
        member: name(text),
        address: address(text),
        finding,
    }
}

const PRIMARY: Finding = Finding::Primary {
    system_id: 7,
    timeline: Timeline(1),
    written: Lsn(1_000),
};

fn pool(fallback: Fallback) -> ReadPool {
    let mut pool = ReadPool::new(MaxLag::Bytes(100), fallback, Millis(500));
    for event in [
        dcs(snapshot("n1", &["n1", "n2", "n3"])),
        monitored("n1", PRIMARY),
        monitored("n2", standby(1_000)),
        monitored("n3", standby(960)),
    ] {
        pool.target_after(0, event);
    }
    assert_eq!(pool.target.addresses, vec![address("n2"), address("n3")]);
    assert_eq!(pool.reason(), Reason::Confirmed);
    pool
}

#[test]
fn a_laggard_and_a_lost_standby_leave_and_come_back_when_they_are_near() {
    let mut pool = pool(Fallback::Refuse);
    assert_eq!(
        pool.target_after(1, monitored("n3", standby(800)))
            .unwrap()
            .addresses,
        vec![address("n2")]
    );
    assert_eq!(
        pool.target_after(2, monitored("n3", standby(920))),
        None,
        "80 bytes behind is within the limit, but not clearly"
    );
    assert_eq!(
        pool.target_after(3, monitored("n3", standby(960)))
            .unwrap()
            .addresses
            .len(),
        2
    );
    assert_eq!(
        pool.target_after(4, monitored("n2", Finding::Unreachable))
            .unwrap()
            .addresses,
        vec![address("n3")]
    );
}

#[test]
fn without_a_standby_clients_use_the_primary_or_wait_and_are_refused() {
    let mut to_primary = pool(Fallback::Primary);
    let mut refusing = pool(Fallback::Refuse);
    for pool in [&mut to_primary, &mut refusing] {
        pool.target_after(1, monitored("n2", Finding::Unreachable));
        pool.target_after(1, monitored("n3", Finding::Unreachable));
    }
    assert_eq!(
        (
            to_primary.target.admission,
            to_primary.target.addresses.clone()
        ),
        (Admission::Open, vec![address("n1")])
    );
    assert_eq!(
        (refusing.target.admission, refusing.reason()),
        (Admission::Paused, Reason::NoReplica)
    );
    assert_eq!(refusing.wake_at(), Some(Moment(501)));
    assert_eq!(
        refusing.target_after(501, Event::Tick).unwrap().admission,
        Admission::Rejecting
    );
    assert_eq!(
        refusing
            .target_after(502, monitored("n2", standby(1_000)))
            .unwrap()
            .admission,
        Admission::Open
    );
}

#[test]
fn every_snapshot_renews_the_monitors_and_a_pause_that_ends_is_reported() {
    let mut pool = pool(Fallback::Refuse);
    let all = ["n1", "n2", "n3"].map(|text| (name(text), address(text)));
    assert_eq!(
        pool.on(Moment(1), dcs(snapshot("n1", &["n1", "n2", "n3"]))),
        vec![Effect::Monitor(Servers::from(all))]
    );
    pool.on(Moment(10), monitored("n2", Finding::Unreachable));
    pool.on(Moment(10), monitored("n3", Finding::Unreachable));
    let effects = pool.on(Moment(50), monitored("n2", standby(1_000)));
    let retargeted = Retargeted {
        cause: Reason::NoReplica,
        paused: Millis(40),
        servers: Servers::from([(name("n2"), address("n2"))]),
    };
    let target = pool.target.clone();
    assert_eq!(
        effects,
        vec![Effect::Retargeted(retargeted), Effect::Retarget(target)]
    );
}

#[test]
fn a_laggard_that_answers_before_the_primary_is_not_taken_for_near() {
    let mut pool = ReadPool::new(MaxLag::Bytes(100), Fallback::Refuse, Millis(500));
    pool.target_after(0, dcs(snapshot("n1", &["n1", "n2", "n3"])));
    assert_eq!(
        pool.target_after(1, monitored("n2", standby(800))),
        None,
        "the position of the primary is not known yet"
    );
    assert_eq!(pool.target_after(2, monitored("n1", PRIMARY)), None);
    assert_eq!(
        pool.target_after(3, monitored("n3", standby(1_000)))
            .unwrap()
            .addresses,
        vec![address("n3")]
    );
    let mut pool = ReadPool::new(MaxLag::Bytes(100), Fallback::Refuse, Millis(500));
    pool.target_after(0, dcs(snapshot("n1", &["n1", "n2", "n3"])));
    pool.target_after(1, monitored("n2", standby(800)));
    let target = pool
        .target_after(2, monitored("n1", Finding::Unreachable))
        .unwrap();
    assert_eq!(
        target.addresses,
        vec![address("n2")],
        "without a primary nothing new is written"
    );
}

#[test]
fn serving_standbys_go_on_until_a_new_leader_has_answered() {
    let mut pool = pool(Fallback::Refuse);
    let mut moved = snapshot("n4", &["n1", "n2", "n3", "n4"]);
    moved.members.remove(&name("n1"));
    assert_eq!(pool.target_after(1, dcs(moved)), None);
    let ahead = Finding::Primary {
        system_id: 7,
        timeline: Timeline(2),
        written: Lsn(1_050),
    };
    assert_eq!(pool.target_after(2, monitored("n4", ahead)), None);
    assert_eq!(pool.serving, [name("n2"), name("n3")].into());
}

#[test]
fn a_standby_that_becomes_the_leader_leaves() {
    let mut pool = pool(Fallback::Refuse);
    pool.target_after(1, dcs(snapshot("n2", &["n1", "n2", "n3"])));
    assert_eq!(pool.serving, [name("n3")].into());
}

#[test]
fn a_server_of_another_system_at_the_same_address_is_not_used() {
    let mut pool = pool(Fallback::Refuse);
    pool.target_after(
        1,
        monitored(
            "n3",
            Finding::Standby {
                system_id: 8,
                replayed: Lsn(1_000),
                behind: Millis(0),
            },
        ),
    );
    assert_eq!(pool.serving, [name("n2")].into());
}

#[test]
fn no_client_is_admitted_or_rejected_before_the_first_server() {
    let mut pool = ReadPool::new(MaxLag::Time(Millis(100)), Fallback::Refuse, Millis(500));
    assert_eq!(
        pool.target_after(0, dcs(snapshot("n1", &["n1", "n2"]))),
        None
    );
    assert_eq!(pool.target_after(9_000, Event::Tick), None);
    assert_eq!(pool.reason(), Reason::Starting);
}
