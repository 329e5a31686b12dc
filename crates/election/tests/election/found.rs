//! Bugs that the simulator found, each as the shortest story that shows it.

use crate::story::*;
use mrg_base::{Lsn, Millis, Position, Timeline};
use mrg_election::sync::{Names, Stored};
use mrg_election::{
    Action, Cluster, DataDirectory, Effect, Event, LeaderKey, LeaseId, Mode, Outcome, Postgres,
    Reason, Revision, StartAs, StopMode, SwitchoverRequest,
};

pub(crate) fn at_rest(was_primary: bool) -> DataDirectory {
    DataDirectory {
        system_id: 42,
        timeline: Timeline(1),
        checkpoint: Lsn(100),
        was_primary,
        clean: false,
        unfinished: false,
    }
}

/// The leader's postgres dies, and etcd goes away while the key is let go: from then on nothing
/// gives the right to write.
pub(crate) fn expect_release_while_etcd_goes_away(story: &mut Story) {
    story.look(Postgres::Stopped(at_rest(true)));
    let (step, action) = story.step().unwrap();
    assert_eq!(action, Action::ReleaseLeader);
    story.on(Event::DcsLost);
    story.done(step, Outcome::Written(Revision(11)));
    assert!(!story.node.view(story.now).may_write());
    story.look(Postgres::Stopped(at_rest(true)));
    assert_eq!(
        story.step().map(|(_, action)| action),
        Some(Action::Start(StartAs::Standby { upstream: None }))
    );
}

#[test]
fn a_key_that_was_let_go_while_etcd_went_away_is_not_held_any_more() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, LEASE)), sync),
        primary(any_of(&["b", "c"])),
    );
    expect_release_while_etcd_goes_away(&mut story);
}

#[test]
fn a_position_from_before_a_restart_is_nobodys_vote() {
    let leaderless = cluster(None, Some(("b", &["a", "c"], 1)));
    let mut story = Story::new(Mode::Quorum, leaderless, standby(100, Some("b")));
    story.race(100, vec![]);
    story.on(Event::PostmasterGone);
    story.effects.clear();
    story.on(Event::VoteAsked { reply: 1 });
    story.look(standby(250, None));
    // It stops its receiver again and says what it has now.
    let answered = |story: &Story| {
        story.effects.iter().any(|effect| matches!(effect, Effect::AnswerVote(1, Ok((position, _))) if *position == at(100)))
    };
    assert!(!answered(&story), "{:?}", story.effects);
}

#[test]
fn a_read_that_a_write_of_ones_own_overtook_is_asked_for_again() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let mut led = cluster(Some((ME, LEASE)), sync);
    led.initialize = None;
    let mut story = Story::new(Mode::Quorum, led.clone(), primary(any_of(&["b", "c"])));
    let (step, action) = story.step().unwrap();
    assert_eq!(action, Action::StoreSystemId(42));
    story.done(step, Outcome::Unknown("no answer".to_owned()));
    story.later(9);
    // The write was done after all, which the watch told in the meantime; the read began before it.
    story.on(Event::Dcs {
        cluster: Cluster {
            revision: Revision(12),
            ..led.clone()
        },
        linearizable: false,
    });
    story.effects.clear();
    story.on(Event::Dcs {
        cluster: Cluster {
            revision: Revision(11),
            ..led
        },
        linearizable: true,
    });
    assert!(
        story.effects.contains(&Effect::ReadDcs),
        "it would wait for ever: {:?}",
        story.effects
    );
}

#[test]
fn a_candidate_with_too_few_votes_does_not_hold_up_one_that_needs_none() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(None, Some(("b", &["a", "c"], 1))),
        standby(100, Some("b")),
    );
    story.race(100, vec![]);
    assert_eq!(story.reason(), Reason::TooFewVotes);
    story.effects.clear();
    story.on(Event::VoteAsked { reply: 1 });
    assert_eq!(
        story.effects.first(),
        Some(&Effect::AnswerVote(1, Ok((at(100), None))))
    );
}

