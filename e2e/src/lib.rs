//! The tests on a real Kubernetes: what they share. `e2e/lab/lab` raises three nodes on this
//! machine, `e2e/run` deploys the operator there and starts the tests, which are in `tests/lab/`,
//! one file a behaviour.
//!
//! A test gets a [`Namespace`] of its own, creates its own [`Cluster`] there, and returns an error
//! if it does not find what it expects; [`eventually`] waits for a condition and says what it last
//! saw. The [`runner`] deletes the namespace afterwards, and if the test failed keeps the logs of
//! its pods and prints their last lines.

#![cfg(feature = "kubernetes")]

mod clients;
mod cluster;
mod junit;
mod lab;
mod namespace;
mod pods;
mod pool;
pub mod runner;
mod wait;

pub use clients::{Crowd, Transactions, Writer, Writes};
pub use cluster::{Cluster, small_cluster};
pub use lab::{Cut, Cutoff, Lab, NoControlPlane, Stopped};
pub use namespace::Namespace;
pub use pool::{Pool, small_pool};
pub use runner::{Share, Test};
pub use wait::{eventually, seconds};
