//! Where the connections of a pool may go, and when its clients wait. Pure, like the election:
//! events in, effects out.
//!
//! A *write pool* follows the leader key and lets nobody through whose server is not confirmed
//! ([`Writes`]). A *read pool* spreads over the standbys that keep up ([`Reads`]). Both say what
//! they want as one [`Setting`]; the shell brings PgBouncer there.

mod read_pool;
mod view;
mod why;
mod write_pool;

pub use read_pool::{Fallback, MaxLag, ReadEvent, Reads};
pub use view::{Address, Finding, Gate, Leader, Member, PauseRequest, Seen, Setting};
pub use why::Why;
pub use write_pool::{Effect, Event, Rewired, Writes};
