//! A leader that cannot serve does not lead.

use crate::story::*;
use mrg_election::{Action, Event, Mode, Outcome, Postgres, Reason, Revision, Settings};

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
