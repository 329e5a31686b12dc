//! `global/pg_control`, read directly: no process to start, and it works while the server is down.
//!
//! Only the fields before the first one whose place differs between PostgreSQL 13 and 18 are used
//! (`src/include/catalog/pg_control.h`, `ControlFileData` and `CheckPoint`).

use std::path::Path;

use mrg_base::{Lsn, Timeline};
use mrg_election::DataDirectory;

/// What a control file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// `pg_control_version`, e.g. 1300 for PostgreSQL 13 to 16 and 1700 for 17.
    pub version: u32,
    /// The part the election needs.
    pub data: DataDirectory,
}

/// The bytes are no control file of a PostgreSQL that is known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidControlFile {
    /// Too few bytes.
    #[error("pg_control has {0} bytes, less than its header")]
    Short(usize),
    /// Another major version, or garbage.
    #[error("pg_control has version {0}; PostgreSQL 13 to 18 have 1300 to 1899")]
    Version(u32),
    /// A state that no version has.
    #[error("pg_control is in state {0}, which no PostgreSQL writes")]
    State(u32),
}

/// What stands in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataState {
    /// No control file: nothing was made here, or it was destroyed.
    Absent,
    /// A cluster.
    Present(ControlFile),
    /// A control file that cannot be read or understood; nothing is done to it.
    Unreadable(String),
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

impl ControlFile {
    /// Reads the bytes of a control file.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidControlFile> {
        if bytes.len() < 56 {
            return Err(InvalidControlFile::Short(bytes.len()));
        }
        let version = u32::from_ne_bytes(number(bytes, 8));
        if !(1300..1900).contains(&version) {
            return Err(InvalidControlFile::Version(version));
        }
        // DBState: 0 startup, 1 shut down, 2 shut down in recovery, 3 shutting down, 4 crash
        // recovery, 5 archive recovery, 6 in production.
        let state = u32::from_ne_bytes(number(bytes, 16));
        let (was_primary, clean) = match state {
            1 => (true, true),
            2 => (false, true),
            5 => (false, false),
            0 | 3 | 4 | 6 => (true, false),
            other => return Err(InvalidControlFile::State(other)),
        };
        let data = DataDirectory {
            unfinished: false,
            system_id: u64::from_ne_bytes(number(bytes, 0)),
            timeline: Timeline(u32::from_ne_bytes(number(bytes, 48))),
            checkpoint: Lsn(u64::from_ne_bytes(number(bytes, 32))),
            was_primary,
            clean,
        };
        Ok(Self { version, data })
    }
}

/// Looks at a data directory at rest.
pub fn look_at(data_directory: &Path) -> DataState {
    match std::fs::read(data_directory.join("global/pg_control")) {
        Ok(bytes) => ControlFile::parse(&bytes).map_or_else(
            |error| DataState::Unreadable(error.to_string()),
            DataState::Present,
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => DataState::Absent,
        Err(error) => DataState::Unreadable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(version: u32, state: u32) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        bytes[0..8].copy_from_slice(&42u64.to_ne_bytes());
        bytes[8..12].copy_from_slice(&version.to_ne_bytes());
        bytes[16..20].copy_from_slice(&state.to_ne_bytes());
        bytes[32..40].copy_from_slice(&0x300_0028u64.to_ne_bytes());
        bytes[48..52].copy_from_slice(&7u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_primary_that_was_shut_down_is_known_as_one() {
        let control = ControlFile::parse(&bytes(1700, 1)).unwrap();
        assert!(control.data.was_primary && control.data.clean);
        assert_eq!(
            (
                control.data.system_id,
                control.data.timeline,
                control.data.checkpoint
            ),
            (42, Timeline(7), Lsn(0x300_0028))
        );
        let crashed = ControlFile::parse(&bytes(1300, 6)).unwrap();
        assert!(crashed.data.was_primary && !crashed.data.clean);
        assert!(
            !ControlFile::parse(&bytes(1300, 5))
                .unwrap()
                .data
                .was_primary
        );
    }

    #[test]
    fn what_is_no_control_file_is_refused() {
        assert_eq!(
            ControlFile::parse(b"short"),
            Err(InvalidControlFile::Short(5))
        );
        assert!(matches!(
            ControlFile::parse(&[0xFF; 8192]),
            Err(InvalidControlFile::Version(_))
        ));
        assert_eq!(
            ControlFile::parse(&bytes(1700, 9)),
            Err(InvalidControlFile::State(9))
        );
    }
}
