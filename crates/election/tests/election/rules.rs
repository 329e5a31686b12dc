//! The rules that must hold to the letter.

use std::collections::BTreeSet;

use mrg_base::{Lsn, Moment, Position, Timeline};
use mrg_election::sync::{Names, Stored};
use mrg_election::{
    Action, Cluster, DataDirectory, Effect, Event, Fork, Initialize, LeaseId, Mode, Outcome,
    Postgres, Reason, Revision, Standby, StopMode, Vote, WalReceiver,
};

use crate::story::*;

#[test]
fn a_candidate_stops_its_wal_receiver_before_it_asks_anybody() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(None, Some(("b", &["a", "c"], 1))),
        standby(100, Some("b")),
    );
    assert_eq!(story.reason(), Reason::Race);
    assert_eq!(story.step().unwrap().1, Action::StopReceiver);
}

#[test]
fn a_voter_stops_its_wal_receiver_before_it_answers() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(None, Some(("b", &["c"], 0))),
        standby(100, Some("b")),
    );
    assert_eq!(story.reason(), Reason::NotInSync);
    story.on(Event::VoteAsked { reply: 1 });
    assert_eq!(story.perform(Outcome::At(at(90))), Action::StopReceiver);
    let answer = story
        .effects
        .iter()
        .find(|effect| matches!(effect, Effect::AnswerVote(..)));
    assert_eq!(answer, Some(&Effect::AnswerVote(1, Ok((at(90), None)))));
}

#[test]
fn the_winner_takes_the_key_then_sync_then_the_names_and_only_then_promotes() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(None, Some(("b", &["a", "c"], 1))),
        standby(100, Some("b")),
    );
    story.race(100, vec![vote("c", 100)]);
    assert_eq!(story.reason(), Reason::Win);
    let armed = story
        .effects
        .iter()
        .position(|effect| matches!(effect, Effect::Fence(Some(_))));
    let acquired = story
        .effects
        .iter()
        .position(|effect| matches!(effect, Effect::Perform(_, Action::AcquireLeader)));
    assert!(
        armed.unwrap() < acquired.unwrap(),
        "the fence is armed before the leader transaction"
    );
    assert_eq!(
        story.perform(Outcome::Written(Revision(11))),
        Action::AcquireLeader
    );
    let alone = Stored::only(name(ME));
    assert_eq!(
        story.perform(Outcome::Written(Revision(12))),
        Action::WriteSync {
            expected: Some(Revision(7)),
            stored: alone
        }
    );
    assert_eq!(
        story.perform(Outcome::At(at(100))),
        Action::SetSyncNames(any_of(&["b", "c"]))
    );
    assert_eq!(story.step().unwrap().1, Action::Promote);
}

#[test]
fn a_stale_compare_and_set_of_sync_ends_the_promotion_and_the_truth_is_read() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(None, Some(("b", &["a", "c"], 1))),
        standby(100, Some("b")),
    );
    story.race(100, vec![vote("c", 100)]);
    story.perform(Outcome::Written(Revision(11)));
    story.perform(Outcome::Refused("changed".to_owned()));
    assert!(story.effects.contains(&Effect::ReadDcs));
    story.later(60_000);
    story.effects.clear();
    story.on(Event::Tick);
    let promoted = story
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::Perform(_, Action::Promote)));
    assert!(!promoted, "nothing is decided before the read");
}

#[test]
fn a_lease_that_ends_on_the_way_stops_the_promotion() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(None, Some(("b", &["a", "c"], 1))),
        standby(100, Some("b")),
    );
    story.race(100, vec![vote("c", 100)]);
    story.perform(Outcome::Written(Revision(11)));
    story.perform(Outcome::Written(Revision(12)));
    let (step, action) = story.step().unwrap();
    assert!(matches!(action, Action::SetSyncNames(_)));
    story.later(9_000);
    story.done(step, Outcome::At(at(100)));
    story.expect_no_step();
}

#[test]
fn in_quorum_mode_too_few_votes_promote_nobody() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(None, Some(("b", &["a", "c"], 1))),
        standby(100, Some("b")),
    );
    story.race(100, vec![]);
    assert_eq!(story.reason(), Reason::TooFewVotes);
    story.expect_no_step();
}

