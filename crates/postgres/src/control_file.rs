//! `global/pg_control`, read directly: no process to start, and it works while the server is down.
//!
//! Only the fields before the first one whose offset differs between PostgreSQL 13 and 18 are used
//! (`src/include/catalog/pg_control.h`, `ControlFileData` and `CheckPoint`).

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::path::Path;

use mrg_base::{Lsn, Timeline};
use mrg_election::DataDirectory;

/// How the names of the agent's own entries in a directory begin. They are not PostgreSQL's, and do
/// not outlast what they are for.
pub const OWN_ENTRY: &str = ".mrg-";
/// Names of a directory's entries that a message shows.
const NAMES_SHOWN: usize = 3;
/// The end of the last field that is used.
const HEADER: usize = 56;

/// The content of a control file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// `pg_control_version`, e.g. 1300 for PostgreSQL 13 to 16 and 1700 for 17.
    pub version: u32,
    /// The part that the election needs. `unfinished` is false: the file does not tell.
    pub data: DataDirectory,
}

/// The bytes are no control file of a supported PostgreSQL.
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

/// What a data directory contains, by its control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataState {
    /// No directory, or an empty one (a volume's `lost+found` and the agent's own entries apart).
    Absent,
    /// No control file, but something else, by the names of some of it: a database cluster that lost
    /// its control file, or files that have nothing to do with one.
    Foreign(String),
    /// A database cluster.
    Present(ControlFile),
    /// A control file that cannot be read or understood, and why. The directory is left alone.
    Unreadable(String),
}

impl DataState {
    /// Reads the control file of a data directory. Reliable only while no server runs on it.
    pub fn read(data_directory: &Path) -> Self {
        match std::fs::read(data_directory.join("global/pg_control")) {
            Ok(bytes) => ControlFile::parse(&bytes)
                .map_or_else(|error| Self::Unreadable(error.to_string()), Self::Present),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                Self::without_control_file(data_directory)
            }
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }

    fn without_control_file(data_directory: &Path) -> Self {
        let entries = match std::fs::read_dir(data_directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Self::Absent,
            Err(error) => return Self::Unreadable(error.to_string()),
        };
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name != "lost+found" && !name.starts_with(OWN_ENTRY))
            .collect();
        names.sort();
        let more = names.len().saturating_sub(NAMES_SHOWN);
        names.truncate(NAMES_SHOWN);
        match (names.is_empty(), more) {
            (true, _) => Self::Absent,
            (false, 0) => Self::Foreign(names.join(", ")),
            (false, more) => Self::Foreign(format!("{} and {more} more", names.join(", "))),
        }
    }
}

impl ControlFile {
    /// Parses the bytes of a control file, in the byte order of this machine.
    ///
    /// # Errors
    /// If they are no control file of PostgreSQL 13 to 18.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidControlFile> {
        let header = bytes
            .first_chunk::<HEADER>()
            .ok_or(InvalidControlFile::Short(bytes.len()))?;
        let version = u32::from_ne_bytes(field::<8, 4>(header));
        if !(1300..1900).contains(&version) {
            return Err(InvalidControlFile::Version(version));
        }
        // DBState: 0 startup, 1 shut down, 2 shut down in recovery, 3 shutting down, 4 crash
        // recovery, 5 archive recovery, 6 in production.
        let (was_primary, clean) = match u32::from_ne_bytes(field::<16, 4>(header)) {
            1 => (true, true),
            2 => (false, true),
            5 => (false, false),
            0 | 3 | 4 | 6 => (true, false),
            other => return Err(InvalidControlFile::State(other)),
        };
        let data = DataDirectory {
            unfinished: false,
            system_id: u64::from_ne_bytes(field::<0, 8>(header)),
            timeline: Timeline(u32::from_ne_bytes(field::<48, 4>(header))),
            checkpoint: Lsn(u64::from_ne_bytes(field::<32, 8>(header))),
            was_primary,
            clean,
        };
        Ok(Self { version, data })
    }
}

/// The `N` bytes at an offset. That they lie in the header is checked when this is compiled.
fn field<const AT: usize, const N: usize>(header: &[u8; HEADER]) -> [u8; N] {
    const { assert!(AT + N <= HEADER) };
    std::array::from_fn(|index| header.get(AT + index).copied().unwrap_or_default())
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
    fn only_an_absent_or_empty_directory_is_no_data() {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        assert_eq!(DataState::read(&data), DataState::Absent);
        std::fs::create_dir_all(data.join("lost+found")).unwrap();
        std::fs::create_dir_all(data.join(".mrg-new")).unwrap();
        assert_eq!(DataState::read(&data), DataState::Absent);
        for name in ["PG_VERSION", "base", "dump.sql", "global", "pg_wal"] {
            std::fs::write(data.join(name), "").unwrap();
        }
        assert_eq!(
            DataState::read(&data),
            DataState::Foreign("PG_VERSION, base, dump.sql and 2 more".to_owned())
        );
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(DataState::read(&file), DataState::Unreadable(_)));
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
