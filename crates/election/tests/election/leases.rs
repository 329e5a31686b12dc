//! Leases, and the promises that stand in for them.

use crate::story::*;
use mrg_base::{Millis, Moment};
use mrg_election::sync::Names;
use mrg_election::{
    Action, Cluster, Effect, Event, LeaderKey, LeaseId, Mode, Outcome, PreviousIncarnation,
    Promise, PromiseRequest, Reason, Revision, StopMode,
};

#[test]
fn a_primary_that_loses_its_key_is_killed_at_once() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, LEASE)), sync),
        primary(any_of(&["b", "c"])),
    );
    assert_eq!(story.reason(), Reason::Leading);
    story.step();
    let taken = Cluster {
        revision: Revision(20),
        ..cluster(Some(("b", OTHER)), sync)
    };
    story.on(Event::Dcs {
        cluster: taken,
        linearizable: false,
    });
    assert_eq!(story.step().unwrap().1, Action::Stop(StopMode::Kill));
    assert_eq!(story.reason(), Reason::WriterWithoutLease);
}

#[test]
fn the_leader_keys_owner_is_its_lease_and_not_its_name() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, OTHER)), sync),
        primary(any_of(&["b", "c"])),
    );
    assert_eq!(story.reason(), Reason::WriterWithoutLease);
    assert_eq!(story.step().unwrap().1, Action::Stop(StopMode::Kill));
}

#[test]
fn a_late_keepalive_answer_does_not_move_the_deadline() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, LEASE)), sync),
        primary(any_of(&["b", "c"])),
    );
    let began = story.now;
    let before = story.node.lease().unwrap().valid_until;
    assert_eq!(before, began + Millis(9_000));
    story.later(5_000);
    story.on(Event::LeaseKept {
        id: LEASE,
        sent: began,
    });
    assert_eq!(story.node.lease().unwrap().valid_until, before);
}

#[test]
fn a_longer_loop_does_not_outlast_a_lease_of_an_earlier_shorter_ttl() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, LEASE)), sync),
        primary(any_of(&["b", "c"])),
    );
    let mut longer = settings(Mode::Quorum);
    longer.failover.ttl = Millis::seconds(60);
    longer.failover.loop_wait = Millis::seconds(20);
    story.on(Event::Settings(longer));
    story.effects.clear();
    story.later(3_400);
    story.on(Event::Tick);
    assert!(
        story.effects.contains(&Effect::KeepAlive(LEASE)),
        "the lease of 10 s is renewed every 3.3 s"
    );
}

#[test]
fn a_member_that_promised_neither_races_nor_votes_nor_promises_another() {
    let led = cluster(Some(("b", OTHER)), Some(("b", &["a", "c"], 1)));
    let mut story = Story::new(Mode::Quorum, led, standby(100, Some("b")));
    let request = |reply, lease| PromiseRequest {
        reply,
        leader: name("b"),
        lease: Some(lease),
        ttl: Millis::seconds(10),
        round: 1,
    };
    story.on(Event::PromiseAsked(request(1, OTHER)));
    assert!(
        story
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::AnswerPromise(1, Ok(_))))
    );
    let gone = Cluster {
        revision: Revision(20),
        ..cluster(None, Some(("b", &["a", "c"], 1)))
    };
    story.effects.clear();
    story.on(Event::Dcs {
        cluster: gone,
        linearizable: true,
    });
    assert_eq!(story.reason(), Reason::Promised);
    story.on(Event::VoteAsked { reply: 2 });
    assert!(
        story
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::AnswerVote(2, Err(_))))
    );
    story.on(Event::PromiseAsked(request(3, LeaseId(999))));
    assert!(
        story
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::AnswerPromise(3, Err(_))))
    );
    story.expect_no_step();
}

#[test]
fn a_member_that_may_have_taken_the_key_promises_nothing() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(None, Some(("b", &["a", "c"], 1))),
        standby(100, Some("b")),
    );
    story.race(100, vec![vote("c", 100)]);
    assert!(matches!(story.step(), Some((_, Action::AcquireLeader))));
    // Another was faster, and asks; our own transaction is still under way, and may be done when
    // that one's key has gone.
    story.on(Event::Dcs {
        cluster: Cluster {
            revision: Revision(20),
            ..cluster(Some(("b", OTHER)), Some(("b", &["a", "c"], 1)))
        },
        linearizable: false,
    });
    story.on(Event::PromiseAsked(PromiseRequest {
        reply: 1,
        leader: name("b"),
        lease: Some(OTHER),
        ttl: Millis::seconds(10),
        round: 1,
    }));
    assert!(
        story
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::AnswerPromise(1, Err(_)))),
        "{:?}",
        story.effects
    );
}

