//! Bugs that the simulator found, each as the shortest story that shows it.

use mrg_base::{Lsn, Millis, Position, Timeline};
use mrg_election::sync::{Names, Stored};
use mrg_election::{
    Action, Cluster, DataDirectory, Effect, Event, Initialize, LeaderKey, LeaseId, Mode, Outcome,
    Postgres, Revision, Standby, StartAs, StopMode, SwitchoverRequest, Why,
};

use crate::story::*;

fn at_rest(was_primary: bool) -> DataDirectory {
    DataDirectory {
        system_id: 42,
        timeline: Timeline(1),
        checkpoint: Lsn(100),
        was_primary,
        clean: false,
        unfinished: false,
    }
}

/// Nothing that only a finished cluster writes, and nobody with data.
fn virgin() -> Cluster {
    let mut virgin = Cluster {
        optime: None,
        failsafe: None,
        ..cluster(None, None)
    };
    for member in virgin.members.values_mut() {
        member.running = false;
        member.position = None;
    }
    virgin
}

/// The leader's postgres dies, and etcd goes away while the key is let go: from then on nothing
/// gives the right to write.
fn expect_release_while_etcd_goes_away(story: &mut Story) {
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
    // It stops its receiver anew and says what it has now.
    let answered = |story: &Story| {
        story.effects.iter().any(|effect| matches!(effect, Effect::AnswerVote(1, Ok((position, _))) if *position == at(100)))
    };
    assert!(!answered(&story), "{:?}", story.effects);
}

