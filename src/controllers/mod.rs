//! The controllers: one folder a kind, one file a step. They write intents and objects; they never choose a primary.

mod conditions;
mod followers;
pub mod metrics;
mod news;
pub mod order_service_set;
pub mod page;
pub mod pgbouncer_pool;
pub mod postgres_cluster;
mod quantity;
mod reconciler;
mod seen;
pub mod service_resilience;
mod shared;
pub mod webhook;

pub use shared::{Shared, cache};
