//! Where a data directory comes from: initialized, copied from another member, or rewound to its
//! history. Marks beside the directory say what is not finished.

use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};

use crate::config::AgentConfig;
use crate::credentials::Role;
use crate::incarnation::write_durably;
use crate::server::{Error, Server, programs};
use mrg_base::MemberName;
use mrg_postgres::{DataState, conninfo, server_in, write_private};
use mrg_telemetry::chain;

/// The cluster that the data is of, for a start while the `initialize` key is missing.
#[derive(Serialize, Deserialize)]
struct SystemRecord {
    scope: String,
    system_id: u64,
}

impl Server {
    /// Initializes a new data directory, whole or not at all. It is marked as unfinished until the
    /// cluster has stored its system identifier.
    pub(crate) async fn init_db(&self) -> Result<(), Error> {
        let fresh = self.fresh_directory()?;
        let mut arguments = initdb_arguments(&self.config, &fresh);
        let password_file = self.config.passfile().with_extension("initdb");
        let password = self.credentials.wanted().superuser.password;
        if !password.is_empty() {
            self.private_directory()?;
            write_private(&password_file, &password).map_err(Error::file("the password file"))?;
            arguments.push(format!("--pwfile={}", password_file.display()));
        }
        let initialized = self.run_program("initdb", arguments).await;
        let _ = std::fs::remove_file(&password_file);
        initialized?;
        let mark = self.unfinished_mark();
        write_durably(&mark, b"").map_err(Error::file(mark.display()))?;
        self.install(&fresh)
    }

    async fn run_program(&self, program: &str, arguments: Vec<String>) -> Result<(), Error> {
        programs::run(&self.config, &self.fence, program, arguments).await
    }

    fn unfinished_mark(&self) -> PathBuf {
        self.config.beside_data(".unfinished")
    }

