//! A DCS that answers reads and takes no writes: it is full, or the user may not write. It may still
//! delete the leader key, and no member could create it again.

use crate::found::at_rest;
use crate::story::*;
use mrg_base::Moment;
use mrg_election::{
    Action, Cluster, Event, Mode, Outcome, Postgres, Reason, Revision, StartAs, StopMode,
    SwitchoverRequest,
};

fn led() -> Cluster {
    cluster(Some((ME, LEASE)), Some((ME, &["b", "c"], 1)))
}

fn leader() -> Story {
    let mut story = Story::new(Mode::Quorum, led(), primary(any_of(&["b", "c"])));
    story.effects.clear();
    story
}

fn crash(story: &mut Story) {
    story.on(Event::PostmasterGone);
    story.look(Postgres::Stopped(at_rest(true)));
}

fn read(story: &mut Story, cluster: Cluster) {
    story.on(Event::Dcs {
        cluster,
        linearizable: true,
    });
}

#[test]
fn a_crash_is_answered_in_place_while_writes_fail_and_by_a_release_after_that() {
    let mut story = leader();
    story.on(Event::WritesFail(true));
    crash(&mut story);
    let started = story.perform(Outcome::Done);
    assert_eq!(started, Action::Start(StartAs::Primary));
    assert_eq!(story.reason(), Reason::CrashedRestart);
    story.look(primary(any_of(&["b", "c"])));
    story.effects.clear();
    story.on(Event::WritesFail(false));
    crash(&mut story);
    assert_eq!(story.step().unwrap().1, Action::ReleaseLeader);
    assert_eq!(story.reason(), Reason::CrashedFailover);
}

#[test]
fn a_release_that_the_dcs_refuses_is_followed_by_a_restart_in_place() {
    let mut story = leader();
    crash(&mut story);
    let (step, release) = story.step().unwrap();
    assert_eq!(release, Action::ReleaseLeader);
    story.on(Event::WritesFail(true));
    story.done(step, Outcome::Unknown("no space".to_owned()));
    read(&mut story, led());
    story.later(1_000);
    story.on(Event::Tick);
    assert_eq!(story.step().unwrap().1, Action::Start(StartAs::Primary));
    assert_eq!(story.reason(), Reason::CrashedRestart);
}

#[test]
fn a_hand_over_whose_release_is_refused_ends_where_it_began() {
    let requested = Cluster {
        switchover: Some(SwitchoverRequest {
            leader: Some(name(ME)),
            candidate: None,
            revision: Revision(9),
        }),
        ..led()
    };
    let mut story = leader();
    read(
        &mut story,
        Cluster {
            revision: Revision(11),
            ..requested.clone()
        },
    );
    assert_eq!(story.perform(Outcome::Done), Action::Checkpoint);
    let paused = story.perform(Outcome::Done);
    assert_eq!(paused, Action::PausePoolers { may_abandon: true });
    let stopped = story.perform(Outcome::At(at(100)));
    assert_eq!(stopped, Action::Stop(StopMode::Fast));
    assert!(matches!(
        story.perform(Outcome::Done),
        Action::AwaitReceipt { .. }
    ));
    let (step, release) = story.step().unwrap();
    assert_eq!(release, Action::ReleaseLeader);
    story.on(Event::WritesFail(true));
    story.done(step, Outcome::Unknown("no space".to_owned()));
    story.look(Postgres::Stopped(at_rest(true)));
    read(
        &mut story,
        Cluster {
            revision: Revision(12),
            ..requested
        },
    );
    story.later(1_000);
    story.on(Event::Tick);
    let started = story.perform(Outcome::Done);
    assert_eq!(started, Action::Start(StartAs::Primary));
    story.look(primary(any_of(&["b", "c"])));
    assert_eq!(story.reason(), Reason::SwitchoverRefused);
    let cleared = story.perform(Outcome::Done);
    assert!(matches!(cleared, Action::ClearSwitchover { .. }));
}

#[test]
fn a_leader_that_does_not_respond_stays_while_writes_fail() {
    let mut story = leader();
    story.on(Event::WritesFail(true));
    for _ in 0..15 {
        let asked: Moment = story.now;
        story.later(2_000);
        let sent = story.now;
        story.on(Event::LeaseKept { id: LEASE, sent });
        story.on(Event::Pulse {
            asked,
            answered: false,
        });
    }
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::UnresponsiveAlone);
}

#[test]
fn a_shutdown_does_not_wait_for_a_release_that_is_refused() {
    let mut story = leader();
    story.on(Event::WritesFail(true));
    story.on(Event::Stop);
    assert_eq!(story.perform(Outcome::Done), Action::Checkpoint);
    let paused = story.perform(Outcome::Failed("no space".to_owned()));
    assert_eq!(paused, Action::PausePoolers { may_abandon: false });
    let stopped = story.perform(Outcome::At(at(100)));
    assert_eq!(stopped, Action::Stop(StopMode::Fast));
    let released = story.perform(Outcome::Unknown("no space".to_owned()));
    assert_eq!(released, Action::ReleaseLeader);
    story.look(Postgres::Stopped(at_rest(true)));
    read(
        &mut story,
        Cluster {
            revision: Revision(11),
            ..led()
        },
    );
    story.later(1_000);
    story.on(Event::Tick);
    assert!(
        story
            .effects
            .iter()
            .any(|effect| matches!(effect, mrg_election::Effect::Exit)),
        "{:?}",
        story.effects
    );
}
