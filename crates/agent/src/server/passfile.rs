//! The file from which libpq takes the passwords of the agent's roles: in the server's WAL receiver,
//! in `pg_basebackup` and in `pg_rewind`.

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use crate::credentials::Role;
use crate::server::{Error, Server};
use mrg_postgres::{passfile, write_private};
use mrg_telemetry::chain;

impl Server {
    /// Makes the passfile say what it should, and gives its path. libpq reads it at every login, so
    /// a running server needs no reload.
    pub(super) fn write_passfile(&self) -> Result<String, Error> {
        let path = self.config.passfile();
        let text = passfile(&self.credentials.in_use());
        if !says(&path, &text) {
            self.private_directory()?;
            write_private(&path, &text).map_err(Error::file(path.display()))?;
        }
        Ok(path.to_string_lossy().into_owned())
    }

    /// As [`Server::write_passfile`], after a change: what is under way goes on with what it has read.
    pub(crate) fn refresh_passfile(&self) {
        if let Err(error) = self.write_passfile() {
            tracing::warn!(error = chain(&error), "failed to write the passfile");
        }
    }

    /// A program that logs in as this role failed, perhaps for its password: while that changes, the
    /// other one is tried next.
    pub(super) fn note_failed_login(&self, role: Role) {
        if self.credentials.note_failed(role) {
            self.refresh_passfile();
        }
    }

    /// Makes the directory of the passfile, for the agent's user alone, if it is not there.
    pub(super) fn private_directory(&self) -> Result<(), Error> {
        let path = self.config.passfile();
        let directory = path.parent().unwrap_or(Path::new("."));
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(Error::file(directory.display()))
    }
}

/// Whether a file says exactly this, to its owner alone. libpq ignores one that others may read.
fn says(path: &Path, text: &str) -> bool {
    let private = std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o777 == 0o600);
    private && std::fs::read_to_string(path).is_ok_and(|there| there == text)
}