#[test]
fn a_member_that_sees_the_key_gone_refuses_a_promise() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(None, Some(("b", &["c"], 0))),
        standby(100, Some("b")),
    );
    story.on(Event::PromiseAsked(PromiseRequest {
        reply: 1,
        leader: name("b"),
        lease: Some(OTHER),
        ttl: Millis::seconds(10),
        round: 1,
    }));
    assert!(
        story
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::AnswerPromise(1, Err(_))))
    );
}

#[test]
fn a_promise_survives_a_restart() {
    let gone = cluster(None, Some(("b", &["a", "c"], 1)));
    let promised = PreviousIncarnation::Known(Some(Promise {
        lease: OTHER,
        until: Moment(1_005_000),
        round: 1,
    }));
    let mut story = Story::with_past(Mode::Quorum, gone.clone(), standby(100, None), promised);
    assert_eq!(story.reason(), Reason::Promised);
    story.later(5_001);
    story.on(Event::Tick);
    assert_eq!(story.reason(), Reason::Race);
    let story = Story::with_past(
        Mode::Quorum,
        gone,
        standby(100, None),
        PreviousIncarnation::Unknown,
    );
    assert_eq!(story.reason(), Reason::JustStarted);
}

#[test]
fn a_leader_without_etcd_asks_at_the_first_unanswered_keepalive_within_half_of_what_remains() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, LEASE)), sync),
        primary(any_of(&["b", "c"])),
    );
    story.later(2_000);
    story.on(Event::Tick);
    story.later(3_000);
    story.on(Event::LeaseUnanswered);
    let asked = story.effects.iter().find_map(|effect| match effect {
        Effect::AskPromises {
            round: 1,
            members,
            within,
        } => Some((members.clone(), *within)),
        _ => None,
    });
    assert_eq!(asked, Some((vec![name("b"), name("c")], Millis(2_000))));
    story.on(Event::DcsLost);
    let asked_at = story.now;
    story.on(Event::Promises {
        round: 1,
        asked: asked_at,
        all: true,
    });
    story.later(6_000);
    story.effects.clear();
    story.on(Event::Tick);
    assert!(
        !story
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Perform(_, Action::Stop(_)))),
        "the promises hold"
    );
    story.later(3_000);
    story.on(Event::Tick);
    assert_eq!(story.step().unwrap().1, Action::Stop(StopMode::Kill));
}

#[test]
fn promises_are_asked_for_again_before_they_end_and_withdrawn_when_the_lease_holds_again() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, LEASE)), sync),
        primary(any_of(&["b", "c"])),
    );
    let asked = |story: &mut Story| {
        let found = story.effects.iter().find_map(|effect| {
            if let Effect::AskPromises { round, .. } = effect {
                Some(*round)
            } else {
                None
            }
        });
        story.effects.clear();
        found
    };
    story.later(2_000);
    story.on(Event::LeaseUnanswered);
    assert_eq!(asked(&mut story), Some(1));
    story.later(300);
    story.on(Event::LeaseUnanswered);
    assert_eq!(asked(&mut story), None, "the round is still open");
    story.on(Event::Promises {
        round: 1,
        asked: story.now,
        all: true,
    });
    assert_eq!(asked(&mut story), None);
    story.later(2_000);
    story.on(Event::LeaseUnanswered);
    assert_eq!(
        asked(&mut story),
        Some(2),
        "as often as a lease would be renewed"
    );
    story.on(Event::LeaseKept {
        id: LEASE,
        sent: story.now,
    });
    assert!(story.effects.contains(&Effect::WithdrawPromises {
        members: vec![name("b"), name("c")],
        round: 2
    }));
    story.on(Event::Promises {
        round: 2,
        asked: story.now,
        all: true,
    });
    assert_eq!(
        story.node.view(story.now).memory.held_promises,
        None,
        "answers to a withdrawn round do not count"
    );
}

#[test]
fn a_leader_without_etcd_needs_the_promise_of_everybody_who_may_race_also_of_one_that_is_away() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let mut led = cluster(Some((ME, LEASE)), sync);
    led.members.remove(&name("c"));
    let ask = |led: Cluster| {
        let mut story = Story::new(Mode::Quorum, led, primary(any_of(&["b", "c"])));
        story.later(2_000);
        story.on(Event::LeaseUnanswered);
        story.effects.iter().find_map(|effect| {
            if let Effect::AskPromises { members, .. } = effect {
                Some(members.clone())
            } else {
                None
            }
        })
    };
    assert_eq!(ask(led.clone()), Some(vec![name("b"), name("c")]));
    // Without the key nobody knows who may race.
    led.failsafe = None;
    assert_eq!(ask(led), None);
}

