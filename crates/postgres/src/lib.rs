//! One PostgreSQL server: its files, its configuration, a session with it. Without knowledge of
//! etcd, of the election or of Kubernetes, but in the election's terms.

mod configuration;
mod control_file;
mod hba;
mod probe;
mod processes;
mod scram_only;
mod session;
mod slots;
mod wal_files;

pub use configuration::{
    Authentication, BASE_FILE, Configuration, Credentials, RESERVED_PARAMETERS, base_file,
    conninfo, minimum_standby_settings, quote_identifier, quote_literal, quote_setting,
    user_hba_lines,
};
pub use control_file::{ControlFile, DataState, InvalidControlFile};
pub use hba::{HbaSource, InvalidHbaLine, check_hba_line};
pub use probe::{Probe, Replica, ReplicationRow, ServerFacts};
pub use processes::{is_past_return, server_in};
pub use scram_only::{NotScram, ScramOnly};
pub use session::{Error, Session, SessionSettings};
pub use wal_files::{fork_of, timeline_at};
