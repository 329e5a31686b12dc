//! What every crate shares: positions in the WAL, moments, names. No clock, no I/O.

mod address;
mod duration;
mod hex;
mod lsn;
mod mutex;
mod name;
mod role;
mod time;

pub use address::{Address, InvalidAddress};
pub use duration::{Duration, InvalidDuration};
pub use hex::hex;
pub use lsn::{InvalidLsn, Lsn, Position, Timeline};
pub use mutex::lock;
pub use name::{InvalidName, MemberName, Scope};
pub use role::{AGENT_PASSWORDS, AgentRoles, UnusableName, check_databases, check_owner};
pub use time::{Millis, Moment};

/// Parameters that a standby must not set lower than its primary has them (PostgreSQL's manual,
/// "Hot Standby").
pub const FLOORED_PARAMETERS: &[&str] = &[
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];
