//! The distributed configuration store: etcd, with the keys and the JSON that Patroni writes (Patroni 4.1, `patroni/dcs/`).
//!
//! Knows nothing of postgres or Kubernetes. A write whose outcome is not known is told apart from one that failed
//! ([`Error::is_ambiguous`]).

mod config;
mod etcd;
mod keys;
mod membership;
pub mod poolers;
mod watch;
pub mod wire;

pub use config::{DynamicConfig, InvalidConfig, settings, without_key};
pub use etcd::{Connection, Error, Etcd, Granted};
pub use keys::Keys;
pub use membership::EtcdMember;
pub use watch::{Snapshot, WatchCommand, WatchEvent, watch};
