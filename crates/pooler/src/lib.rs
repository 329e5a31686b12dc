//! `mrg-pooler`: PID 1 beside PgBouncer. Performs what [`mrg_pool_core`] decides, follows etcd, and
//! never calls the Kubernetes API.

mod answer;
mod bouncer;
mod config;
mod http;
mod monitor;
mod probe;
mod processes;
mod publish;
mod register;
mod run;
mod secret;

pub use config::{Error as ConfigError, PoolerConfig};
pub use probe::read_answer;
pub use run::run;
