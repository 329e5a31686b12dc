//! One PostgreSQL server: its files, its configuration, a session with it. Without knowledge of
//! etcd, of the election or of Kubernetes, but in the election's terms.

mod configuration;
mod control_file;
mod credentials;
mod hba;
mod private_file;
mod probe;
mod processes;
mod scram_only;
mod session;
mod slots;
mod verifier;
mod wal_files;

pub use configuration::{
    BASE_FILE, Configuration, RESERVED_PARAMETERS, base_file, minimum_standby_settings,
    quote_identifier, quote_literal, quote_setting, user_hba_lines,
};
pub use control_file::{ControlFile, DataState, InvalidControlFile, OWN_ENTRY};
pub use credentials::{Authentication, Credentials, conninfo, fits_passfile, passfile};
pub use hba::{HbaSource, InvalidHbaLine, check_hba_line};
pub use private_file::write_private;
pub use probe::{Probe, Replica, ReplicationRow, ServerFacts};
pub use processes::{is_past_return, server_in};
pub use scram_only::{NotScram, ScramOnly};
pub use session::{Error, Session, SessionSettings};
pub use verifier::{accepts, is_scram, verifier};
pub use wal_files::{fork_of, timeline_at};