#[test]
fn a_claim_whose_answer_was_lost_is_ones_own() {
    let claimed = |lease| Cluster {
        initialize: Some(Initialize::InProgress(lease)),
        ..virgin()
    };
    let mut story = Story::new(Mode::Quorum, claimed(LEASE), Postgres::NoData);
    assert_eq!(
        (story.why(), story.step().map(|(_, action)| action)),
        (Why::Bootstrap, Some(Action::InitDb))
    );
    let mut story = Story::new(Mode::Quorum, claimed(OTHER), Postgres::NoData);
    assert_eq!(story.why(), Why::BootstrapElsewhere);
    story.expect_no_step();
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
fn a_cluster_that_is_still_being_made_is_not_copied() {
    let led = |initialize| Cluster {
        initialize,
        ..cluster(Some(("b", OTHER)), Some(("b", &[], 0)))
    };
    let mut story = Story::new(
        Mode::Quorum,
        led(Some(Initialize::InProgress(OTHER))),
        Postgres::NoData,
    );
    story.expect_no_step();
    let mut story = Story::new(
        Mode::Quorum,
        led(Some(Initialize::Done(42))),
        Postgres::NoData,
    );
    assert!(matches!(story.step(), Some((_, Action::BaseBackup(_)))));
}

#[test]
fn what_is_left_of_a_cluster_that_never_was_is_removed_and_nothing_else_is() {
    let left = Postgres::Stopped(DataDirectory {
        unfinished: true,
        ..at_rest(true)
    });
    let with = |initialize, traces: bool| Cluster {
        initialize,
        optime: traces.then_some(Lsn(7)),
        ..virgin()
    };
    for (initialize, traces, removed) in [
        (None, false, true),
        (Some(Initialize::Done(7)), true, true),
        (Some(Initialize::Done(42)), false, false),
        // Somebody deleted the key: it was a cluster.
        (None, true, false),
    ] {
        let mut story = Story::new(Mode::Async, with(initialize, traces), left.clone());
        let step = story.step().map(|(_, action)| action);
        assert_eq!(
            step == Some(Action::RemoveData),
            removed,
            "{initialize:?} {traces}: {step:?}"
        );
    }
}

#[test]
fn no_new_cluster_is_made_over_the_traces_of_one() {
    let mut story = Story::new(
        Mode::Quorum,
        Cluster {
            initialize: None,
            ..cluster(None, Some(("b", &["c"], 0)))
        },
        Postgres::NoData,
    );
    assert_eq!(story.why(), Why::InitializeMissing);
    story.expect_no_step();
    let mut story = Story::new(
        Mode::Quorum,
        Cluster {
            initialize: None,
            ..virgin()
        },
        Postgres::NoData,
    );
    assert_eq!(
        story.step().map(|(_, action)| action),
        Some(Action::ClaimInitialize)
    );
}

#[test]
fn a_member_that_saw_a_cluster_makes_no_other_when_every_key_is_gone() {
    let mut story = Story::new(
        Mode::Quorum,
        Cluster {
            initialize: Some(Initialize::Done(42)),
            ..virgin()
        },
        Postgres::NoData,
    );
    story.expect_no_step();
    story.on(Event::Dcs {
        cluster: Cluster {
            initialize: None,
            revision: Revision(12),
            ..virgin()
        },
        linearizable: true,
    });
    assert_eq!(story.why(), Why::InitializeMissing);
    story.expect_no_step();
}

#[test]
fn a_candidate_with_too_few_votes_does_not_hold_up_one_that_needs_none() {
    let mut story = Story::new(
        Mode::Quorum,
        cluster(None, Some(("b", &["a", "c"], 1))),
        standby(100, Some("b")),
    );
    story.race(100, vec![]);
    assert_eq!(story.why(), Why::TooFewVotes);
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
    assert_eq!(story.why(), Why::CrashedRestart);
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
    // Whoever reserved it may be the only one to know whether it was begun.
    let of = |member: &str| Cluster {
        timeline: Some(Timeline(2)),
        timeline_of: Some(name(member)),
        ..cluster(None, None)
    };
    assert_eq!(
        Story::new(Mode::Async, of("c"), standby(100, Some("b"))).why(),
        Why::OldTimeline
    );
    assert_eq!(
        Story::new(Mode::Async, of(ME), standby(100, Some("b"))).why(),
        Why::Race
    );
}

#[test]
fn a_member_that_no_leader_would_ask_does_not_race_when_failsafe_is_turned_off_either() {
    let mut unlisted = cluster(None, Some(("b", &["a", "c"], 1)));
    unlisted.failsafe = Some(listed(&["b", "c"]));
    let mut story = Story::new(Mode::Quorum, unlisted, standby(100, Some("b")));
    assert_eq!(story.why(), Why::NotInFailsafe);
    let mut off = settings(Mode::Quorum);
    off.failover.failsafe = false;
    story.on(Event::Settings(off));
    assert_eq!(story.why(), Why::NotInFailsafe);
    story.expect_no_step();
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
    assert_eq!(story.why(), Why::Switchover);
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
    assert_eq!(story.why(), Why::SwitchoverRefused);
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
    assert_eq!(story.why(), Why::FinishPromotion);
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
    assert!(resumed, "{:?}", story.why());
}

#[test]
fn data_of_another_cluster_does_not_lead_because_initialize_was_deleted() {
    let sync = Some(("b", &["a", "c"][..], 0));
    let foreign = Postgres::Stopped(DataDirectory {
        system_id: 7,
        ..at_rest(false)
    });
    let mut story = Story::new(Mode::Quorum, cluster(Some(("b", OTHER)), sync), foreign);
    assert_eq!(story.why(), Why::WrongSystem);
    story.on(Event::Dcs {
        cluster: Cluster {
            initialize: None,
            revision: Revision(12),
            ..cluster(None, sync)
        },
        linearizable: true,
    });
    assert_eq!(story.why(), Why::WrongSystem);
    story.expect_no_step();
    story.look(Postgres::Stopped(at_rest(false)));
    assert_eq!(story.why(), Why::StartToRace);
}

#[test]
fn a_leader_that_let_the_key_go_does_not_lead_on_by_promises() {
    let sync = Some(("a", &["b", "c"][..], 1));
    let mut story = Story::new(
        Mode::Quorum,
        cluster(Some((ME, LEASE)), sync),
        primary(any_of(&["b", "c"])),
    );
    story.effects.clear();
    story.on(Event::LeaseUnanswered);
    let round = story.effects.iter().find_map(|effect| match effect {
        Effect::AskPromises { round, .. } => Some(*round),
        _ => None,
    });
    story.on(Event::Promises {
        round: round.expect("promises are asked for"),
        asked: story.now,
        all: true,
    });
    assert!(story.node.view(story.now).holds_promises());
    expect_release_while_etcd_goes_away(&mut story);
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

/// A leader whose keepalive went unanswered has everybody's promise; then a third member comes.
fn newcomer_while_promises_count() -> Story {
    let few = Cluster {
        failsafe: Some(listed(&["a", "b"])),
        ..cluster(Some((ME, LEASE)), None)
    };
    let mut story = Story::new(Mode::Async, without_c(few.clone()), primary(Names::Nobody));
    story.effects.clear();
    story.on(Event::LeaseUnanswered);
    let asked = story.effects.iter().find_map(|effect| match effect {
        Effect::AskPromises { round, members, .. } => Some((*round, members.clone())),
        _ => None,
    });
    let (round, members) = asked.expect("promises are asked for");
    assert_eq!(members, [name("b")]);
    story.on(Event::Promises {
        round,
        asked: story.now,
        all: true,
    });
    story.effects.clear();
    story.on(Event::Dcs {
        cluster: Cluster {
            revision: Revision(13),
            ..few
        },
        linearizable: true,
    });
    story
}

fn without_c(mut cluster: Cluster) -> Cluster {
    cluster.members.remove(&name("c"));
    cluster
}

fn lists(story: &Story) -> Option<Vec<String>> {
    story.effects.iter().find_map(|effect| match effect {
        Effect::WriteFailsafe {
            members: Some(members),
            ..
        } => Some(members.iter().map(ToString::to_string).collect()),
        _ => None,
    })
}

#[test]
fn nobody_is_listed_as_one_that_may_race_while_the_promises_of_others_count() {
    let mut story = newcomer_while_promises_count();
    assert_eq!(lists(&story), None);
    // Once the lease holds again, promises do not count any more, and the newcomer is listed.
    story.on(Event::LeaseKept {
        id: LEASE,
        sent: story.now,
    });
    assert_eq!(lists(&story).expect("the list is written"), ["a", "b", "c"]);
}

#[test]
fn whom_a_write_may_have_listed_is_asked_for_a_promise_though_it_is_away_again() {
    let few = Cluster {
        failsafe: Some(listed(&["a", "b"])),
        ..cluster(Some((ME, LEASE)), None)
    };
    let mut story = Story::new(Mode::Async, few.clone(), primary(Names::Nobody));
    assert_eq!(
        lists(&story).expect("the newcomer is listed"),
        ["a", "b", "c"]
    );
    story.on(Event::Dcs {
        cluster: without_c(Cluster {
            revision: Revision(13),
            ..few
        }),
        linearizable: true,
    });
    story.on(Event::FailsafeWritten(None));
    story.effects.clear();
    story.on(Event::LeaseUnanswered);
    let asked = story.effects.iter().any(|effect| matches!(effect, Effect::AskPromises { members, .. } if members.contains(&name("c"))));
    assert!(asked, "{:?}", story.effects);
}

#[test]
fn a_leader_that_has_not_read_the_list_since_it_leads_does_not_count_on_promises() {
    let mut story = Story::new(Mode::Async, cluster(None, None), standby(100, None));
    story.race(100, vec![vote("b", 100), vote("c", 100)]);
    assert_eq!(
        story.perform(Outcome::Written(Revision(11))),
        Action::AcquireLeader
    );
    story.look(primary(Names::Nobody));
    story.effects.clear();
    story.on(Event::LeaseUnanswered);
    assert!(
        !story
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::AskPromises { .. })),
        "{:?}",
        story.effects
    );
}

