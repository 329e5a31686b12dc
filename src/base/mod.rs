//! Words that every module shares: positions in the WAL, moments, names. No clock, no I/O.

mod lsn;
mod name;
mod time;

pub use lsn::{InvalidLsn, Lsn, Position, Timeline};
pub use name::{InvalidName, MemberName, Scope};
pub use time::{Millis, Moment};
