//! A DCS that went back in time: empty, restored from a backup, or another one.

use crate::story::*;
use mrg_base::Millis;
use mrg_election::sync::Stored;
use mrg_election::{
    Action, Cluster, Effect, Event, Initialize, LeaseId, Mode, Outcome, Postgres, Reason, Revision,
    StopMode,
};

const NEW: LeaseId = LeaseId(300);

fn read(story: &mut Story, cluster: Cluster) {
    story.on(Event::Dcs {
        cluster,
        linearizable: true,
    });
}

/// The DCS forgot everything, or knows this; this member is granted a lease of it.
fn reset(story: &mut Story, cluster: &Cluster) {
    story.effects.clear();
    story.on(Event::DcsReset);
    read(story, cluster.clone());
    let sent = story.now;
    story.on(Event::LeaseGranted {
        id: NEW,
        granted: Millis::seconds(10),
        sent,
    });
    read(story, cluster.clone());
}

fn empty(revision: i64) -> Cluster {
    Cluster {
        revision: Revision(revision),
        ..Cluster::default()
    }
}

/// As it was when the first of these led.
fn restored(leader: &str, sync: Option<(&str, &[&str], usize)>) -> Cluster {
    let lease = LeaseId(OTHER.0 + i64::from(leader.as_bytes()[0]));
    Cluster {
        revision: Revision(9),
        ..cluster(Some((leader, lease)), sync)
    }
}

fn leader() -> Story {
    let led = cluster(Some((ME, LEASE)), Some((ME, &["b", "c"], 1)));
    let mut story = Story::new(Mode::Quorum, led, primary(any_of(&["b", "c"])));
    story.effects.clear();
    story
}

fn follower() -> Story {
    let lease = LeaseId(OTHER.0 + i64::from(b'b'));
    let led = cluster(Some(("b", lease)), Some(("b", &["a", "c"], 1)));
    let mut story = Story::new(Mode::Quorum, led, standby(100, Some("b")));
    story.effects.clear();
    story
}

fn kept(story: &mut Story) {
    let sent = story.now;
    story.on(Event::LeaseKept { id: NEW, sent });
}

fn killed(story: &Story) -> bool {
    let kills =
        |effect: &Effect| matches!(effect, Effect::Perform(_, Action::Stop(StopMode::Kill)));
    story.effects.iter().any(kills)
}

#[test]
fn a_primary_that_ran_throughout_writes_the_keys_again_and_is_not_stopped() {
    let mut story = leader();
    reset(&mut story, &empty(3));
    assert!(!killed(&story));
    let written = story.perform(Outcome::Written(Revision(4)));
    let expected = Action::RestoreKeys {
        system_id: 42,
        stored: Some(Stored::only(name(ME))),
    };
    assert_eq!(written, expected);
    // The standbys' keys are gone, too; the names wait for them a while.
    assert_eq!(story.reason(), Reason::Leading);
    assert!(story.node.view(story.now).holds_key());
    assert_eq!(story.node.view(story.now).memory.reset, None);
}

#[test]
fn the_key_of_a_leader_of_before_is_deleted_first() {
    let mut story = leader();
    reset(&mut story, &restored("b", Some(("b", &["a"], 1))));
    let stale = LeaseId(OTHER.0 + i64::from(b'b'));
    let first = story.perform(Outcome::Written(Revision(10)));
    assert_eq!(first, Action::EvictLeader(stale));
    let then = story.perform(Outcome::Written(Revision(11)));
    assert!(matches!(then, Action::RestoreKeys { .. }));
    assert!(!killed(&story));
}

#[test]
fn the_former_key_protects_a_primary_no_longer_than_its_lease_did() {
    let mut story = leader();
    let until = story.node.view(story.now).leased_until().unwrap();
    story.effects.clear();
    story.on(Event::DcsReset);
    read(&mut story, empty(3));
    assert!(story.node.view(story.now).may_write());
    story.later(until.since(story.now).0 - 1);
    story.on(Event::Tick);
    assert!(!killed(&story));
    story.later(1);
    story.on(Event::Tick);
    assert!(killed(&story), "nothing was granted in time");
}

#[test]
fn a_primary_does_not_write_over_another_cluster() {
    let mut story = leader();
    let mut other = restored("b", None);
    other.initialize = Some(Initialize::Done(43));
    reset(&mut story, &other);
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::DcsReset);
}

#[test]
fn no_standby_takes_over_by_what_was_restored() {
    let mut story = follower();
    let mut old = restored("b", Some((ME, &[], 0)));
    old.leader = None;
    reset(&mut story, &old);
    story.look(standby(100, None));
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::DcsReset);
    assert!(story.reason().is_obstacle());
    story.on(Event::VoteAsked { reply: 1 });
    let refused = story
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::AnswerVote(1, Err(_))));
    assert!(refused, "it does not vote either");
}

#[test]
fn a_person_who_writes_sync_ends_the_doubt() {
    let mut story = follower();
    reset(&mut story, &empty(3));
    story.look(standby(100, None));
    let mut decided = restored("b", Some((ME, &[], 0)));
    decided.leader = None;
    decided.members.get_mut(&name(ME)).unwrap().lease = NEW;
    read(&mut story, decided);
    story.look(standby(100, None));
    story.expect_no_step();
    // Our lease is known to an etcd that says so: it is the one that granted it.
    kept(&mut story);
    assert_eq!(story.perform(Outcome::At(at(100))), Action::StopReceiver);
}

