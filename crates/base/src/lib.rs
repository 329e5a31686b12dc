//! What every crate shares: positions in the WAL, moments, names. No clock, no I/O.

mod address;
mod duration;
mod hex;
mod lsn;
mod mutex;
mod name;
mod parameter;
mod role;
mod time;

pub use address::{Address, InvalidAddress};
pub use duration::{Duration, InvalidDuration};
pub use hex::hex;
pub use lsn::{InvalidLsn, Lsn, Position, Timeline};
pub use mutex::lock;
pub use name::{InvalidName, MemberName, Scope};
pub use parameter::{FLOORED_PARAMETERS, InvalidParameterName, ParameterName};
pub use role::{AGENT_PASSWORDS, AgentRoles, UnusableName, check_databases, check_owner};
pub use time::{Millis, Moment};
