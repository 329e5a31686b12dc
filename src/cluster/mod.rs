//! The Kubernetes API server, as far as every controller needs it: server-side apply of manifests, the operator's own lease.

mod applied;
mod apply;
mod lease;

pub use applied::Applied;
pub use apply::{Error, FIELD_MANAGER, Manifest, apply, delete, live};
pub use lease::{Election, hold};
