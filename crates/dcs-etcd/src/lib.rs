//! The distributed configuration store on etcd: the only crate that knows the etcd client.

mod etcd;
mod failure;
mod health_log;
mod membership;
mod progress;
mod transaction;
mod watch;

pub use etcd::{Connection, Etcd};
pub use health_log::HealthLog;
pub use membership::{EtcdMember, Membership};
pub use progress::Mark;
pub use watch::{WatchCommand, WatchEvent, watch};
