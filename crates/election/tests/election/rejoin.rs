//! Members that cannot follow, or cannot lead yet: what is tried, in which order, and that nothing
//! is tried for ever.

use crate::found::at_rest;
use crate::story::*;
use mrg_base::{Millis, Moment, Position, Timeline};
use mrg_election::{
    Action, Cluster, Effect, Event, LeaseId, Mode, Outcome, Postgres, PreviousIncarnation, Reason,
    ReinitializeObjection, Revision, Settings, Standby, StartAs, StopMode, SwitchoverRequest,
    WalReceiver,
};

fn following(postgres: Postgres) -> Story {
    let led = cluster(Some(("b", OTHER)), Some(("b", &["c"], 0)));
    Story::new(Mode::Quorum, led, postgres)
}

fn renew(story: &mut Story) {
    let sent = story.now;
    story.on(Event::LeaseKept { id: LEASE, sent });
}

/// A standby of the leader whose WAL receiver has been broken since a moment.
fn broken(since: Moment) -> Postgres {
    Postgres::Standby(Standby {
        system_id: 42,
        position: Some(Position {
            timeline: Timeline(1),
            ..at(900)
        }),
        upstream: Some(name("b")),
        receiver: WalReceiver::Broken(since),
        fork: None,
    })
}

/// The steps up to the next start, all of which succeed.
fn steps(story: &mut Story) -> Vec<Action> {
    let mut steps = Vec::new();
    while let Some((step, action)) = story.step() {
        let last = matches!(action, Action::Start(_));
        steps.push(action);
        story.done(step, Outcome::Done);
        if last {
            break;
        }
    }
    steps
}

/// Until no patience is left and something is done about it.
fn does_not_stream(story: &mut Story) {
    let since = story.now;
    story.effects.clear();
    let begun = |story: &Story| {
        let mut effects = story.effects.iter();
        effects.any(|effect| matches!(effect, Effect::Perform(..)))
    };
    while !begun(story) {
        story.later(5_000);
        assert!(story.now.since(since) < Millis(60_000), "nothing is done");
        renew(story);
        story.look(broken(since));
    }
}

#[test]
fn a_rewind_that_brought_no_streaming_is_followed_by_a_copy() {
    let mut story = following(broken(Moment(1_000_000)));
    does_not_stream(&mut story);
    let first = steps(&mut story);
    assert!(first.contains(&Action::Rewind(name("b"))), "{first:?}");
    does_not_stream(&mut story);
    let second = steps(&mut story);
    assert!(
        second.contains(&Action::BaseBackup(name("b")))
            && !second.contains(&Action::Rewind(name("b"))),
        "{second:?}"
    );
}

fn copy_of_the_leader() -> Vec<Action> {
    let upstream = Some(name("b"));
    vec![
        Action::ConfirmLeader(name("b")),
        Action::Stop(StopMode::Fast),
        Action::BaseBackup(name("b")),
        Action::Start(StartAs::Standby { upstream }),
    ]
}

#[test]
fn a_standby_whose_wal_the_leader_has_removed_is_copied_at_once() {
    let Postgres::Standby(standby) = broken(Moment(1_000_000)) else {
        unreachable!("a standby");
    };
    let mut story = following(Postgres::Standby(Standby {
        receiver: WalReceiver::WalRemoved,
        ..standby
    }));
    assert_eq!(story.reason(), Reason::Diverged);
    assert_eq!(steps(&mut story), copy_of_the_leader());
}

#[test]
fn a_copy_that_is_asked_for_replaces_the_data_of_a_standby_that_streams() {
    let mut story = following(standby(100, Some("b")));
    story.expect_no_step();
    story.on(Event::ReinitializeRequested);
    assert!(story.node.is_creating_replica());
    assert_eq!(story.reason(), Reason::Reinitialize);
    for expected in copy_of_the_leader() {
        assert!(story.node.is_creating_replica(), "{expected:?}");
        assert_eq!(story.perform(Outcome::Done), expected);
    }
    assert!(!story.node.is_creating_replica());
    story.look(standby(100, Some("b")));
    assert_eq!(story.reason(), Reason::Following);
}

