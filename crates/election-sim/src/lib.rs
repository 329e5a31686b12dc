//! A deterministic simulator that hunts for lost writes. It drives the same [`mrg_election::Node`]
//! and [`mrg_pool_core::WritePool`] that production runs, through days that a seed makes up: crashes,
//! partitions, pauses, slow disks, a silent etcd, and people who ask for things at the worst
//! moment.
//!
//! A day has a safety phase, in which things go wrong and nothing may be lost; then everything is
//! mended, and within a bounded time the cluster must be whole by itself. The same seed gives the
//! same day. docs/proof.md says what the model knows of the world and what it does not.

#![allow(
    clippy::needless_pass_by_value,
    reason = "handlers own the events that happen to them"
)]

mod agent;
mod clients;
mod etcd;
mod event;
mod faults;
mod fence;
mod happen;
mod judge;
mod known_config;
mod local;
mod messages;
mod network;
mod pauses;
mod people;
mod pooler;
mod postgres;
mod probes;
mod publish;
mod questions;
mod random;
mod reduce;
mod schedule;
mod server;
mod sick;
mod steps;
mod streaming;
mod votes;
mod wal;
mod watch;
mod whole;
mod world;

use std::collections::BTreeSet;

pub use reduce::reduce;
pub use schedule::{Delays, Fault, Schedule};

use mrg_election::Reason;
use world::World;

/// How a day went.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was wrong, if anything was.
    pub violation: Option<String>,
    /// How often another member became the primary.
    pub failovers: u64,
    /// Commits that clients heard of.
    pub acknowledged: u64,
    /// How often poolers turned their clients to a server.
    pub rewires: u64,
    /// Things that happened.
    pub events: u64,
    /// How long the day was, in simulated milliseconds.
    pub lasted: u64,
    /// From the mending to the whole cluster, in simulated milliseconds.
    pub recovered_in: u64,
    /// Reasons that members gave.
    pub reached: BTreeSet<Reason>,
    /// What happened, line by line, if it was to be told.
    pub story: Vec<(u64, String)>,
}

/// Events between two checks whether the day is over.
const EVENTS_PER_CHECK: u64 = 32;

/// Lives through a day.
pub fn run(schedule: &Schedule, tell: bool) -> Report {
    let mut world = World::new(schedule.clone(), tell);
    let mut count = 0;
    while world.advance() {
        count += 1;
        if (world.judge.violation().is_some() || count % EVENTS_PER_CHECK == 0) && world.is_over() {
            break;
        }
    }
    let story = world.take_story();
    Report {
        violation: world.judge.violation().map(str::to_owned),
        failovers: world.judge.failovers,
        acknowledged: world.judge.acknowledged,
        rewires: world.judge.rewires,
        events: world.judge.events,
        lasted: world.now,
        recovered_in: world
            .now
            .saturating_sub(world.judge.healed_at.unwrap_or(world.now)),
        reached: world.judge.reached,
        story,
    }
}
