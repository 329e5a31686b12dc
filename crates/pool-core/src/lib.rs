//! Where the connections of a pool may go, and when its clients wait. Pure, like the election:
//! events in, effects out.
//!
//! A *write pool* follows the leader key and admits clients only to a confirmed server
//! ([`WritePool`]). A *read pool* spreads over the standbys that keep up ([`ReadPool`]). Both are a
//! [`PoolCore`] and want one [`PoolTarget`]; the shell brings PgBouncer there.

mod pool;
mod read_pool;
mod reason;
mod view;
mod write_pool;

pub use pool::{Effect, Event, PoolCore, Retargeted, Servers};
pub use read_pool::{Fallback, MaxLag, ReadPool};
pub use reason::Reason;
pub use view::{Address, Admission, Finding, Leader, Member, PauseRequest, PoolTarget, Snapshot};
pub use write_pool::WritePool;
