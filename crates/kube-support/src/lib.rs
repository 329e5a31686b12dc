//! The Kubernetes API server, as far as every controller needs it: server-side apply of manifests,
//! the operator's own lease.

mod applied;
mod apply;
mod cache;
mod lease;
mod mirror;
mod reported;
mod secrets;
mod status;

pub use applied::{Applied, MANAGED};
pub use apply::{Error, FIELD_MANAGER, Manifest, apply, delete_if_unchanged, live, take_as};
pub use cache::Cache;
pub use lease::{Election, hold};
pub use reported::Reported;
pub use secrets::{Reader, Secrets};
pub use status::write_status;