#[test]
fn a_voter_that_is_ahead_is_never_passed_over_even_if_it_would_not_lead() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(None, Some(("b", &["a", "c"], 1))),
        standby(100, Some("b")),
    );
    story.race(
        100,
        vec![Vote {
            candidate: None,
            ..vote("c", 101)
        }],
    );
    assert_eq!(story.reason(), Reason::Outrun);
}

#[test]
fn an_equal_that_would_not_lead_does_not_hold_up_the_election() {
    // The leader that handed over ranks first by name and waits for the others: it must not block
    // them (seen in the lab).
    let mut request = cluster(None, Some(("b", &["a", "c"], 1)));
    request.members.insert(name("0"), member(LeaseId(9), false));
    let mut story = Story::new(Mode::Quorum, request, standby(100, Some("b")));
    story.race(
        100,
        vec![
            vote("c", 100),
            Vote {
                candidate: None,
                ..vote("0", 100)
            },
        ],
    );
    assert_eq!(story.reason(), Reason::Win);
}

#[test]
fn a_member_outside_sync_does_not_stand() {
    for mode in [Mode::Sync, Mode::Quorum] {
        let mut story = Story::new(
            mode,
            cluster(None, Some(("b", &["c"], 0))),
            standby(100, Some("b")),
        );
        assert_eq!(story.reason(), Reason::NotInSync);
        story.expect_no_step();
    }
}

#[test]
fn without_a_sync_key_nobody_promotes_in_a_synchronous_mode() {
    let mut story = Story::new(Mode::Sync, cluster(None, None), standby(100, Some("b")));
    assert_eq!(story.reason(), Reason::SyncStateMissing);
    story.expect_no_step();
}

#[test]
fn no_member_of_a_cluster_that_follows_another_one_becomes_a_second_primary() {
    let settings = |mut story: Story| {
        let mut settings = *story.node.view(story.now).settings;
        settings.standby_cluster = true;
        story.on(Event::Settings(settings));
        story
    };
    let led = cluster(Some(("b", OTHER)), Some(("b", &["a", "c"], 1)));
    let mut orphan = settings(Story::new(Mode::Quorum, led, standby(100, Some("b"))));
    orphan.on(Event::Dcs {
        cluster: cluster(None, Some(("b", &["a", "c"], 1))),
        linearizable: true,
    });
    orphan.look(standby(100, None));
    orphan.expect_no_step();
    assert_eq!(orphan.reason(), Reason::StandbyCluster);
    let other_makes_it = Cluster {
        initialize: Some(Initialize::InProgress(OTHER)),
        ..crate::found_bootstrap::virgin()
    };
    let mut new = settings(Story::new(Mode::Quorum, other_makes_it, Postgres::NoData));
    new.on(Event::Dcs {
        cluster: crate::found_bootstrap::virgin(),
        linearizable: true,
    });
    new.expect_no_step();
    assert_eq!(new.reason(), Reason::StandbyCluster);
    let led = cluster(Some((ME, LEASE)), Some((ME, &["b", "c"], 1)));
    let leader = Story::new(Mode::Quorum, led, primary(any_of(&["b", "c"])));
    assert_eq!(settings(leader).reason(), Reason::Leading, "it goes on");
}

#[test]
fn a_member_that_no_leader_would_have_asked_does_not_race() {
    let mut gone = cluster(None, Some(("b", &["a", "c"], 1)));
    gone.failsafe = Some(listed(&["b", "c"]));
    let mut story = Story::new(Mode::Quorum, gone.clone(), standby(100, Some("b")));
    assert_eq!(story.reason(), Reason::NotInFailsafe);
    story.expect_no_step();
    gone.failsafe = None;
    assert_eq!(
        Story::new(Mode::Quorum, gone, standby(100, Some("b"))).reason(),
        Reason::Race
    );
}