    /// Whether the data directory was initialized here for a cluster that is not known to have
    /// stored its system identifier.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished_mark().exists()
    }

    /// Takes note of the cluster's system identifier. If the local data has it, the data is finished
    /// and recorded to be of this cluster.
    pub(crate) fn note_system(&self, system_id: u64) {
        self.cluster_system.change(|known| *known = Some(system_id));
        let recorded = self.recorded.read(|recorded| *recorded == Some(system_id));
        if recorded && !self.is_unfinished() || !self.is_of(system_id) {
            return;
        }
        let record = SystemRecord {
            scope: self.config.scope.to_string(),
            system_id,
        };
        let written = write_durably(
            &self.config.system_file(),
            mrg_dcs::wire::compact(&record).as_bytes(),
        );
        match written.and_then(|()| remove_if_there(&self.unfinished_mark())) {
            Ok(()) => self.recorded.change(|recorded| *recorded = Some(system_id)),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "it cannot be written down which cluster the data is of"
                );
            }
        }
    }

    /// The system identifier of the data, if the data is recorded to be of the cluster of this name.
    pub(crate) fn recorded_system(&self) -> Option<u64> {
        let record = self.system_record()?;
        self.is_of(record.system_id).then_some(record.system_id)
    }

    /// Whether the record beside the data is of this cluster, by name and by the system identifier
    /// that the cluster is known to have.
    pub(crate) fn is_recorded(&self) -> bool {
        let known = self.cluster_system.read(|system| *system);
        known.is_some() && self.system_record().map(|record| record.system_id) == known
    }

    /// The record beside the data, if it is of a cluster of this name.
    fn system_record(&self) -> Option<SystemRecord> {
        let bytes = std::fs::read(self.config.system_file()).ok()?;
        let record: SystemRecord = serde_json::from_slice(&bytes).ok()?;
        (record.scope == self.config.scope.to_string()).then_some(record)
    }

    fn is_of(&self, system_id: u64) -> bool {
        matches!(DataState::read(self.data()), DataState::Present(control) if control.data.system_id == system_id)
    }

    /// Replaces the data directory by a copy of a member's.
    pub(crate) async fn base_backup(&self, from: &MemberName) -> Result<(), Error> {
        self.disk.answers().await?;
        let address = self.address(from)?;
        let fresh = self.fresh_directory()?;
        let passfile = self.write_passfile()?;
        let user = &self.config.authentication.replication.username;
        let options = [("passfile", passfile.as_str()), ("connect_timeout", "5")];
        let arguments = vec![
            format!("--pgdata={}", fresh.display()),
            "--wal-method=stream".to_owned(),
            "--checkpoint=fast".to_owned(),
            "--no-password".to_owned(),
            format!("--dbname={}", conninfo(&address, user, &options)),
        ];
        if let Err(error) = self.run_program("pg_basebackup", arguments).await {
            self.note_failed_login(Role::Replication);
            // Half a copy is of no use and takes room.
            let _ = std::fs::remove_dir_all(&fresh);
            return Err(error);
        }
        self.install(&fresh)?;
        let mark = self.unfinished_mark();
        remove_if_there(&mark).map_err(Error::file(mark.display()))
    }

    /// Rewinds the data directory to where it left the history of this member's.
    pub(crate) async fn rewind(&self, from: &MemberName) -> Result<(), Error> {
        let address = self.address(from)?;
        self.checkpoint_at(&address).await?;
        let passfile = self.write_passfile()?;
        // The crash recovery that pg_rewind may have to run first refuses a standby's directory.
        self.clear_locks()?;
        remove_if_there(&self.data().join("standby.signal"))
            .map_err(Error::file("standby.signal"))?;
        let user = &self.config.authentication.rewinds().username;
        let options = [
            ("dbname", "postgres"),
            ("passfile", passfile.as_str()),
            ("connect_timeout", "5"),
        ];
        let arguments = vec![
            format!("--target-pgdata={}", self.data().display()),
            format!("--source-server={}", conninfo(&address, user, &options)),
        ];
        // An interrupted rewind leaves what no server may be started on (PostgreSQL's manual,
        // pg_rewind, "Warnings").
        let mark = self.rewinding_mark();
        write_durably(&mark, b"").map_err(Error::file(mark.display()))?;
        let rewound = self.run_program("pg_rewind", arguments).await;
        rewound.inspect_err(|_| self.note_failed_login(Role::Rewind))?;
        remove_if_there(&mark).map_err(Error::file(mark.display()))
    }

    fn rewinding_mark(&self) -> PathBuf {
        self.config.beside_data(".rewinding")
    }

    /// Whether a rewind was begun and not finished. What is left counts as no data directory, and is
    /// replaced by a copy.
    pub(crate) fn is_half_rewound(&self) -> bool {
        self.rewinding_mark().exists()
    }

    /// A path beside the data directory, on the same volume, where nothing is.
    fn fresh_directory(&self) -> Result<PathBuf, Error> {
        let fresh = self.config.beside_data(".new");
        remove_directory_if_there(&fresh)?;
        Ok(fresh)
    }

    /// Puts a complete directory in the place of the data directory. If there was one, there is one
    /// at every moment.
    fn install(&self, fresh: &Path) -> Result<(), Error> {
        self.refuse_living_server()?;
        let failed = || Error::file(self.data().display());
        if self.data().exists() {
            let swapped = renameat2(
                AT_FDCWD,
                fresh,
                AT_FDCWD,
                self.data(),
                RenameFlags::RENAME_EXCHANGE,
            );
            swapped.map_err(|errno| failed()(errno.into()))?;
            std::fs::remove_dir_all(fresh).map_err(failed())?;
        } else {
            std::fs::rename(fresh, self.data()).map_err(failed())?;
        }
        remove_if_there(&self.rewinding_mark()).map_err(failed())
    }

    /// An error if a server runs on the data that this agent did not start. Called where no server
    /// of the agent's own runs.
    pub(super) fn refuse_living_server(&self) -> Result<(), Error> {
        match server_in(self.data()) {
            None => Ok(()),
            Some(pid) => Err(Error::state(format!(
                "a PostgreSQL server that this agent did not start (process {pid}) runs in {}; stop it first",
                self.data().display()
            ))),
        }
    }

    /// Removes the locks of a server that is gone: `postmaster.pid`, and those of its sockets, which
    /// a power cut leaves behind with process ids that other programs may have by now.
    pub(super) fn clear_locks(&self) -> Result<(), Error> {
        self.refuse_living_server()?;
        let socket = format!(".s.PGSQL.{}", self.config.listen.port);
        let directory = self.config.socket_directory();
        for file in [
            self.data().join("postmaster.pid"),
            directory.join(format!("{socket}.lock")),
            directory.join(socket),
        ] {
            remove_if_there(&file).map_err(Error::file(file.display()))?;
        }
        Ok(())
    }

    pub(crate) fn remove_data(&self) -> Result<(), Error> {
        self.refuse_living_server()?;
        remove_directory_if_there(self.data())
    }
}