#[test]
fn a_member_that_is_away_stays_listed_for_a_minute() {
    let led = cluster(Some((ME, LEASE)), None);
    let mut story = Story::new(Mode::Async, without_c(led.clone()), primary(Names::Nobody));
    assert_eq!(lists(&story), None);
    for seconds in 1..=61 {
        story.later(1_000);
        story.on(Event::LeaseKept {
            id: LEASE,
            sent: story.now,
        });
        assert_eq!(lists(&story).is_some(), seconds >= 60, "after {seconds} s");
    }
    assert_eq!(lists(&story).expect("the list is written"), ["a", "b"]);
    story.on(Event::FailsafeWritten(Some(Revision(14))));
    story.effects.clear();
    let (failsafe, revision) = (Some(listed(&["a", "b"])), Revision(14));
    story.on(Event::Dcs {
        cluster: without_c(Cluster {
            failsafe,
            revision,
            ..led
        }),
        linearizable: false,
    });
    assert_eq!(lists(&story), None);
}

#[test]
fn data_that_nobody_has_said_to_be_of_this_cluster_does_not_lead_while_initialize_is_missing() {
    let forgotten = Cluster {
        initialize: None,
        ..cluster(None, None)
    };
    let mut story = Story::new(
        Mode::Async,
        forgotten.clone(),
        Postgres::Stopped(at_rest(false)),
    );
    assert_eq!(story.why(), Why::SystemUnknown);
    story.expect_no_step();
    // Somebody does what the message says, or a record beside the data has said so before.
    story.on(Event::Dcs {
        cluster: Cluster {
            revision: Revision(12),
            ..cluster(None, None)
        },
        linearizable: true,
    });
    assert_eq!(story.why(), Why::StartToRace);
    let mut story = Story::new(Mode::Async, forgotten.clone(), Postgres::Unknown);
    story.node.remember_system(42);
    story.look(Postgres::Stopped(at_rest(false)));
    assert_eq!(story.why(), Why::StartToRace);
    // An existing server may become a new cluster: nothing tells of another.
    let story = Story::new(
        Mode::Async,
        Cluster {
            initialize: None,
            ..virgin()
        },
        Postgres::Stopped(at_rest(false)),
    );
    assert_eq!(story.why(), Why::StartToRace);
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
fn data_of_another_cluster_has_no_vote_and_is_not_started_while_etcd_is_away() {
    let leaderless = cluster(None, Some(("b", &["a", "c"], 1)));
    let Postgres::Standby(ours) = standby(100, None) else {
        unreachable!()
    };
    let mut story = Story::new(
        Mode::Quorum,
        leaderless.clone(),
        Postgres::Standby(Standby {
            system_id: 7,
            ..ours
        }),
    );
    story.on(Event::DcsLost);
    story.effects.clear();
    story.on(Event::VoteAsked { reply: 1 });
    let refused = story
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::AnswerVote(1, Err(_))));
    assert!(refused, "{:?}", story.effects);
    let foreign = Postgres::Stopped(DataDirectory {
        system_id: 7,
        ..at_rest(false)
    });
    let mut story = Story::new(Mode::Quorum, leaderless, Postgres::Unknown);
    story.on(Event::DcsLost);
    story.look(foreign);
    story.expect_no_step();
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

#[test]
fn a_member_that_the_configuration_names_no_more_leaves_the_list_as_soon_as_it_is_away() {
    let scaled_down = |names: &[&str]| Cluster {
        revision: Revision(13),
        expected: Some(names.iter().map(|member| name(member)).collect()),
        ..cluster(Some((ME, LEASE)), None)
    };
    let mut story = Story::new(
        Mode::Async,
        scaled_down(&["a", "b"]),
        primary(Names::Nobody),
    );
    assert_eq!(lists(&story), None, "it is still there, and may race");
    story.on(Event::Dcs {
        cluster: without_c(scaled_down(&["a", "b"])),
        linearizable: true,
    });
    assert_eq!(lists(&story).expect("the list is written"), ["a", "b"]);
    // One that restarts stays a candidate.
    let mut story = Story::new(
        Mode::Async,
        scaled_down(&["a", "b", "c"]),
        primary(Names::Nobody),
    );
    story.on(Event::Dcs {
        cluster: without_c(scaled_down(&["a", "b", "c"])),
        linearizable: true,
    });
    assert_eq!(lists(&story), None);
}
