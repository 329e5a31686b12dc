//! A model of two and three members around the production [`Node`], explored by stateright: time,
//! crashes, a cut-off member, lost answers and a person who asks for a switchover come in every
//! order. Steps, news and votes may be late by any time, so a member may stand still at any point.
//!
//! What is left out, against the simulator: one etcd that never fails, no losses but those that are
//! asked for, no disk, one copy of each message.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends with the first surprise"
)]

mod explored;
mod world;

use mrg_base::Millis;
use mrg_election::Mode;
use stateright::{Checker, Model};

use explored::Members;
use world::Budget;

/// So many states of two members at most, and of three two and a half times as many;
/// `MRG_MODEL_STATES` for more.
fn states(count: usize) -> usize {
    let wanted = std::env::var("MRG_MODEL_STATES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000);
    if count == 2 { wanted } else { wanted * 5 / 2 }
}

fn explore(model: Members, reachable: &[&str]) {
    let title = format!(
        "{} members, {:?}, {:?}",
        model.count, model.mode, model.budget
    );
    let (began, states) = (std::time::Instant::now(), states(model.count));
    let checker = model
        .checker()
        .threads(2)
        .target_state_count(states)
        .spawn_bfs()
        .join();
    let reached: Vec<&str> = checker.discoveries().into_keys().collect();
    println!(
        "{title}: {} different states{}, depth {}, in {:.0?}; reached: {reached:?}",
        checker.unique_state_count(),
        if checker.is_done() { "" } else { " of more" },
        checker.max_depth(),
        began.elapsed()
    );
    for wanted in reachable {
        assert!(reached.contains(wanted), "not reached: {wanted}");
    }
    checker.assert_no_discovery("one writer at most");
    checker.assert_no_discovery("a writer has every acknowledged commit");
}

const NOTHING: Budget = Budget {
    kills: 0,
    cuts: 0,
    lost: 0,
    writes: 0,
    switches: 0,
};

#[test]
fn two_members_that_crash() {
    explore(
        Members {
            count: 2,
            mode: Mode::Sync,
            budget: Budget {
                kills: 1,
                lost: 1,
                writes: 1,
                ..NOTHING
            },
            horizon: Millis::seconds(8),
        },
        &["another takes over"],
    );
}

#[test]
fn two_members_one_of_which_is_cut_off() {
    explore(
        Members {
            count: 2,
            mode: Mode::Quorum,
            budget: Budget {
                cuts: 1,
                writes: 1,
                ..NOTHING
            },
            horizon: Millis::seconds(9),
        },
        &[
            "another takes over",
            "a commit of the new leader is acknowledged",
        ],
    );
}

#[test]
fn three_members_that_crash() {
    explore(
        Members {
            count: 3,
            mode: Mode::Quorum,
            budget: Budget {
                kills: 1,
                writes: 1,
                ..NOTHING
            },
            horizon: Millis::seconds(5),
        },
        &["another takes over"],
    );
}

#[test]
fn three_members_and_a_switchover() {
    explore(
        Members {
            count: 3,
            mode: Mode::Quorum,
            budget: Budget {
                switches: 1,
                writes: 1,
                lost: 1,
                ..NOTHING
            },
            horizon: Millis::seconds(4),
        },
        &["a switchover comes to its end"],
    );
}