#[test]
fn a_keepalive_that_was_sent_before_the_evidence_does_not_confirm_it() {
    let mut story = follower();
    reset(&mut story, &empty(3));
    story.look(standby(100, None));
    let sent = story.now;
    story.later(10);
    let mut decided = restored("b", Some((ME, &[], 0)));
    decided.leader = None;
    decided.members.get_mut(&name(ME)).unwrap().lease = NEW;
    read(&mut story, decided);
    // The etcd that answers this one may be another than the one that was read since.
    story.on(Event::LeaseKept { id: NEW, sent });
    story.look(standby(100, None));
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::DcsReset);
    kept(&mut story);
    assert_eq!(story.perform(Outcome::At(at(100))), Action::StopReceiver);
}

#[test]
fn a_candidate_whose_peer_knows_of_a_reset_does_not_lead() {
    let leaderless = cluster(None, Some(("b", &["a", "c"], 1)));
    let mut story = Story::new(Mode::Quorum, leaderless, standby(100, None));
    assert_eq!(story.perform(Outcome::At(at(100))), Action::StopReceiver);
    story.look(standby(100, None));
    let answers = Outcome::DcsReset(vec![vote("c", 100)]);
    assert!(matches!(story.perform(answers), Action::AskPeers(_)));
    story.later(300);
    story.look(standby(100, None));
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::DcsReset);
}

#[test]
fn a_lease_that_is_gone_before_its_time_puts_etcd_in_doubt() {
    let mut story = follower();
    story.on(Event::LeaseGone(LEASE));
    assert!(story.node.view(story.now).memory.reset.is_some());
    let mut story = follower();
    story.later(20_000);
    story.on(Event::LeaseGone(LEASE));
    assert_eq!(
        story.node.view(story.now).memory.reset,
        None,
        "it had ended"
    );
}

#[test]
fn a_timeline_that_only_a_lost_history_told_of_is_remembered() {
    let mut led = cluster(Some(("b", OTHER)), None);
    led.timeline = Some(mrg_base::Timeline(2));
    led.timeline_of = Some(name("c"));
    let mut story = Story::new(Mode::Async, led, standby(100, Some("b")));
    let mut known = empty(3);
    known.members.insert(name(ME), member(NEW, false));
    reset(&mut story, &known);
    story.look(standby(100, None));
    story.later(story.node.view(story.now).settings.failover.ttl.0);
    story.on(Event::Tick);
    kept(&mut story);
    story.look(standby(100, None));
    assert_eq!(story.reason(), Reason::OldTimeline);
}

#[test]
fn a_standby_that_streams_does_not_turn_to_a_leader_of_before() {
    let mut story = follower();
    reset(&mut story, &restored("c", Some(("c", &["a"], 1))));
    story.look(standby(100, Some("b")));
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::DcsReset);
    // The former key ends with its lease; if it does not, it is that of a leader.
    story.later(story.node.view(story.now).settings.failover.ttl.0);
    let sent = story.now;
    story.on(Event::LeaseKept { id: NEW, sent });
    story.look(standby(100, Some("b")));
    assert_eq!(story.perform(Outcome::Done), Action::Follow(name("c")));
}

#[test]
fn a_leader_key_that_outlasts_its_former_lease_is_new_to_a_standby_that_streams() {
    let mut story = follower();
    let shown = restored("b", Some(("b", &["a", "c"], 1)));
    reset(&mut story, &shown);
    story.look(standby(100, Some("b")));
    assert_eq!(story.reason(), Reason::Following);
    assert!(story.node.view(story.now).memory.reset.is_some());
    story.later(2 * story.node.view(story.now).settings.failover.ttl.0);
    read(&mut story, shown);
    assert!(story.node.view(story.now).memory.reset.is_some());
    let sent = story.now;
    story.on(Event::LeaseKept { id: NEW, sent });
    assert_eq!(story.node.view(story.now).memory.reset, None);
}

#[test]
fn a_leader_whose_server_crashes_in_that_moment_recovers_in_place() {
    let mut story = leader();
    story.on(Event::PostmasterGone);
    story.effects.clear();
    story.on(Event::DcsReset);
    let mut known = empty(3);
    let mut me = member(NEW, true);
    me.running = false;
    known.members.insert(name(ME), me);
    read(&mut story, known.clone());
    let sent = story.now;
    story.on(Event::LeaseGranted {
        id: NEW,
        granted: Millis::seconds(10),
        sent,
    });
    read(&mut story, known);
    story.effects.clear();
    story.look(Postgres::Stopped(crate::found::at_rest(true)));
    assert_eq!(story.reason(), Reason::CrashedRestart);
}

#[test]
fn without_sync_the_members_wait_one_ttl_for_a_primary() {
    let led = cluster(Some(("b", OTHER)), None);
    let mut story = Story::new(Mode::Async, led, standby(100, Some("b")));
    let mut known = empty(3);
    known.members.insert(name(ME), member(NEW, false));
    reset(&mut story, &known);
    story.look(standby(100, None));
    assert_eq!(story.reason(), Reason::DcsReset);
    story.later(story.node.view(story.now).settings.failover.ttl.0);
    story.on(Event::Tick);
    story.effects.clear();
    kept(&mut story);
    assert_eq!(story.perform(Outcome::At(at(100))), Action::StopReceiver);
}

#[test]
fn what_came_of_a_step_of_before_says_nothing_about_the_keys() {
    let mut story = leader();
    let mut alone = cluster(Some((ME, LEASE)), Some((ME, &["b", "c"], 1)));
    alone.initialize = None;
    alone.revision = Revision(11);
    read(&mut story, alone);
    let (step, action) = story.step().unwrap();
    assert_eq!(action, Action::StoreSystemId(42));
    story.on(Event::DcsReset);
    read(&mut story, empty(3));
    story.done(step, Outcome::Written(Revision(12)));
    let view = story.node.view(story.now);
    let cluster = view.dcs.last().unwrap();
    assert_eq!((cluster.revision, cluster.initialize), (Revision(3), None));
}
