//! The controllers: one folder a kind, one file a step. They write intents and objects; they never
//! choose a primary.

pub mod order_service_set;
pub mod pgbouncer_pool;
pub mod postgres_cluster;
pub mod service_resilience;
