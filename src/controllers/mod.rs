//! The controllers: one folder a kind, one file a step. They write intents and objects; they never choose a primary.

pub mod postgres_cluster;