#[test]
fn while_the_key_may_hang_off_a_shorter_lease_the_fence_knows_it() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, LEASE)), sync),
        primary(any_of(&["b", "c"])),
    );
    let mut shorter = settings(Mode::Quorum);
    shorter.failover.ttl = Millis::seconds(3);
    shorter.failover.loop_wait = Millis::seconds(1);
    shorter.failover.retry_timeout = Millis::seconds(1);
    story.on(Event::Settings(shorter));
    story.effects.clear();
    story.on(Event::LeaseGranted {
        id: LeaseId(101),
        granted: Millis::seconds(3),
        sent: story.now,
    });
    let fence = |story: &Story| {
        let armed = |effect: &Effect| {
            if let Effect::Fence(by) = effect {
                Some(*by)
            } else {
                None
            }
        };
        story.effects.iter().rev().find_map(armed)
    };
    let ends = story.now + Millis(2_500);
    assert!(
        story
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Perform(_, Action::MoveLeader(_))))
    );
    assert_eq!(
        fence(&story),
        Some(Some(ends)),
        "before the move is asked for"
    );
    // The answer does not come, and the old lease is kept: that proves nothing.
    story.later(1_000);
    story.on(Event::LeaseKept {
        id: LEASE,
        sent: story.now,
    });
    assert_eq!(fence(&story), Some(Some(ends)));
    story.later(1_600);
    story.on(Event::Tick);
    assert!(!story.node.view(story.now).may_write());
}

#[test]
fn a_standbys_files_are_never_started_as_a_primarys() {
    // It took the key, and was fenced before it was promoted: started read-write, its old timeline
    // would go on in two places.
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, LEASE)), Some(("a", &[], 0))),
        Postgres::Stopped(at_rest(false)),
    );
    assert_eq!(story.reason(), Reason::CrashedRestart);
    assert_eq!(
        story.step().map(|(_, action)| action),
        Some(Action::Start(StartAs::Standby { upstream: None }))
    );
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, LEASE)), Some(("a", &[], 0))),
        Postgres::Stopped(at_rest(true)),
    );
    assert_eq!(
        story.step().map(|(_, action)| action),
        Some(Action::Start(StartAs::Primary))
    );
}

#[test]
fn without_sync_a_timeline_is_reserved_before_it_is_begun() {
    let mut story = Story::new(
        Mode::Async,
        Cluster {
            timeline: Some(Timeline(1)),
            ..cluster(None, None)
        },
        standby(100, Some("b")),
    );
    story.race(100, vec![vote("c", 100)]);
    assert_eq!(
        story.perform(Outcome::Written(Revision(11))),
        Action::AcquireLeader
    );
    assert!(matches!(
        story.perform(Outcome::At(at(100))),
        Action::SetSyncNames(_)
    ));
    let reserved = Action::ReserveTimeline {
        after: at(100),
        known: Some(Timeline(1)),
    };
    assert_eq!(
        story.perform(Outcome::Refused("another timeline was begun".to_owned())),
        reserved
    );
    assert!(
        !story
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Perform(_, Action::Promote)))
    );
    // The member that reserved it may be the only one to know whether it was begun.
    let of = |member: &str| Cluster {
        timeline: Some(Timeline(2)),
        timeline_of: Some(name(member)),
        ..cluster(None, None)
    };
    assert_eq!(
        Story::new(Mode::Async, of("c"), standby(100, Some("b"))).reason(),
        Reason::OldTimeline
    );
    assert_eq!(
        Story::new(Mode::Async, of(ME), standby(100, Some("b"))).reason(),
        Reason::Race
    );
}

#[test]
fn a_switchover_that_nobody_took_is_not_tried_for_ever() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let request = SwitchoverRequest {
        leader: Some(name(ME)),
        candidate: Some(name("c")),
        revision: Revision(9),
    };
    let asked = Cluster {
        switchover: Some(request),
        ..cluster(Some((ME, LEASE)), sync)
    };
    let mut story = Story::new(Mode::Quorum, asked.clone(), primary(any_of(&["b", "c"])));
    assert_eq!(story.reason(), Reason::Switchover);
    let mut steps = 0;
    while story.perform(Outcome::Done) != Action::ReleaseLeader {
        steps += 1;
        assert!(steps < 10, "the hand-over ends with the release");
    }
    // Nobody could take over, and the old leader did again.
    let key = Some(LeaderKey {
        member: name(ME),
        lease: LEASE,
        created: Revision(20),
    });
    story.on(Event::Dcs {
        cluster: Cluster {
            revision: Revision(20),
            leader: key,
            sync: Some((Revision(20), Stored::only(name(ME)))),
            ..asked
        },
        linearizable: true,
    });
    story.effects.clear();
    story.look(primary(any_of(&["b", "c"])));
    assert_eq!(story.reason(), Reason::SwitchoverRefused);
    assert_eq!(
        story.step().map(|(_, action)| action),
        Some(Action::ClearSwitchover {
            expected: Revision(9)
        })
    );
}