#[test]
fn in_sync_mode_the_first_names_are_of_members_that_answered_the_race() {
    let gone = cluster(None, Some(("b", &["a"], 0)));
    let mut story = Story::new(Mode::Sync, gone, standby(100, Some("b")));
    story.race(100, vec![vote("c", 100)]);
    assert_eq!(
        story.perform(Outcome::Written(Revision(20))),
        Action::AcquireLeader
    );
    assert!(matches!(
        story.perform(Outcome::Written(Revision(21))),
        Action::WriteSync { .. }
    ));
    // b, the former leader, has its key still.
    assert_eq!(
        story.step().unwrap().1,
        Action::SetSyncNames(Names::First {
            count: 1,
            members: [name("c")].into()
        })
    );
}

#[test]
fn a_crash_releases_the_key_when_a_synchronous_standby_streamed_and_three_times_at_most() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let led = cluster(Some((ME, LEASE)), sync);
    let data = DataDirectory {
        system_id: 42,
        timeline: Timeline(1),
        checkpoint: Lsn(90),
        was_primary: true,
        clean: false,
        unfinished: false,
    };
    let mut story = Story::new(Mode::Quorum, led.clone(), primary(any_of(&["b", "c"])));
    let mut revision = 20;
    for crash in 1..=4 {
        story.effects.clear();
        story.on(Event::PostmasterGone);
        story.look(Postgres::Stopped(data));
        let (step, action) = story.step().unwrap();
        if crash == 4 {
            assert!(
                matches!(action, Action::Start(_)),
                "after three releases in ten minutes it recovers in place"
            );
            return;
        }
        assert_eq!(action, Action::ReleaseLeader, "crash {crash}");
        story.done(step, Outcome::Written(Revision(revision)));
        // It wins again at once.
        revision += 5;
        let (step, _) = story.step().unwrap();
        story.done(step, Outcome::Done);
        story.on(Event::Dcs {
            cluster: Cluster {
                revision: Revision(revision),
                ..led.clone()
            },
            linearizable: true,
        });
        story.look(primary(any_of(&["b", "c"])));
        story.later(1_000);
        story.on(Event::LeaseKept {
            id: LEASE,
            sent: story.now,
        });
    }
}

#[test]
fn a_name_that_another_process_holds_keeps_the_data_untouched() {
    let mut led = cluster(Some(("b", OTHER)), None);
    led.members.insert(name(ME), member(LeaseId(31), false));
    let mut story = Story::new(Mode::Async, led, Postgres::NoData);
    assert_eq!(story.reason(), Reason::NameTaken);
    story.expect_no_step();
}

#[test]
fn data_of_another_cluster_is_left_alone() {
    let data = DataDirectory {
        system_id: 7,
        timeline: Timeline(1),
        checkpoint: Lsn(90),
        was_primary: false,
        clean: true,
        unfinished: false,
    };
    let mut story = Story::new(
        Mode::Async,
        cluster(Some(("b", OTHER)), None),
        Postgres::Stopped(data),
    );
    assert_eq!(story.reason(), Reason::WrongSystem);
    story.expect_no_step();
}

fn broken(flushed: u64, since: Moment) -> Postgres {
    let receiver = WalReceiver::Broken(since);
    Postgres::Standby(Standby {
        system_id: 42,
        position: Some(at(flushed)),
        upstream: Some(name("b")),
        receiver,
        fork: None,
    })
}

#[test]
fn a_standby_beyond_the_end_of_its_timeline_is_rewound_at_once_whatever_its_receiver_says() {
    // The receiver streams up to the end of the old timeline, ends, and begins again, ten times a
    // second: it looks alive.
    let mut led = cluster(Some(("b", OTHER)), Some(("b", &["c"], 0)));
    if let Some(member) = led.members.get_mut(&name("b")) {
        member.position = Some(Position {
            timeline: Timeline(2),
            flushed: Lsn(1_000),
        });
    }
    let beyond = |flushed: u64| {
        let fork = Some(Fork {
            by: Timeline(2),
            at: Lsn(890),
        });
        let position = Some(Position {
            timeline: Timeline(1),
            flushed: Lsn(flushed),
        });
        Postgres::Standby(Standby {
            system_id: 42,
            position,
            upstream: Some(name("b")),
            receiver: WalReceiver::Streaming,
            fork,
        })
    };
    let mut story = Story::new(Mode::Quorum, led.clone(), beyond(900));
    assert_eq!(story.reason(), Reason::Diverged);
    assert_eq!(
        story.perform(Outcome::Done),
        Action::ConfirmLeader(name("b"))
    );
    let mut story = Story::new(Mode::Quorum, led, beyond(890));
    assert_eq!(story.reason(), Reason::Following);
    story.expect_no_step();
}

