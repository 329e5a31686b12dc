//! One PostgreSQL server: its files, its configuration, a session with it. Knows nothing of etcd,
//! of the election or of Kubernetes, but speaks in the election's terms.

mod configuration;
mod control_file;
mod session;
mod slots;
mod wal_files;

pub use configuration::{
    Authentication, BASE_FILE_INCLUDE, Configuration, ConnectTo, Credentials, RESERVED_PARAMETERS,
    conninfo, floors, quote_identifier, quote_literal,
};
pub use control_file::{ControlFile, DataState, InvalidControlFile, look_at};
pub use session::{Error, Look, Replica, ReplicationRow, Server, Session, SessionSettings};
pub use wal_files::{fork_of, timeline_at};
