//! Members that cannot follow, or cannot lead yet: what is tried, in which order, and that nothing
//! is tried for ever.

use crate::found::at_rest;
use crate::story::*;
use mrg_base::{Millis, Moment, Position, Timeline};
use mrg_election::{
    Action, Cluster, Effect, Event, Mode, Outcome, Postgres, PreviousIncarnation, Reason, Revision,
    Standby, StartAs, SwitchoverRequest, WalReceiver,
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