/// Arguments of `initdb` but the password's: the configured ones, defaults for what they leave open,
/// and how clients authenticate until `pg_hba.conf` is written.
fn initdb_arguments(config: &AgentConfig, directory: &Path) -> Vec<String> {
    let mut arguments = vec![
        format!("--pgdata={}", directory.display()),
        format!("--username={}", config.authentication.superuser.username),
    ];
    arguments.extend(config.initdb.clone());
    arguments.extend(initdb_defaults(&config.initdb));
    arguments.extend([
        "--auth-local=trust".to_owned(),
        "--auth-host=scram-sha-256".to_owned(),
    ]);
    arguments
}

/// What the configured arguments leave open. A locale decides which encodings fit it, so no default
/// is added beside a configured word about either that it might not fit.
fn initdb_defaults(configured: &[String]) -> Vec<String> {
    let value = |option: &str| {
        configured.iter().find_map(|given| {
            let (name, value) = given.split_once('=').unwrap_or((given, ""));
            (name == option).then_some(value)
        })
    };
    let locale = configured.iter().any(|given| {
        ["--locale", "--lc-", "--icu-", "--builtin-locale"]
            .iter()
            .any(|option| given.starts_with(option))
    });
    let no_locale = value("--no-locale").is_some();
    let encoding = value("--encoding");
    let mut defaults = Vec::new();
    let utf8 = |name: &str| {
        matches!(
            name.to_ascii_uppercase().as_str(),
            "UTF8" | "UTF-8" | "UNICODE"
        )
    };
    if encoding.is_none() && !locale {
        defaults.push("--encoding=UTF8".to_owned());
    }
    if !locale && !no_locale {
        // The locale C fits every encoding.
        let fits = encoding.is_none_or(utf8);
        let name = if fits { "C.UTF-8" } else { "C" };
        defaults.push(format!("--locale={name}"));
    }
    let checksums = ["--data-checksums", "-k", "--no-data-checksums"];
    if !configured
        .iter()
        .any(|given| checksums.contains(&given.as_str()))
    {
        defaults.push("--data-checksums".to_owned());
    }
    defaults
}

pub(super) fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_directory_if_there(path: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file(path.display())(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::initdb_defaults;

    #[test]
    fn a_default_of_initdb_never_contradicts_what_is_configured() {
        let rows: &[(&[&str], &[&str])] = &[
            (
                &[],
                &["--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"],
            ),
            (
                &["--encoding=UTF8", "--data-checksums"],
                &["--locale=C.UTF-8"],
            ),
            (
                &["--encoding=utf-8"],
                &["--locale=C.UTF-8", "--data-checksums"],
            ),
            (&["--encoding=LATIN1"], &["--locale=C", "--data-checksums"]),
            (&["--no-locale"], &["--encoding=UTF8", "--data-checksums"]),
            (&["--lc-collate=C", "--lc-ctype=C"], &["--data-checksums"]),
            (&["--locale=de_DE.ISO-8859-1", "--no-data-checksums"], &[]),
            (&["--locale-provider=icu", "-k"], &[]),
        ];
        for (configured, defaults) in rows {
            let configured: Vec<String> =
                configured.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(initdb_defaults(&configured), *defaults, "{configured:?}");
        }
    }
}
