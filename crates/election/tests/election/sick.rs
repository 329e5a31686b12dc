//! A leader that cannot serve does not lead.

use std::collections::BTreeMap;

use crate::found::at_rest;
use crate::story::*;
use mrg_base::{Lsn, Millis};
use mrg_election::sync::Names;
use mrg_election::{
    Action, Event, Mode, Outcome, Postgres, Primary, Reason, Revision, Settings, StartAs, StopMode,
};

fn leader() -> Story {
    let led = cluster(Some((ME, LEASE)), Some((ME, &["b", "c"], 1)));
    let mut story = Story::new(Mode::Quorum, led, primary(any_of(&["b", "c"])));
    story.effects.clear();
    story
}

#[test]
fn a_leader_whose_data_cannot_be_used_lets_the_key_go_and_then_does_nothing() {
    let mut story = leader();
    story.on(Event::PostmasterGone);
    story.look(Postgres::Unusable);
    assert_eq!(
        story.perform(Outcome::Written(Revision(11))),
        Action::ReleaseLeader
    );
    assert_eq!(story.reason(), Reason::UnusableData);
    assert!(story.reason().is_obstacle());
    story.look(Postgres::Unusable);
    story.expect_no_step();
    story.on(Event::Dcs {
        cluster: cluster(Some(("b", OTHER)), Some(("b", &[], 0))),
        linearizable: true,
    });
    story.look(Postgres::Unusable);
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::UnusableData);
}

#[test]
fn a_leader_in_a_paused_cluster_lets_the_key_go_when_it_stops_although_its_data_cannot_be_used() {
    let mut story = leader();
    story.on(Event::Settings(Settings {
        paused: true,
        ..settings(Mode::Quorum)
    }));
    story.on(Event::PostmasterGone);
    story.look(Postgres::Unusable);
    story.expect_no_step();
    story.on(Event::Stop);
    assert_eq!(
        story.perform(Outcome::Written(Revision(11))),
        Action::ReleaseLeader
    );
    assert_eq!(story.reason(), Reason::ShuttingDown);
}

/// The postmaster dies, starts again, and does not get ready.
fn starting() -> Story {
    let led = cluster(Some((ME, LEASE)), None);
    let mut story = Story::new(Mode::Async, led, primary(Names::Nobody));
    story.on(Event::PostmasterGone);
    story.look(Postgres::Stopped(at_rest(true)));
    let started = story.perform(Outcome::Done);
    assert_eq!(started, Action::Start(StartAs::Primary));
    story.look(Postgres::Starting);
    story
}

/// Time passes, and the lease is kept.
fn pass(story: &mut Story, seconds: u64) {
    for _ in 0..seconds {
        story.later(1_000);
        let sent = story.now;
        story.on(Event::LeaseKept { id: LEASE, sent });
        story.on(Event::Tick);
    }
}

fn expect_let_go(story: &mut Story, reason: Reason) {
    assert_eq!(story.perform(Outcome::Done), Action::Stop(StopMode::Kill));
    assert_eq!(story.reason(), reason);
    assert_eq!(
        story.perform(Outcome::Written(Revision(11))),
        Action::ReleaseLeader
    );
}

#[test]
fn a_leader_that_does_not_come_up_in_time_is_killed_and_lets_the_key_go() {
    let mut story = starting();
    pass(&mut story, 298);
    story.expect_no_step();
    pass(&mut story, 3);
    expect_let_go(&mut story, Reason::StartTimedOut);
}

#[test]
fn a_leader_whose_state_stays_unknown_is_killed_and_lets_the_key_go() {
    let mut story = starting();
    let mut settings = settings(Mode::Async);
    settings.failover.primary_start_timeout = Millis(0);
    story.look(Postgres::Unknown);
    story.on(Event::Settings(settings));
    pass(&mut story, 19);
    story.expect_no_step();
    pass(&mut story, 2);
    expect_let_go(&mut story, Reason::StartTimedOut);
}

#[test]
fn a_leader_that_does_not_come_up_keeps_the_key_if_nobody_could_take_over() {
    let mut story = starting();
    let mut alone = cluster(Some((ME, LEASE)), None);
    alone.optime = Some(Lsn(100 + (2 << 20)));
    story.on(Event::Dcs {
        cluster: alone,
        linearizable: true,
    });
    pass(&mut story, 400);
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::Starting);
}

#[test]
fn with_a_start_timeout_of_zero_a_crash_is_a_failover_at_once() {
    let led = cluster(Some((ME, LEASE)), None);
    let mut story = Story::new(Mode::Async, led, primary(Names::Nobody));
    let mut settings = settings(Mode::Async);
    settings.failover.primary_start_timeout = Millis(0);
    story.on(Event::Settings(settings));
    story.look(Postgres::Stopped(at_rest(true)));
    assert_eq!(story.step().unwrap().1, Action::ReleaseLeader);
    assert_eq!(story.reason(), Reason::CrashedFailover);
}

