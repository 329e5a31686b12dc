//! Every operation: done, in conflict, in doubt.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::config::DynamicConfig;
use crate::poolers::PoolerRecord;
use crate::snapshot::{ClusterSnapshot, Intent, Pause, Poolers};
use crate::wire::{FailoverData, HistoryLine, MemberData, StatusData};
use mrg_base::MemberName;
use mrg_election::{Initialize, Stored};

const WITHIN: Duration = Duration::from_secs(1);
const TTL: Millis = Millis::seconds(30);

/// The store in memory never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

fn now_in(store: &MemoryStore) -> ClusterSnapshot {
    store.memory().read()
}

fn seen(memory: &Memory) -> ClusterSnapshot {
    memory.read()
}

fn paths() -> Keys {
    Keys::new("service", &mrg_base::Scope::new("s").unwrap())
}

fn name(text: &str) -> MemberName {
    MemberName::new(text).unwrap()
}

#[track_caller]
fn done(attempt: Attempt<Revision>) -> Revision {
    match attempt {
        Attempt::Done(revision) => revision,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn conflict(attempt: Attempt<Revision>) {
    let result = attempt.into_result();
    assert!(matches!(result, Ok(None)), "{result:?}");
}

#[track_caller]
fn in_doubt(attempt: Attempt<Revision>) {
    match attempt {
        Attempt::InDoubt(_) => {}
        other => panic!("{other:?}"),
    }
}

/// A store whose leader is `a`, with its lease and another.
fn led() -> (MemoryStore, LeaseId, LeaseId) {
    let store = MemoryStore::default();
    let ours = now(store.grant(TTL, WITHIN)).unwrap().id;
    let other = now(store.grant(TTL, WITHIN)).unwrap().id;
    done(now(store.acquire_leader(ours, &name("a"), WITHIN)));
    (store, ours, other)
}

/// A compare-and-set of `ours` is done once although its answer is lost, is not done although it
/// may have been, is refused to `other`, and is tried once.
#[track_caller]
fn of_the_leader(operation: impl Fn(LeaseId) -> Transaction, written: impl Fn(&Memory) -> bool) {
    let (store, ours, other) = led();
    assert!(!written(&store.memory()));
    conflict(now(store.execute(operation(other), WITHIN)));
    store.break_next([Fault::RequestLost]);
    in_doubt(now(store.execute(operation(ours), WITHIN)));
    assert!(!written(&store.memory()));
    store.break_next([Fault::AnswerLost]);
    in_doubt(now(store.execute(operation(ours), WITHIN)));
    assert!(written(&store.memory()));

    let (store, ours, _) = led();
    done(now(store.execute(operation(ours), WITHIN)));
    assert!(written(&store.memory()));
    store.memory().revoke(ours);
    conflict(now(store.execute(operation(ours), WITHIN)));
    store.break_next([Fault::Unreachable]);
    let unreachable = now(store.execute(operation(ours), WITHIN));
    assert!(matches!(unreachable, Attempt::Failed(_)), "{unreachable:?}");
}

#[test]
fn a_leader_key_is_created_once_and_goes_with_its_lease() {
    let (store, ours, other) = led();
    let created = now_in(&store).leader().unwrap().created;
    conflict(now(store.acquire_leader(other, &name("b"), WITHIN)));
    store.break_next([Fault::RequestLost]);
    in_doubt(now(store.acquire_leader(other, &name("b"), WITHIN)));
    store.memory().advance(Moment(29_999));
    assert!(store.memory().keep_alive(other));
    store.memory().advance(Moment(30_000));
    assert!(now_in(&store).leader_key().is_none());
    assert!(matches!(
        now(store.keep_alive(ours, WITHIN)),
        Err(Error::LeaseGone(lease)) if lease == ours
    ));
    let gone = now(store.acquire_leader(ours, &name("a"), WITHIN));
    assert!(matches!(gone, Attempt::Failed(Error::LeaseGone(_))));
    store.break_next([Fault::AnswerLost]);
    in_doubt(now(store.acquire_leader(other, &name("b"), WITHIN)));
    let leader = now_in(&store).leader().unwrap();
    assert_eq!((leader.member, leader.lease), (name("b"), other));
    assert!(leader.created > created, "a later leader has a later one");
}

#[test]
fn a_moved_leader_key_stays_the_same_leadership() {
    let (store, ours, other) = led();
    let before = now_in(&store).leader().unwrap();
    let moved = done(now(store.move_leader(ours, other, &name("a"), WITHIN)));
    let after = now_in(&store).leader().unwrap();
    assert_eq!((after.lease, after.created), (other, before.created));
    assert_eq!(store.memory().get(&Key::Leader).unwrap().modified, moved);
    conflict(now(store.move_leader(ours, other, &name("a"), WITHIN)));
    now(store.revoke(ours, WITHIN)).unwrap();
    assert!(now_in(&store).leader().is_some());
    of_the_leader(
        |lease| Transaction::move_leader(lease, LeaseId(2), &name("a")),
        |memory| {
            let leader = seen(memory).leader();
            leader.is_some_and(|leader| leader.lease == LeaseId(2))
        },
    );
}

#[test]
fn a_release_takes_the_request_to_the_poolers_along() {
    let (store, ours, _) = led();
    let asked = done(now(store.ask_poolers(ours, Revision(1), WITHIN)));
    let request = store.memory().read::<Pause>().0.unwrap();
    assert_eq!((request.id, request.leader), (asked, Revision(1)));
    let released = done(now(store.release_leader(ours, None, WITHIN)));
    assert_eq!(released, Revision(asked.0 + 1), "at one revision");
    assert_eq!(store.memory().read::<Pause>().0, None);
    of_the_leader(
        |lease| Transaction::release_leader(lease, None),
        |memory| memory.get(&Key::Leader).is_none(),
    );
}

#[test]
fn a_release_puts_a_key_so_that_a_store_that_takes_no_puts_refuses_it() {
    assert!(!Transaction::release_leader(LeaseId(1), None).puts());
    let last = StatusData {
        optime: 7,
        ..StatusData::default()
    };
    let release = Transaction::release_leader(LeaseId(1), Some(last.clone()));
    assert!(release.puts());
    let (store, ours, _) = led();
    done(now(store.put_status(last.clone(), WITHIN)));
    done(now(store.release_leader(ours, Some(last.clone()), WITHIN)));
    assert_eq!(now_in(&store).status(), Some(&last), "it is as it was");
}

#[test]
fn poolers_are_asked_and_resumed_by_the_leader_alone() {
    of_the_leader(
        |lease| Transaction::ask_poolers(lease, Revision(1)),
        |memory| memory.read::<Pause>().0.is_some(),
    );
    let (store, ours, other) = led();
    done(now(store.ask_poolers(ours, Revision(1), WITHIN)));
    conflict(now(store.resume_poolers(other, WITHIN)));
    store.break_next([Fault::AnswerLost]);
    in_doubt(now(store.resume_poolers(ours, WITHIN)));
    assert_eq!(store.memory().read::<Pause>().0, None);
    let before = store.memory().revision();
    let again = done(now(store.resume_poolers(ours, WITHIN)));
    assert_eq!(again, before, "there is nothing to delete");
    done(now(store.ask_poolers(ours, Revision(1), WITHIN)));
    store.memory().revoke(ours);
    assert_eq!(
        store.memory().read::<Pause>().0,
        None,
        "it ends with the lease"
    );
}

#[test]
fn a_bootstrap_is_claimed_once_and_abandoned_by_its_owner() {
    let store = MemoryStore::default();
    let ours = store.memory().grant(TTL);
    let other = store.memory().grant(TTL);
    store.break_next([Fault::AnswerLost]);
    in_doubt(now(store.claim_initialize(ours, WITHIN)));
    let claim = Some(Initialize::InProgress(ours));
    assert_eq!(now_in(&store).initialize(), claim);
    conflict(now(store.claim_initialize(other, WITHIN)));
    conflict(now(store.abandon_initialize(other, WITHIN)));
    done(now(store.abandon_initialize(ours, WITHIN)));
    done(now(store.claim_initialize(other, WITHIN)));
    store.break_next([Fault::RequestLost]);
    in_doubt(now(store.abandon_initialize(other, WITHIN)));
    store.memory().revoke(other);
    assert_eq!(now_in(&store).initialize(), None);
}

#[test]
fn a_system_identifier_comes_with_the_first_status_and_leaves_a_later_one_alone() {
    let first = |optime| StatusData {
        optime,
        ..StatusData::default()
    };
    of_the_leader(
        |lease| Transaction::store_system_id(lease, 42, first(1)),
        |memory| seen(memory).initialize() == Some(Initialize::Done(42)),
    );
    let (store, ours, _) = led();
    done(now(store.store_system_id(ours, 42, first(1), WITHIN)));
    done(now(store.put_status(first(7), WITHIN)));
    done(now(store.store_system_id(ours, 42, first(1), WITHIN)));
    let optime = now_in(&store).cluster().optime;
    assert_eq!(optime, Some(mrg_base::Lsn(7)));
}

#[test]
fn sync_is_written_over_what_was_read() {
    let only = || Stored::only(name("a"));
    of_the_leader(
        |lease| Transaction::write_sync(lease, None, only()),
        |memory| seen(memory).sync().is_some(),
    );
    let (store, ours, _) = led();
    let first = done(now(store.write_sync(ours, None, only(), WITHIN)));
    conflict(now(store.write_sync(ours, None, only(), WITHIN)));
    let wider = Stored {
        voters: [name("b")].into(),
        ..only()
    };
    let second = done(now(store.write_sync(
        ours,
        Some(first),
        wider.clone(),
        WITHIN,
    )));
    conflict(now(store.write_sync(ours, Some(first), only(), WITHIN)));
    assert_eq!(now_in(&store).sync(), Some((second, &wider)));
}

#[test]
fn history_is_written_over_what_was_read() {
    let line = |timeline| HistoryLine {
        timeline,
        ended_at: 256,
        reason: crate::wire::PROMOTION_UNDER_WAY.to_owned(),
        time: String::new(),
        leader: "a".to_owned(),
    };
    of_the_leader(
        |lease| Transaction::write_history(lease, None, vec![line(1)]),
        |memory| !seen(memory).history().is_empty(),
    );
    let (store, ours, _) = led();
    let first = done(now(store.write_history(ours, None, vec![line(1)], WITHIN)));
    let both = || vec![line(1), line(2)];
    conflict(now(store.write_history(ours, None, both(), WITHIN)));
    done(now(store.write_history(ours, Some(first), both(), WITHIN)));
    conflict(now(store.write_history(ours, Some(first), both(), WITHIN)));
    let snapshot = now_in(&store);
    assert_eq!(snapshot.cluster().timeline, Some(mrg_base::Timeline(3)));
}

#[test]
fn failsafe_is_written_and_deleted_over_what_was_read() {
    let members = || Some([(name("a"), "http://a:8008/patroni".to_owned())].into());
    of_the_leader(
        |lease| Transaction::write_failsafe(lease, None, members()),
        |memory| seen(memory).failsafe().is_some(),
    );
    let (store, ours, _) = led();
    let first = done(now(store.write_failsafe(ours, None, members(), WITHIN)));
    conflict(now(store.write_failsafe(ours, None, None, WITHIN)));
    done(now(store.write_failsafe(ours, Some(first), None, WITHIN)));
    conflict(now(store.write_failsafe(ours, Some(first), None, WITHIN)));
    assert_eq!(now_in(&store).failsafe(), None);
}

#[test]
fn a_member_is_published_over_its_own_leases_only_and_again_when_in_doubt() {
    let (store, ours, other) = led();
    let publish = |lease, former| {
        let data = MemberData::default();
        now(store.publish_member(&name("a"), data, lease, former, WITHIN))
    };
    store.break_next([Fault::AnswerLost, Fault::RequestLost, Fault::Unreachable]);
    done(publish(ours, None));
    assert_eq!(now_in(&store).member_lease(&name("a")), Some(ours));
    done(publish(ours, None));
    conflict(publish(other, None));
    done(publish(other, Some(ours)));
    assert_eq!(now_in(&store).member_lease(&name("a")), Some(other));
    conflict(publish(ours, None));
    store.memory().revoke(other);
    assert_eq!(now_in(&store).member_lease(&name("a")), None);
    let gone = publish(other, None);
    assert!(matches!(gone, Attempt::Failed(Error::LeaseGone(_))));
}

#[test]
fn a_configuration_is_created_once_and_written_over_what_was_read() {
    let store = MemoryStore::default();
    let config = |ttl: u64| DynamicConfig([("ttl".to_owned(), ttl.into())].into_iter().collect());
    store.break_next([Fault::RequestLost]);
    in_doubt(now(store.create_config(config(30), WITHIN)));
    let first = done(now(store.create_config(config(30), WITHIN)));
    conflict(now(store.create_config(config(40), WITHIN)));
    conflict(now(store.write_config(None, config(40), WITHIN)));
    store.break_next([Fault::AnswerLost]);
    in_doubt(now(store.write_config(Some(first), config(40), WITHIN)));
    conflict(now(store.write_config(Some(first), config(50), WITHIN)));
    let snapshot = now_in(&store);
    assert_eq!(snapshot.config().unwrap().value, Ok(config(40)));
}

#[test]
fn a_request_replaces_another_and_is_taken_by_its_revision() {
    let store = MemoryStore::default();
    let to = |member: &str| FailoverData {
        member: Some(member.to_owned()),
        ..FailoverData::default()
    };
    let first = done(now(store.request_failover(to("a"), WITHIN)));
    store.break_next([Fault::RequestLost, Fault::AnswerLost]);
    let second = done(now(store.request_failover(to("b"), WITHIN)));
    conflict(now(store.take_failover(first, WITHIN)));
    assert!(now_in(&store).has_intent());
    store.break_next([Fault::AnswerLost]);
    in_doubt(now(store.take_failover(second, WITHIN)));
    let snapshot = now_in(&store);
    assert_eq!(snapshot.intent().unwrap().value, Intent::Cleared);
    conflict(now(store.take_failover(second, WITHIN)));
    done(now(store.request_failover(to("a"), WITHIN)));
    done(now(store.withdraw_failover(WITHIN)));
    assert!(!now_in(&store).has_intent());
}

#[test]
fn a_poolers_record_goes_with_its_lease() {
    let store = MemoryStore::default();
    let lease = store.memory().grant(TTL);
    let record = PoolerRecord {
        writes: true,
        ..PoolerRecord::default()
    };
    store.break_next([Fault::RequestLost]);
    done(now(store.publish_pooler(
        "w-1",
        record.clone(),
        lease,
        WITHIN,
    )));
    assert_eq!(store.memory().read::<Poolers>().0["w-1"], record);
    store.memory().renew_all(Moment(20_000));
    store.memory().advance(Moment(49_999));
    assert_eq!(store.memory().read::<Poolers>().0.len(), 1);
    store.memory().advance(Moment(50_000));
    assert!(store.memory().read::<Poolers>().0.is_empty());
    assert!(!now(store.publish_pooler("w-1", record, lease, WITHIN)).is_done());
}

#[test]
fn typed_values_and_their_bytes_are_the_same_snapshot() {
    let (store, ours, _) = led();
    let first = StatusData::default();
    done(now(store.store_system_id(ours, 42, first, WITHIN)));
    done(now(store.write_sync(
        ours,
        None,
        Stored::only(name("a")),
        WITHIN,
    )));
    let request = FailoverData {
        leader: Some("a".to_owned()),
        ..FailoverData::default()
    };
    done(now(store.request_failover(request, WITHIN)));
    let data = MemberData {
        state: crate::MemberState::Running,
        ..MemberData::default()
    };
    done(now(store.publish_member(
        &name("a"),
        data,
        ours,
        None,
        WITHIN,
    )));
    let memory = store.memory();
    let mut read = ClusterSnapshot::default();
    memory.follow(&mut read, Revision(0), &paths());
    assert_eq!(read, seen(&memory));
}

#[test]
fn a_section_that_is_followed_is_the_one_that_is_read() {
    fn check<S: Section + PartialEq + std::fmt::Debug>(
        memory: &Memory,
        section: &mut S,
        since: Revision,
    ) {
        memory.follow(section, since, &paths());
        assert_eq!(*section, memory.read());
    }
    let (store, ours, other) = led();
    let mut cluster = ClusterSnapshot::default();
    let mut pause = Pause::default();
    let mut poolers = Poolers::default();
    let mut since = Revision(0);
    let mut memory = store.memory();
    let record = PoolerRecord::default();
    for transaction in [
        Transaction::publish_member(&name("a"), MemberData::default(), other, None),
        Transaction::ask_poolers(ours, Revision(1)),
        Transaction::publish_pooler("w-1", record, other),
        Transaction::resume_poolers(ours),
        Transaction::ask_poolers(ours, Revision(1)),
        Transaction::release_leader(ours, None),
        Transaction::acquire_leader(other, &name("b")),
    ] {
        assert!(memory.transact(&transaction).unwrap().is_some());
        check(&memory, &mut cluster, since);
        check(&memory, &mut pause, since);
        // Changes of several revisions may be delivered together.
        if memory.revision().0 % 2 == 0 {
            check(&memory, &mut poolers, since);
            since = memory.revision();
        }
    }
    memory.revoke(other);
    check(&memory, &mut cluster, since);
    check(&memory, &mut poolers, since);
    assert!(cluster.leader_key().is_none() && poolers.0.is_empty());
}
