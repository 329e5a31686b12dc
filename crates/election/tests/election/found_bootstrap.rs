//! Bugs that the simulator found in making clusters and in telling their data apart, each as the
//! shortest trace that shows it.

use crate::found::at_rest;
use mrg_base::Lsn;
use mrg_election::{
    Action, Cluster, DataDirectory, Effect, Event, Initialize, Mode, Postgres, Reason, Revision,
    Standby,
};

use crate::story::*;

/// Nothing that only a finished cluster writes, and nobody with data.
pub(crate) fn virgin() -> Cluster {
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

#[test]
fn a_claim_whose_answer_was_lost_is_ones_own() {
    let claimed = |lease| Cluster {
        initialize: Some(Initialize::InProgress(lease)),
        ..virgin()
    };
    let mut story = Story::new(Mode::Quorum, claimed(LEASE), Postgres::NoData);
    assert_eq!(
        (story.reason(), story.step().map(|(_, action)| action)),
        (Reason::Bootstrap, Some(Action::InitDb))
    );
    let mut story = Story::new(Mode::Quorum, claimed(OTHER), Postgres::NoData);
    assert_eq!(story.reason(), Reason::BootstrapElsewhere);
    story.expect_no_step();
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
    assert_eq!(story.reason(), Reason::InitializeMissing);
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
    assert_eq!(story.reason(), Reason::InitializeMissing);
    story.expect_no_step();
}

#[test]
fn data_of_another_cluster_does_not_lead_because_initialize_was_deleted() {
    let sync = Some(("b", &["a", "c"][..], 0));
    let foreign = Postgres::Stopped(DataDirectory {
        system_id: 7,
        ..at_rest(false)
    });
    let mut story = Story::new(Mode::Quorum, cluster(Some(("b", OTHER)), sync), foreign);
    assert_eq!(story.reason(), Reason::WrongSystem);
    story.on(Event::Dcs {
        cluster: Cluster {
            initialize: None,
            revision: Revision(12),
            ..cluster(None, sync)
        },
        linearizable: true,
    });
    assert_eq!(story.reason(), Reason::WrongSystem);
    story.expect_no_step();
    story.look(Postgres::Stopped(at_rest(false)));
    assert_eq!(story.reason(), Reason::StartToRace);
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
    assert_eq!(story.reason(), Reason::SystemUnknown);
    story.expect_no_step();
    // Somebody does what the message says, or a record beside the data has said so before.
    story.on(Event::Dcs {
        cluster: Cluster {
            revision: Revision(12),
            ..cluster(None, None)
        },
        linearizable: true,
    });
    assert_eq!(story.reason(), Reason::StartToRace);
    let mut story = Story::new(Mode::Async, forgotten.clone(), Postgres::Unknown);
    story.node.remember_system(42);
    story.look(Postgres::Stopped(at_rest(false)));
    assert_eq!(story.reason(), Reason::StartToRace);
    // An existing server may become a new cluster: nothing tells of another.
    let story = Story::new(
        Mode::Async,
        Cluster {
            initialize: None,
            ..virgin()
        },
        Postgres::Stopped(at_rest(false)),
    );
    assert_eq!(story.reason(), Reason::StartToRace);
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