/// A pulse every two seconds, for so long.
fn pulses(story: &mut Story, seconds: u64, answered: bool) {
    for _ in 0..seconds / 2 {
        let asked = story.now;
        pass(story, 2);
        story.on(Event::Pulse { asked, answered });
    }
}

#[test]
fn a_leader_that_does_not_respond_is_killed_before_the_key_goes() {
    let mut story = leader();
    pulses(&mut story, 18, false);
    story.expect_no_step();
    pulses(&mut story, 4, false);
    expect_let_go(&mut story, Reason::Unresponsive);
}

#[test]
fn one_pulse_that_is_answered_ends_the_silence() {
    let mut story = leader();
    for _ in 0..3 {
        pulses(&mut story, 16, false);
        pulses(&mut story, 2, true);
    }
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::Leading);
}

#[test]
fn a_server_that_refuses_everybody_because_it_shuts_down_does_not_lead() {
    let mut story = leader();
    pulses(&mut story, 2, false);
    story.look(Postgres::Starting);
    pulses(&mut story, 20, false);
    expect_let_go(&mut story, Reason::Unresponsive);
}

#[test]
fn a_leader_that_does_not_respond_stays_if_nobody_may_take_over_and_says_so() {
    let led = cluster(Some((ME, LEASE)), Some((ME, &[], 0)));
    // No standby streams, so none joins /sync.
    let postgres = Postgres::Primary(Primary {
        system_id: 42,
        position: at(100),
        names: Some(Names::Nobody),
        senders: BTreeMap::new(),
    });
    let mut story = Story::new(Mode::Quorum, led, postgres);
    story.effects.clear();
    pulses(&mut story, 30, false);
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::UnresponsiveAlone);
    story.look(Postgres::Starting);
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::UnresponsiveAlone);
    assert!(story.reason().is_obstacle());
}

#[test]
fn a_leader_that_does_not_respond_again_within_ten_minutes_stays_and_says_so() {
    let mut story = leader();
    pulses(&mut story, 22, false);
    expect_let_go(&mut story, Reason::Unresponsive);
    // No other member took over, or handed back.
    let mut led = cluster(Some((ME, LEASE)), Some((ME, &["b", "c"], 1)));
    led.revision = Revision(20);
    story.on(Event::Dcs {
        cluster: led,
        linearizable: true,
    });
    story.look(primary(any_of(&["b", "c"])));
    story.effects.clear();
    pulses(&mut story, 60, false);
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::UnresponsiveAgain);
    pulses(&mut story, 560, false);
    expect_let_go(&mut story, Reason::Unresponsive);
}

#[test]
fn a_pulse_may_be_switched_off_and_does_not_count_in_a_paused_cluster() {
    for (paused, after) in [(false, 0), (true, 20)] {
        let mut story = leader();
        let mut settings = settings(Mode::Quorum);
        settings.paused = paused;
        settings.failover.unresponsive_after = Millis::seconds(after);
        story.on(Event::Settings(settings));
        pulses(&mut story, 60, false);
        story.expect_no_step();
    }
}

#[test]
fn what_pulses_said_before_they_were_switched_off_is_forgotten() {
    let mut story = leader();
    pulses(&mut story, 18, false);
    let mut off = settings(Mode::Quorum);
    off.failover.unresponsive_after = Millis(0);
    story.on(Event::Settings(off));
    story.on(Event::Settings(settings(Mode::Quorum)));
    pulses(&mut story, 18, false);
    story.expect_no_step();
    pulses(&mut story, 4, false);
    expect_let_go(&mut story, Reason::Unresponsive);
}

#[test]
fn a_dead_servers_key_goes_even_if_the_first_try_fails() {
    let mut story = leader();
    pulses(&mut story, 22, false);
    assert_eq!(story.perform(Outcome::Done), Action::Stop(StopMode::Kill));
    let (step, release) = story.step().unwrap();
    assert_eq!(release, Action::ReleaseLeader);
    story.done(step, Outcome::Unknown("etcd did not answer".to_owned()));
    story.look(Postgres::Stopped(at_rest(true)));
    story.on(Event::Dcs {
        cluster: cluster(Some((ME, LEASE)), Some((ME, &["b", "c"], 1))),
        linearizable: true,
    });
    pass(&mut story, 2);
    assert_eq!(story.step().unwrap().1, Action::ReleaseLeader);
    assert_eq!(story.reason(), Reason::HandOver);
}
