//! mrg-operator keeps the MRG ride-hailing platform alive when its parts fail. The map, in reading order:

#![forbid(unsafe_code)]

/// `mrg-agent`: performs what the election decides.
#[cfg(feature = "full")]
pub mod agent;
/// The Kubernetes API: the kinds of this operator.
#[cfg(feature = "full")]
pub mod api;
/// Words that every module shares: WAL positions, moments, names. Pure.
pub mod base;
/// How much of the platform goes with a part that fails. Pure.
pub mod blast;
/// Circuit breakers as gobreaker's, retry budgets, the order of providers. Pure.
pub mod breaker;
/// What the analysis says of ten services and what they run on, as data. Pure.
pub mod catalog;
/// `kubectl mrg`: what people ask and do at a terminal.
#[cfg(feature = "full")]
pub mod cli;
/// A clock that never steps and counts suspension.
#[cfg(feature = "full")]
pub mod clock;
/// The Kubernetes API server: apply, the operator's lease.
#[cfg(feature = "full")]
pub mod cluster;
/// `mrg-operator`: reconciles.
#[cfg(feature = "full")]
pub mod controllers;
/// etcd, with Patroni's keys.
#[cfg(feature = "full")]
pub mod dcs;
/// The election: who may write, when, and why. Pure.
pub mod ha;
/// `mrg-orders`: what became of an order, from the cheapest place that knows.
#[cfg(feature = "full")]
pub mod orders;
/// One PgBouncer process: files, console, anchors.
#[cfg(feature = "full")]
pub mod pgbouncer;
/// What calls to dependencies may cost, and what happens when they fail. Pure.
pub mod policy;
/// `mrg-pooler`: performs what [`ha::pool`] says.
#[cfg(feature = "full")]
pub mod pooler;
/// One PostgreSQL server: files, configuration, session.
#[cfg(feature = "full")]
pub mod postgres;
/// `mrg-proxy`: makes a workload's calls as [`policy`] says.
#[cfg(feature = "full")]
pub mod proxy;
/// Logs.
#[cfg(feature = "full")]
pub mod telemetry;
