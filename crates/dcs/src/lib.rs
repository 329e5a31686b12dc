//! The distributed configuration store of one cluster: etcd, with the keys and the JSON that Patroni
//! writes (Patroni 4.1, `patroni/dcs/`).
//!
//! [`Store`] has one method for each operation, [`Transaction`] says on which condition it is done,
//! [`Writer`] which of them performs an action of the election, and [`ClusterSnapshot`] is what the
//! keys say as of one revision. Knows nothing of postgres or
//! Kubernetes, and no client of etcd: `mrg-dcs-etcd` is the store, `memory` a model of it. A write
//! whose outcome is not known is told apart from one that failed ([`Attempt`]).

mod config;
pub mod health;
mod history;
mod keys;
mod member;
#[cfg(any(test, feature = "memory"))]
pub mod memory;
pub mod poolers;
mod snapshot;
mod store;
pub mod tags;
mod transaction;
mod value;
pub mod wire;
mod words;
mod writer;

pub use config::{DynamicConfig, InvalidConfig, settings};
pub use keys::{Key, Keys, NAMESPACE};
pub use snapshot::{ClusterSnapshot, Intent, Pause, Poolers, Section, Versioned};
pub use store::{Attempt, Cause, Error, Granted, Store, Writing};
pub use transaction::{Branch, Compare, Transaction, Write};
pub use value::Value;
pub use words::{MemberRole, MemberState, PoolerReason, ReplicationState};
pub use writer::{Untried, Writer};