#[test]
fn a_copy_that_is_asked_for_in_a_pause_is_made_in_the_pause() {
    let mut story = following(standby(100, Some("b")));
    let paused = Settings {
        paused: true,
        ..settings(Mode::Quorum)
    };
    story.on(Event::Settings(paused));
    story.expect_no_step();
    story.on(Event::ReinitializeRequested);
    assert_eq!(steps(&mut story), copy_of_the_leader());
}

#[test]
fn no_copy_is_made_of_nothing_of_itself_or_twice_at_a_time() {
    let objects = |story: &Story, forced| story.node.reinitialize_objection(story.now, forced);
    let leaderless = cluster(None, Some(("b", &["a", "c"], 1)));
    let mut story = Story::new(Mode::Quorum, leaderless, standby(100, None));
    assert_eq!(objects(&story, true), Some(ReinitializeObjection::NoLeader));
    story.effects.clear();
    story.on(Event::ReinitializeRequested);
    assert!(!story.node.is_creating_replica());

    let led = cluster(Some((ME, LEASE)), Some((ME, &["b", "c"], 1)));
    let mut story = Story::new(Mode::Quorum, led, primary(any_of(&["b", "c"])));
    assert_eq!(objects(&story, true), Some(ReinitializeObjection::Leads));
    story.on(Event::ReinitializeRequested);
    assert!(!story.node.is_creating_replica());

    let mut story = following(standby(100, Some("b")));
    assert_eq!(objects(&story, false), None);
    story.on(Event::ReinitializeRequested);
    let in_progress = Some(ReinitializeObjection::InProgress);
    assert_eq!(objects(&story, false), in_progress);
    assert_eq!(objects(&story, true), None);
    story.perform(Outcome::Done);
    story.perform(Outcome::At(at(100)));
    story.look(Postgres::Stopped(at_rest(false)));
    let (first, action) = story.step().unwrap();
    assert_eq!(action, Action::BaseBackup(name("b")));
    story.on(Event::ReinitializeRequested);
    assert!(story.effects.contains(&Effect::Abort(first)));
    story.look(Postgres::Stopped(at_rest(false)));
    assert_eq!(
        story.step().map(|(_, action)| action),
        Some(Action::ConfirmLeader(name("b")))
    );
}

#[test]
fn a_copy_that_was_asked_for_is_given_up_when_its_leader_is_gone() {
    let mut story = following(standby(100, Some("b")));
    story.on(Event::ReinitializeRequested);
    story.perform(Outcome::Done);
    story.perform(Outcome::At(at(100)));
    story.look(Postgres::Stopped(at_rest(false)));
    let (copy, _) = story.step().unwrap();
    story.on(Event::Dcs {
        cluster: cluster(None, Some(("b", &["a", "c"], 1))),
        linearizable: true,
    });
    assert!(story.effects.contains(&Effect::Abort(copy)));
    assert!(!story.node.is_creating_replica());
    let step = story.step().map(|(_, action)| action);
    assert_eq!(
        step,
        Some(Action::Start(StartAs::Standby { upstream: None })),
        "the data that was there takes part in the election"
    );
}

#[test]
fn a_copy_that_fails_again_and_again_leaves_the_data_that_was_there() {
    let mut story = following(standby(100, Some("b")));
    story.on(Event::ReinitializeRequested);
    let mut copies = 0;
    let mut last = None;
    for _ in 0..20 {
        while let Some((step, action)) = story.step() {
            let outcome = match action {
                Action::BaseBackup(_) => {
                    copies += 1;
                    Outcome::Failed("no".to_owned())
                }
                _ => Outcome::Done,
            };
            last = Some(action);
            story.done(step, outcome);
        }
        story.later(9_000);
        renew(&mut story);
        story.look(Postgres::Stopped(at_rest(false)));
    }
    assert_eq!(copies, 3);
    assert!(matches!(last, Some(Action::Start(_))), "{last:?}");
    assert!(!story.node.is_creating_replica());
}

