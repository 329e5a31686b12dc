//! The election: who may write, when, and why. Pure: no clock, no randomness, no I/O.
//!
//! [`decide`] holds the rules; [`Node`] holds what has to be remembered between two decisions (the
//! lease, the running job, promises) and turns decisions into effects. Shells perform effects and
//! report back with events; the agent is one shell, the tests are others.
//!
//! Invariants, asserted in release after every event (`Node::check_invariants`):
//! - a step that lets postgres write is only emitted while the leader key's lease or all members'
//!   promises hold (or, after a reset of the DCS, the lease of the key in the DCS as it was), and
//!   with the fence armed;
//! - in the synchronous modes only a member of `/sync` (or its leader) acquires the leader key to
//!   be promoted, with the votes that `/sync` asks for, and only the leader that `/sync` names is
//!   promoted;
//! - in the synchronous modes what is written to `/sync` and to `synchronous_standby_names` never
//!   permits a promotion that could miss an acknowledged commit ([`sync::is_safe`]).

#![deny(clippy::disallowed_types, clippy::disallowed_methods)]

mod action;
mod event;
mod hand_over;
mod lease;
mod lease_keeper;
#[cfg_attr(not(feature = "proof"), allow(unused_imports))]
pub mod mutant;
mod node;
pub mod pool_pause;
mod promise_rounds;
pub mod publisher;
mod reason;
mod rules;
mod settings;
pub mod sync;
mod view;
pub mod watch_order;

pub use action::{Action, Outcome, StartAs, StopMode, Vote};
pub use lease::{Lease, LeaseId, Promise, fence_margin};

pub use hand_over::{HandOver, HandOverEvent};

pub use event::{Effect, Event, PreviousIncarnation, PromiseRequest, StepId, VoteRefusal};
pub use node::{Node, ReinitializeObjection};
pub use reason::Reason;
pub use rules::{Decision, Part, RULES, Rule, decide, has_traces};
pub use settings::{Failover, InvalidSettings, Mode, OnCrash, Replication, Settings, TTL_MOST};
pub use view::{
    Cluster, DataDirectory, DcsReset, DcsView, Failsafe, Fork, InDoubt, Initialize, LeaderKey,
    Member, Memory, Poll, Postgres, Primary, Race, Revision, Silence, Standby, Stored,
    SwitchoverRequest, View, WalReceiver, WalSender,
};
