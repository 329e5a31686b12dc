//! Where a data directory comes from: made anew, copied from another member, or rewound to its
//! history.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};

use crate::incarnation::write_durably;
use crate::server::{Error, STATEMENT_WITHIN, Server, remove_if_there};
use mrg_base::MemberName;
use mrg_postgres::{ConnectTo, Credentials, DataState, conninfo, look_at};

/// Beside the data: whose it is, for a start at which `initialize` is missing.
#[derive(Serialize, Deserialize)]
struct SystemRecord {
    scope: String,
    system_id: u64,
}

impl Server {
    /// Makes a new data directory, whole or not at all.
    pub(crate) async fn init_db(&self) -> Result<(), Error> {
        let fresh = self.fresh_directory()?;
        let password_file = self.config.beside_data(".pw");
        let superuser = self.config.authentication.superuser.clone();
        let failed = |source| Error::File {
            what: "the password file".to_owned(),
            source,
        };
        let mut arguments = vec![
            format!("--pgdata={}", fresh.display()),
            format!("--username={}", superuser.username),
        ];
        arguments.extend(self.config.initdb.clone());
        for (option, value) in [("--encoding", "UTF8"), ("--locale", "C.UTF-8")] {
            if !arguments
                .iter()
                .any(|argument| argument.starts_with(option))
            {
                arguments.push(format!("{option}={value}"));
            }
        }
        if !arguments
            .iter()
            .any(|argument| argument == "--data-checksums")
        {
            arguments.push("--data-checksums".to_owned());
        }
        arguments.extend([
            "--auth-local=trust".to_owned(),
            "--auth-host=scram-sha-256".to_owned(),
        ]);
        if !superuser.password.is_empty() {
            std::fs::write(&password_file, &superuser.password).map_err(failed)?;
            arguments.push(format!("--pwfile={}", password_file.display()));
        }
        let made = self.run_program("initdb", arguments, None).await;
        let _ = std::fs::remove_file(&password_file);
        made?;
        // Until the cluster has taken its system identifier this is nobody's data.
        let mark = self.unfinished_mark();
        write_durably(&mark, b"").map_err(|source| Error::File {
            what: mark.display().to_string(),
            source,
        })?;
        self.install(&fresh)
    }

    fn unfinished_mark(&self) -> PathBuf {
        self.config.beside_data(".unfinished")
    }

    /// Whether the data directory was made here for a cluster that has not been seen to be whole.
    pub(super) fn is_unfinished(&self) -> bool {
        self.unfinished_mark().exists()
    }

