//! Bugs that the simulator found in promises and in `failsafe`, each as the shortest trace that
//! shows it.

use crate::found::expect_release_while_etcd_goes_away;
use crate::story::*;
use mrg_election::sync::Names;
use mrg_election::{Action, Cluster, Effect, Event, Mode, Outcome, Reason, Revision};

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

#[test]
fn a_member_that_no_leader_would_ask_does_not_race_when_failsafe_is_turned_off_either() {
    let mut unlisted = cluster(None, Some(("b", &["a", "c"], 1)));
    unlisted.failsafe = Some(listed(&["b", "c"]));
    let mut story = Story::new(Mode::Quorum, unlisted, standby(100, Some("b")));
    assert_eq!(story.reason(), Reason::NotInFailsafe);
    let mut off = settings(Mode::Quorum);
    off.failover.failsafe = false;
    story.on(Event::Settings(off));
    assert_eq!(story.reason(), Reason::NotInFailsafe);
    story.expect_no_step();
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
