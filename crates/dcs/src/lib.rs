//! The distributed configuration store: etcd, with the keys and the JSON that Patroni writes
//! (Patroni 4.1, `patroni/dcs/`).
//!
//! Knows nothing of postgres or Kubernetes. A write whose outcome is not known is told apart from
//! one that failed ([`Error::is_ambiguous`]).

mod config;
mod keys;
pub mod poolers;
pub mod wire;

pub use config::{DynamicConfig, InvalidConfig, settings, without_key};
pub use keys::Keys;
