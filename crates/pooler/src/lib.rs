//! `mrg-pooler`: PID 1 beside PgBouncer. Performs what [`mrg_pool_core`] says, follows etcd, never
//! asks the Kubernetes API.

mod bouncer;
mod config;
mod http;
mod probe;
mod register;
mod run;

pub use config::{Error as ConfigError, PoolerConfig};
pub use run::run;