#[test]
fn the_later_of_two_members_with_one_slot_does_not_take_part() {
    let mut led = cluster(Some(("b", OTHER)), Some(("b", &["c"], 0)));
    let mut namesake = member(LeaseId(OTHER.0 + 77), false);
    namesake.created = Revision(3);
    led.members.insert(name("A"), namesake);
    led.members.get_mut(&name(ME)).unwrap().created = Revision(4);
    let mut story = Story::new(Mode::Quorum, led.clone(), standby(100, Some("b")));
    assert_eq!(story.reason(), Reason::SlotTaken);
    let step = story.step().map(|(_, action)| action);
    assert_eq!(step, Some(Action::Stop(StopMode::Fast)));
    let mut story = Story::new(Mode::Quorum, led.clone(), Postgres::NoData);
    assert_eq!(story.reason(), Reason::SlotTaken);
    story.expect_no_step();
    led.members.get_mut(&name(ME)).unwrap().created = Revision(2);
    let story = Story::new(Mode::Quorum, led, standby(100, Some("b")));
    assert_eq!(story.reason(), Reason::Following);
}

#[test]
fn data_that_does_not_start_is_copied_once_and_the_leader_is_not_read_again_and_again() {
    let mut story = following(Postgres::Stopped(at_rest(false)));
    let mut copies = 0;
    for _ in 0..40 {
        story.later(9_000);
        renew(&mut story);
        story.look(Postgres::Stopped(at_rest(false)));
        while let Some((step, action)) = story.step() {
            let outcome = match action {
                Action::Start(_) => Outcome::Failed("FATAL: no".to_owned()),
                _ => Outcome::Done,
            };
            copies += usize::from(matches!(action, Action::BaseBackup(_)));
            story.done(step, outcome);
        }
    }
    assert_eq!(copies, 1);
}

#[test]
fn a_decision_that_fails_at_its_last_step_each_time_is_tried_less_and_less_often() {
    let mut story = following(Postgres::NoData);
    let mut tries = 0;
    for _ in 0..600 {
        story.later(100);
        renew(&mut story);
        story.look(Postgres::NoData);
        while let Some((step, action)) = story.step() {
            let outcome = match action {
                Action::Start(StartAs::Standby { .. }) => {
                    tries += 1;
                    Outcome::Failed("FATAL: no".to_owned())
                }
                _ => Outcome::Done,
            };
            story.done(step, outcome);
        }
    }
    assert!(tries <= 14, "{tries} times in a minute");
}

/// This member leads, and both its voters started a moment ago.
fn leads_with_young_voters(postgres: Postgres) -> Story {
    let mut led = cluster(Some((ME, LEASE)), Some((ME, &["b", "c"], 1)));
    for member in led.members.values_mut() {
        member.just_started = true;
    }
    Story::new(Mode::Quorum, led, postgres)
}

#[test]
fn a_crash_while_no_member_can_win_yet_is_answered_by_a_restart_in_place() {
    let mut story = leads_with_young_voters(primary(any_of(&["b", "c"])));
    story.look(Postgres::Stopped(at_rest(true)));
    assert_eq!(story.reason(), Reason::CrashedRestart);
    let step = story.step().map(|(_, action)| action);
    assert_eq!(step, Some(Action::Start(StartAs::Primary)));
}

#[test]
fn a_switchover_to_a_member_that_cannot_win_yet_is_refused_and_the_key_is_kept() {
    let mut led = cluster(Some((ME, LEASE)), Some((ME, &["b", "c"], 1)));
    for member in led.members.values_mut() {
        member.just_started = true;
    }
    led.switchover = Some(SwitchoverRequest {
        leader: Some(name(ME)),
        candidate: Some(name("b")),
        revision: Revision(9),
    });
    let mut story = Story::new(Mode::Quorum, led, primary(any_of(&["b", "c"])));
    let step = story.step().map(|(_, action)| action);
    assert_eq!(
        step,
        Some(Action::ClearSwitchover {
            expected: Revision(9)
        })
    );
}

#[test]
fn a_member_that_was_there_before_its_cluster_has_promised_nothing() {
    let empty = Cluster {
        revision: Revision(1),
        ..Cluster::default()
    };
    let past = PreviousIncarnation::Unknown;
    let story = Story::with_past(Mode::Quorum, empty, Postgres::NoData, past);
    assert!(!story.node.view(story.now).may_have_promised());
    let led = cluster(Some(("b", OTHER)), Some(("b", &["c"], 0)));
    let story = Story::with_past(Mode::Quorum, led, Postgres::NoData, past);
    assert!(story.node.view(story.now).may_have_promised());
}
