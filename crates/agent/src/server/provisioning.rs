//! Where a data directory comes from: initialized, copied from another member, or rewound to its
//! history. Marks beside the directory say what is not finished.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use crate::config::AgentConfig;
use crate::credentials::Role;
use crate::incarnation::write_durably;
use crate::server::place::Place;
use crate::server::{Error, Server, programs, tablespaces};
use mrg_base::MemberName;
use mrg_postgres::{conninfo, server_in, write_private};
use mrg_telemetry::chain;

impl Server {
    /// Initializes a new data directory, whole or not at all. It is marked as unfinished until the
    /// cluster has stored its system identifier.
    pub(crate) async fn init_db(&self) -> Result<(), Error> {
        let place = Place::of_data(self.data());
        discard_fresh(&place, &[]).await?;
        let mut arguments = initdb_arguments(&self.config, &place.fresh());
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
        self.install(place, vec![]).await
    }

    async fn run_program(&self, program: &str, arguments: Vec<String>) -> Result<(), Error> {
        programs::run(&self.config, &self.fence, program, arguments).await
    }

    pub(super) fn unfinished_mark(&self) -> PathBuf {
        self.config.beside_data(".unfinished")
    }

    /// Whether the data directory was initialized here for a cluster that is not known to have
    /// stored its system identifier.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished_mark().exists()
    }

    /// Replaces the data directory by a copy of a member's.
    pub(crate) async fn base_backup(&self, from: &MemberName) -> Result<(), Error> {
        self.disk.answers().await?;
        let address = self.address(from)?;
        let place = Place::of_data(self.data());
        let tablespaces = tablespaces::occupied(self.own_tablespaces()?);
        discard_fresh(&place, &tablespaces).await?;
        let passfile = self.write_passfile()?;
        let user = &self.config.authentication.replication.username;
        let options = [("passfile", passfile.as_str()), ("connect_timeout", "5")];
        let mut arguments = vec![
            format!("--pgdata={}", place.fresh().display()),
            "--wal-method=stream".to_owned(),
            "--checkpoint=fast".to_owned(),
            "--no-password".to_owned(),
            format!("--dbname={}", conninfo(&address, user, &options)),
        ];
        arguments.extend(tablespaces.iter().map(tablespaces::mapping));
        if let Err(error) = self.run_program("pg_basebackup", arguments).await {
            self.note_failed_login(Role::Replication);
            // Half a copy is of no use and takes room.
            let _ = discard_fresh(&place, &tablespaces).await;
            return Err(error);
        }
        self.install(place, tablespaces).await?;
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

    /// Puts a complete directory, and copies of tablespaces, in the places of those that are there.
    /// These are kept until the server has proved good, by streaming or as a primary. What an
    /// interruption leaves counts as half of a directory, and is replaced by a copy.
    async fn install(&self, place: Place, tablespaces: Vec<Place>) -> Result<(), Error> {
        self.refuse_living_server()?;
        let mark = self.rewinding_mark();
        if !tablespaces.is_empty() || place.is_fixed() {
            write_durably(&mark, b"").map_err(Error::file(mark.display()))?;
        }
        let what = self.data().display().to_string();
        let installed = off_thread(move || {
            tablespaces::install(&tablespaces, &place.fresh())?;
            place.install()
        });
        installed.await.map_err(Error::file(what))?;
        self.keeps_replaced.store(true, Ordering::Release);
        remove_if_there(&mark).map_err(Error::file(mark.display()))
    }

    /// The server streams, or leads: what its data replaced is of no more use.
    pub(super) fn discard_replaced(&self) {
        if !self.keeps_replaced.swap(false, Ordering::AcqRel) {
            return;
        }
        let data = Place::of_data(self.data());
        let locations = self.own_tablespaces().unwrap_or_default();
        tokio::task::spawn_blocking(move || {
            let tablespaces = locations.iter().map(|path| Place::of_tablespace(path));
            for place in tablespaces.chain([data]) {
                if let Err(error) = place.discard_replaced() {
                    tracing::warn!(
                        directory = %place.replaced().display(),
                        error = chain(&error),
                        "what a copy replaced cannot be removed; it takes room until a person removes it"
                    );
                }
            }
        });
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

    /// Removes the data, and what it replaced: where there is no room for both, neither stays.
    pub(crate) async fn remove_data(&self) -> Result<(), Error> {
        self.refuse_living_server()?;
        let place = Place::of_data(self.data());
        let removed = off_thread(move || {
            place.discard_replaced()?;
            place.remove()
        });
        removed.await.map_err(Error::file(self.data().display()))
    }
}

/// Removes what copies that were not finished left.
async fn discard_fresh(place: &Place, tablespaces: &[Place]) -> Result<(), Error> {
    let places: Vec<Place> = tablespaces.iter().chain([place]).cloned().collect();
    let what = place.fresh().display().to_string();
    let discarded = off_thread(move || places.iter().try_for_each(Place::discard_fresh));
    discarded.await.map_err(Error::file(what))
}

/// Runs what takes as long as the disk does beside the agent's only thread.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)))
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
