//! The distributed configuration store on etcd: the only crate that knows the etcd client.

mod etcd;
mod membership;
mod progress;
mod transaction;
mod watch;

pub use etcd::{Connection, Etcd};
pub use membership::{EtcdMember, Membership};
pub use progress::Mark;
pub use watch::{WatchCommand, WatchEvent, watch};
