//! PID 1 of a PostgreSQL pod, or a service on any host: performs what [`mrg_election::Node`]
//! decides. Never imports the Kubernetes API.

mod config;
mod context;
mod credentials;
mod dcs_record;
pub mod etcd_member;
pub mod fence;
mod housekeeping;
mod incarnation;
mod obstacle;
mod passwords;
mod peers;
mod perform;
mod poolers;
mod promise;
mod receipt;
mod reload;
mod rest;
mod roles;
mod run;
mod server;

pub use config::{
    AgentConfig, Error as ConfigError, Finding, Key as PatroniKey, Place as PatroniPlace, Refusal,
    Support,
};
pub use peers::{FailsafeRequest, VoteAnswer, Withdrawal};
pub use rest::RestBody;
pub use run::run;