#[test]
fn a_withdrawal_frees_of_its_round_and_not_of_a_later_one() {
    let led = cluster(Some(("b", OTHER)), Some(("b", &["a", "c"], 1)));
    let mut story = Story::new(Mode::Quorum, led, standby(100, Some("b")));
    let request = |round| PromiseRequest {
        reply: round,
        leader: name("b"),
        lease: Some(OTHER),
        ttl: Millis::seconds(10),
        round,
    };
    story.on(Event::PromiseAsked(request(2)));
    story.on(Event::PromiseWithdrawn {
        lease: OTHER,
        round: 1,
    });
    story.on(Event::PromiseWithdrawn {
        lease: LeaseId(999),
        round: 9,
    });
    let gone = Cluster {
        revision: Revision(20),
        ..cluster(None, Some(("b", &["a", "c"], 1)))
    };
    story.on(Event::Dcs {
        cluster: gone,
        linearizable: true,
    });
    assert_eq!(story.reason(), Reason::Promised);
    story.on(Event::PromiseWithdrawn {
        lease: OTHER,
        round: 2,
    });
    assert_eq!(story.reason(), Reason::Race);
}

#[test]
fn a_lapsed_lease_is_renewed_only_when_etcd_is_known_to_answer() {
    let led = cluster(Some((ME, LEASE)), None);
    let mut story = Story::new(Mode::Async, led.clone(), primary(Names::Nobody));
    story.on(Event::DcsLost);
    for _ in 0..5 {
        story.later(2_000);
        story.on(Event::LeaseUnanswered);
        story.later(300);
        story.effects.clear();
        story.on(Event::Tick);
    }
    assert!(
        story
            .effects
            .iter()
            .all(|effect| !matches!(effect, Effect::KeepAlive(_) | Effect::GrantLease(_))),
        "{:?}",
        story.effects
    );
    story.effects.clear();
    story.on(Event::DcsLost);
    story.later(300);
    story.on(Event::Tick);
    assert!(
        story.effects.contains(&Effect::ReadDcs),
        "it keeps trying to read"
    );
    story.effects.clear();
    story.on(Event::Dcs {
        cluster: led,
        linearizable: true,
    });
    assert!(
        story.effects.contains(&Effect::KeepAlive(LEASE)),
        "{:?}",
        story.effects
    );
    // Answers that take longer than the lease lasts keep a key alive whose owner can never write.
    story.effects.clear();
    story.later(9_500);
    story.on(Event::LeaseKept {
        id: LEASE,
        sent: story.now - Millis(9_500),
    });
    assert_eq!(story.node.lease(), None);
    assert!(
        story
            .effects
            .contains(&Effect::GrantLease(Millis::seconds(10)))
    );
}

#[test]
fn a_changed_ttl_moves_the_leader_key_to_a_new_lease_without_a_gap() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let led = cluster(Some((ME, LEASE)), sync);
    let mut story = Story::new(Mode::Quorum, led.clone(), primary(any_of(&["b", "c"])));
    let mut shorter = settings(Mode::Quorum);
    shorter.failover.ttl = Millis::seconds(5);
    shorter.failover.loop_wait = Millis::seconds(1);
    shorter.failover.retry_timeout = Millis::seconds(2);
    story.effects.clear();
    story.on(Event::Settings(shorter));
    assert!(
        story
            .effects
            .contains(&Effect::GrantLease(Millis::seconds(5))),
        "{:?}",
        story.effects
    );
    let next = LeaseId(101);
    story.on(Event::LeaseGranted {
        id: next,
        granted: Millis::seconds(5),
        sent: story.now,
    });
    let armed = |effect: &Effect| matches!(effect, Effect::Fence(Some(by)) if *by == story.now + Millis(4_500));
    assert!(story.effects.iter().any(armed), "before the key moves");
    let (step, action) = story.step().unwrap();
    assert_eq!(action, Action::MoveLeader(next));
    assert_eq!(
        story.node.lease().unwrap().id,
        LEASE,
        "until then the old lease counts"
    );
    // The watch is faster than the answer.
    let moved = Cluster {
        revision: Revision(30),
        leader: Some(LeaderKey {
            lease: next,
            ..led.leader.clone().unwrap()
        }),
        ..led
    };
    story.on(Event::Dcs {
        cluster: moved,
        linearizable: false,
    });
    assert_eq!(
        (story.node.lease().unwrap().id, story.node.former_lease()),
        (next, Some(LEASE))
    );
    story.done(step, Outcome::Written(Revision(30)));
    assert_eq!(story.reason(), Reason::Leading);
    assert!(
        !story
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::Perform(_, Action::Stop(_)))),
        "it leads all the while"
    );
}