    /// The cluster has this system identifier: if our data is of it, it is finished, and that is
    /// written down.
    pub(crate) fn note_system(&self, system_id: u64) {
        let recorded = self.inner().recorded == Some(system_id);
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
            Ok(()) => self.inner().recorded = Some(system_id),
            Err(error) => {
                tracing::warn!(%error, "it cannot be written down which cluster the data is of");
            }
        }
    }

    /// The system identifier of the data, if it is written down that it is of the cluster of this
    /// name.
    pub(crate) fn recorded_system(&self) -> Option<u64> {
        let bytes = std::fs::read(self.config.system_file()).ok()?;
        let record: SystemRecord = serde_json::from_slice(&bytes).ok()?;
        (record.scope == self.config.scope.to_string() && self.is_of(record.system_id))
            .then_some(record.system_id)
    }

    fn is_of(&self, system_id: u64) -> bool {
        matches!(look_at(self.data()), DataState::Present(control) if control.data.system_id == system_id)
    }

    /// Replaces the data directory by a copy of a member's.
    pub(crate) async fn base_backup(&self, from: &MemberName) -> Result<(), Error> {
        let address = self.address(from)?;
        let fresh = self.fresh_directory()?;
        let user = &self.config.authentication.replication;
        let arguments = vec![
            format!("--pgdata={}", fresh.display()),
            "--wal-method=stream".to_owned(),
            "--checkpoint=fast".to_owned(),
            "--no-password".to_owned(),
            format!(
                "--dbname={}",
                conninfo(
                    &address,
                    &Credentials {
                        password: String::new(),
                        ..user.clone()
                    },
                    &[("connect_timeout", "5")]
                )
            ),
        ];
        if let Err(error) = self
            .run_program("pg_basebackup", arguments, Some(user))
            .await
        {
            // Half a copy is of no use and takes room.
            let _ = std::fs::remove_dir_all(&fresh);
            return Err(error);
        }
        self.install_copy(&fresh)
    }

    /// Asks a member's server whether it leads and is of our system.
    pub(crate) async fn confirm_leader(&self, member: &MemberName) -> Result<(), Error> {
        let client = connect_to(
            &self.address(member)?,
            &self.config.authentication.superuser,
        )
        .await?;
        let question = "SELECT NOT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system())";
        let failed = |source| {
            Error::Session(mrg_postgres::Error::Statement {
                operation: "ask the leader's server what it is",
                source,
            })
        };
        let answer = tokio::time::timeout(STATEMENT_WITHIN, client.query_one(question, &[])).await;
        let row = answer
            .map_err(|_| Error::Timeout("the answer of the leader's server"))?
            .map_err(failed)?;
        let (leads, theirs) = (
            row.try_get::<_, bool>(0).map_err(failed)?,
            row.try_get::<_, String>(1).map_err(failed)?,
        );
        if !leads {
            return Err(Error::State(format!(
                "the server of {member} is in recovery"
            )));
        }
        match look_at(self.data()) {
            DataState::Present(control) if control.data.system_id.to_string() != theirs => {
                Err(Error::State(format!(
                    "the server of {member} is of another system, {theirs}"
                )))
            }
            _ => Ok(()),
        }
    }

    /// Rewinds the data directory to where it left the history of this member's.
    pub(crate) async fn rewind(&self, from: &MemberName) -> Result<(), Error> {
        let address = self.address(from)?;
        let user = self.config.authentication.superuser.clone();
        checkpoint_at(&address, &user).await?;
        // The crash recovery that pg_rewind may have to run first refuses a standby's directory.
        remove_if_there(&self.data().join("standby.signal"))
            .and_then(|()| remove_if_there(&self.data().join("postmaster.pid")))
            .map_err(|source| Error::File {
                what: "standby.signal".to_owned(),
                source,
            })?;
        let source = conninfo(
            &address,
            &Credentials {
                password: String::new(),
                ..user.clone()
            },
            &[("dbname", "postgres"), ("connect_timeout", "5")],
        );
        let arguments = vec![
            format!("--target-pgdata={}", self.data().display()),
            format!("--source-server={source}"),
        ];
        // An interrupted rewind leaves what no server may be started on (PostgreSQL's manual,
        // pg_rewind, "Warnings").
        let mark = self.config.beside_data(".rewinding");
        let marked = |source| Error::File {
            what: mark.display().to_string(),
            source,
        };
        write_durably(&mark, b"").map_err(marked)?;
        self.run_program("pg_rewind", arguments, Some(&user))
            .await?;
        remove_if_there(&mark).map_err(marked)
    }

    /// Whether a rewind was begun and not finished: what is left is no data directory, and is
    /// replaced by a copy.
    pub(crate) fn is_half_rewound(&self) -> bool {
        self.config.beside_data(".rewinding").exists()
    }

    fn address(&self, member: &MemberName) -> Result<ConnectTo, Error> {
        self.inner()
            .addresses
            .get(member)
            .cloned()
            .ok_or_else(|| Error::State(format!("the address of {member} is not known")))
    }

    /// An empty directory beside the data directory, on the same volume.
    fn fresh_directory(&self) -> Result<PathBuf, Error> {
        let fresh = self.config.beside_data(".new");
        let failed = |source| Error::File {
            what: fresh.display().to_string(),
            source,
        };
        if fresh.exists() {
            std::fs::remove_dir_all(&fresh).map_err(failed)?;
        }
        Ok(fresh)
    }

    /// Puts a complete directory in the place of the data directory: there is one at every moment.
    fn install(&self, fresh: &Path) -> Result<(), Error> {
        let failed = |source| Error::File {
            what: self.data().display().to_string(),
            source,
        };
        if self.data().exists() {
            let swapped = renameat2(
                AT_FDCWD,
                fresh,
                AT_FDCWD,
                self.data(),
                RenameFlags::RENAME_EXCHANGE,
            );
            swapped.map_err(|errno| failed(errno.into()))?;
            std::fs::remove_dir_all(fresh).map_err(failed)?;
        } else {
            std::fs::rename(fresh, self.data()).map_err(failed)?;
        }
        remove_if_there(&self.config.beside_data(".rewinding")).map_err(failed)
    }

    /// Replaces the data directory by a copy: it is of a cluster that is there.
    fn install_copy(&self, fresh: &Path) -> Result<(), Error> {
        self.install(fresh)?;
        let mark = self.unfinished_mark();
        remove_if_there(&mark).map_err(|source| Error::File {
            what: mark.display().to_string(),
            source,
        })
    }

    /// Removes the data directory.
    pub(crate) fn remove_data(&self) -> Result<(), Error> {
        match std::fs::remove_dir_all(self.data()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::File {
                what: self.data().display().to_string(),
                source: error,
            }),
            _ => Ok(()),
        }
    }
}

async fn connect_to(
    address: &ConnectTo,
    user: &Credentials,
) -> Result<tokio_postgres::Client, Error> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&address.host)
        .port(address.port)
        .user(&user.username)
        .password(&user.password)
        .dbname("postgres");
    config.connect_timeout(STATEMENT_WITHIN);
    let failed = |source| Error::Session(mrg_postgres::Error::Connect(source));
    let (client, connection) = config
        .connect(tokio_postgres::NoTls)
        .await
        .map_err(failed)?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

/// Writes a checkpoint on another member, so that its control file shows its timeline to
/// `pg_rewind`.
async fn checkpoint_at(address: &ConnectTo, user: &Credentials) -> Result<(), Error> {
    let client = connect_to(address, user).await?;
    let checkpoint =
        tokio::time::timeout(Duration::from_secs(60), client.batch_execute("CHECKPOINT"));
    let done = checkpoint
        .await
        .map_err(|_| Error::Timeout("the leader's checkpoint"))?;
    done.map_err(|source| {
        Error::Session(mrg_postgres::Error::Statement {
            operation: "write a checkpoint at the leader",
            source,
        })
    })
}
