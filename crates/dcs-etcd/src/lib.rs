//! The distributed configuration store on etcd: the only crate that knows the etcd client.

mod etcd;
mod membership;
mod watch;

pub use etcd::{Connection, Error, Etcd, Granted};
pub use membership::EtcdMember;
pub use watch::{Snapshot, WatchCommand, WatchEvent, watch};