#[test]
fn a_new_leader_waits_for_its_replay_before_it_promotes() {
    let replaying = |position: Option<Position>| match standby(100, None) {
        Postgres::Standby(standby) => Postgres::Standby(mrg_election::Standby {
            position,
            ..standby
        }),
        other => other,
    };
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, LEASE)), Some(("a", &[], 0))),
        replaying(None),
    );
    assert_eq!(story.reason(), Reason::FinishPromotion);
    story.expect_no_step();
    story.look(replaying(Some(at(100))));
    assert!(matches!(story.step(), Some((_, Action::SetSyncNames(_)))));
}

#[test]
fn poolers_that_may_have_been_paused_are_let_go_on_whatever_became_of_that_step() {
    let led = cluster(Some((ME, LEASE)), Some(("a", &["b", "c"], 1)));
    let mut story = Story::new(Mode::Quorum, led.clone(), primary(any_of(&["b", "c"])));
    story.on(Event::RestartRequested);
    assert_eq!(story.perform(Outcome::Done), Action::Checkpoint);
    assert!(matches!(
        story.step(),
        Some((_, Action::PausePoolers { .. }))
    ));
    // The lease runs out meanwhile, and nobody ever hears of that step again. Its request may have
    // been carried out all the same.
    story.later(10_001);
    story.on(Event::Tick);
    assert_eq!(story.perform(Outcome::Done), Action::Stop(StopMode::Kill));
    story.on(Event::LeaseKept {
        id: LEASE,
        sent: story.now,
    });
    story.on(Event::Dcs {
        cluster: led,
        linearizable: true,
    });
    story.effects.clear();
    story.look(primary(any_of(&["b", "c"])));
    let (mut steps, mut resumed) = (0, false);
    while let (Some((step, action)), true) = (story.step(), steps < 10) {
        (steps, resumed) = (steps + 1, resumed || action == Action::ResumePoolers);
        story.done(step, Outcome::Done);
        story.look(primary(any_of(&["b", "c"])));
    }
    assert!(resumed, "{:?}", story.reason());
}

#[test]
fn the_fence_stays_armed_while_a_standby_is_promoted_though_the_key_is_deleted() {
    let leaderless = cluster(None, None);
    let mut story = Story::new(Mode::Async, leaderless.clone(), standby(100, None));
    story.race(100, vec![vote("b", 100), vote("c", 100)]);
    assert_eq!(
        story.perform(Outcome::Written(Revision(11))),
        Action::AcquireLeader
    );
    let mut steps = 0;
    while story
        .effects
        .iter()
        .all(|effect| !matches!(effect, Effect::Perform(_, Action::Promote)))
    {
        story.perform(Outcome::Done);
        steps += 1;
        assert!(steps < 5, "it does not come to a promotion");
    }
    story.look(standby(100, None));
    story.effects.clear();
    // Somebody deletes the key; what postgres was seen to be last is a standby, and it is about to
    // accept writes.
    story.on(Event::Dcs {
        cluster: Cluster {
            revision: Revision(12),
            ..leaderless
        },
        linearizable: true,
    });
    assert!(
        !story.effects.contains(&Effect::Fence(None)),
        "{:?}",
        story.effects
    );
}

#[test]
fn a_lease_that_lapsed_is_asked_for_again_though_the_answer_that_etcd_is_back_was_overtaken() {
    let mut story = Story::new(
        Mode::Async,
        cluster(Some((ME, LEASE)), None),
        primary(Names::Nobody),
    );
    story.look(Postgres::Stopped(at_rest(true)));
    let (step, action) = story.step().unwrap();
    assert!(matches!(action, Action::Start(_)), "{action:?}");
    story.later(10_001);
    story.on(Event::Tick);
    assert!(
        story.effects.contains(&Effect::ReadDcs),
        "{:?}",
        story.effects
    );
    story.effects.clear();
    // A write of ours is done at revision 20; the read that was asked for shows the state before
    // it.
    story.done(step, Outcome::Written(Revision(20)));
    story.effects.clear();
    story.on(Event::Dcs {
        cluster: Cluster {
            revision: Revision(19),
            ..cluster(None, None)
        },
        linearizable: true,
    });
    assert!(
        story.effects.contains(&Effect::KeepAlive(LEASE)),
        "{:?}",
        story.effects
    );
}

#[test]
fn a_winner_whose_server_ended_meanwhile_does_not_take_sync() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(None, Some(("b", &["a", "c"], 1))),
        standby(100, None),
    );
    story.race(100, vec![vote("c", 100)]);
    let (step, action) = story.step().unwrap();
    assert_eq!(action, Action::AcquireLeader);
    story.on(Event::PostmasterGone);
    story.done(step, Outcome::Written(Revision(11)));
    story.look(Postgres::NoData);
    assert_eq!(
        story.step().map(|(_, action)| action),
        Some(Action::ReleaseLeader)
    );
}