#[test]
fn a_standby_keeps_everything_for_a_leader_that_only_its_key_speaks_for() {
    // The leader is dead, its key lives on for the rest of a long ttl, and what it last said of its
    // position is older than what we have.
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some(("b", OTHER)), Some(("b", &["a", "c"], 1))),
        standby(900, Some("b")),
    );
    let since = story.now;
    story.later(8_500);
    story.on(Event::LeaseKept {
        id: LEASE,
        sent: story.now,
    });
    story.look(broken(900, since));
    assert_eq!(
        story.perform(Outcome::Failed("connection refused".into())),
        Action::ConfirmLeader(name("b"))
    );
    // Nothing was stopped, rewound or removed, and nothing keeps it from the race once the key is
    // gone.
    story.on(Event::Dcs {
        cluster: Cluster {
            revision: Revision(20),
            ..cluster(None, Some(("b", &["a", "c"], 1)))
        },
        linearizable: true,
    });
    assert_eq!(
        story.step().map(|(_, action)| action),
        Some(Action::StopReceiver)
    );
}

#[test]
fn a_standby_of_another_history_than_a_living_leaders_is_rewound() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some(("b", OTHER)), Some(("b", &["c"], 0))),
        standby(900, Some("b")),
    );
    let since = story.now;
    story.later(8_500);
    story.on(Event::LeaseKept {
        id: LEASE,
        sent: story.now,
    });
    story.look(broken(900, since));
    assert_eq!(
        story.perform(Outcome::Done),
        Action::ConfirmLeader(name("b"))
    );
    assert_eq!(story.perform(Outcome::Done), Action::Stop(StopMode::Fast));
    assert_eq!(
        story.step().map(|(_, action)| action),
        Some(Action::Rewind(name("b")))
    );
}

#[test]
fn a_voters_data_is_not_removed_to_make_room_for_a_copy() {
    for (voters, removes) in [(&["a", "c"][..], false), (&["c"][..], true)] {
        let mut story = Story::new(
            Mode::Quorum,
            cluster(Some(("b", OTHER)), Some(("b", voters, 1))),
            Postgres::NoData,
        );
        assert_eq!(
            story.perform(Outcome::NoSpace("full".into())),
            Action::BaseBackup(name("b"))
        );
        story.later(1_000);
        story.look(Postgres::NoData);
        let mut steps = vec![story.perform(Outcome::Done), story.perform(Outcome::Done)];
        if removes {
            steps.push(story.perform(Outcome::Done));
            assert_eq!(
                steps[..2],
                [Action::ConfirmLeader(name("b")), Action::RemoveData]
            );
        }
        assert!(steps.contains(&Action::BaseBackup(name("b"))), "{steps:?}");
    }
}

#[test]
fn an_old_snapshot_of_the_dcs_is_ignored() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, LEASE)), sync),
        primary(any_of(&["b", "c"])),
    );
    story.step();
    let old = Cluster {
        revision: Revision(9),
        ..cluster(Some(("b", OTHER)), sync)
    };
    story.on(Event::Dcs {
        cluster: old,
        linearizable: false,
    });
    story.expect_no_step();
    assert_eq!(story.reason(), Reason::Leading);
}

#[test]
fn every_rule_has_a_reason_of_its_own_sentence() {
    let sentences: BTreeSet<&str> = mrg_election::RULES
        .iter()
        .map(|rule| rule.reason.sentence())
        .collect();
    let reasons: BTreeSet<Reason> = mrg_election::RULES.iter().map(|rule| rule.reason).collect();
    assert_eq!(sentences.len(), reasons.len());
}
