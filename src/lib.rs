//! The operator: reconciles the kinds of `mrg.bluebird.id`, admits their objects, and shows a
//! dashboard. It writes intents and objects; it never chooses a primary.

/// The admission webhook: injects sidecars and checks what spans objects.
pub mod admission;
mod answers;
mod checksum;
mod conditions;
/// The dashboard that stays open on a screen.
pub mod dashboard;
mod followers;
/// One folder a kind, one file a step.
pub mod kinds;
/// Metrics of the objects, for Prometheus.
pub mod metrics;
mod news;
mod password;
mod quantity;
mod reconciler;
mod seen;
mod shared;

pub use shared::{Shared, cache};
