//! One PgBouncer process: its files, its admin console, and the connection that keeps its pools
//! patient. Knows nothing of etcd, of leaders or of Kubernetes. Written against PgBouncer 1.21 to
//! 1.25.

mod anchor;
mod configuration;
mod console;

pub use anchor::{Anchor, AnchorServer};
pub use configuration::{
    ADMINISTRATOR, Configuration, Database, Login, Pass, RESERVED_SETTINGS, is_known_setting,
    is_one_line,
};
pub use console::{Console, Error, Paused, Pools};
