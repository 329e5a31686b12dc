//! A session with the local server, as superuser over its socket.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, Statement};

use crate::probe::{PROBE, PROBE_OPERATION, Probe, senders_act_on};
use mrg_election::sync::Names;

/// Why a session could not be opened, or did not answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server is not there, or refuses connections.
    #[error("unable to connect to the local postgres")]
    Connect(#[source] tokio_postgres::Error),
    /// A statement failed, or the connection was lost.
    #[error("failed to {operation}")]
    Statement {
        /// The purpose of the statement.
        operation: &'static str,
        /// The error of the server or the connection.
        source: tokio_postgres::Error,
    },
    /// The server did not answer in time.
    #[error("postgres did not answer in time to {0}")]
    Timeout(&'static str),
    /// The answer is not of the expected form.
    #[error("postgres answered {0}")]
    Answer(String),
}

impl Error {
    /// The server runs, and has no place for another session.
    pub fn is_full(&self) -> bool {
        self.refusal() == Some(&SqlState::TOO_MANY_CONNECTIONS)
    }

    /// The server runs, and takes no session in while it starts, shuts down or recovers.
    pub fn is_not_accepting(&self) -> bool {
        self.refusal() == Some(&SqlState::CANNOT_CONNECT_NOW)
    }

    /// What the server says as it refuses a session although it is up and has room, as where files
    /// that every session reads are damaged.
    pub fn refused_for(&self) -> Option<String> {
        let Error::Connect(source) = self else {
            return None;
        };
        let refusal = source.as_db_error()?;
        let passes = self.is_not_accepting() || self.is_full();
        (!passes).then(|| refusal.message().to_owned())
    }

    /// Why the server refused a connection, if it did.
    fn refusal(&self) -> Option<&SqlState> {
        match self {
            Error::Connect(source) => source.code(),
            _ => None,
        }
    }
}

/// How to reach the local server.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// The directory of its socket.
    pub socket_directory: PathBuf,
    /// The port, which is part of the socket's name.
    pub port: u16,
    /// The superuser.
    pub user: String,
    /// The longest time to connect, and for a statement without a timeout of its own.
    pub timeout: Duration,
}

/// An open session.
pub struct Session {
    client: Client,
    probe: Statement,
    timeout: Duration,
}

/// What holds in every session, whatever the server, the database and the role are set to:
///
/// - No commit waits for a standby, and none is cut short or forbidden.
/// - Names mean what PostgreSQL means by them. `pg_temp` is named because it would be searched
///   first. A backslash in a literal is one.
/// - The server's log has no text of statements, in which passwords' verifiers stand.
const OPTIONS: &str = "-c synchronous_commit=local -c statement_timeout=0 -c default_transaction_read_only=off \
    -c search_path=pg_catalog,pg_temp -c standard_conforming_strings=on \
    -c log_statement=none -c log_min_error_statement=panic -c log_min_duration_statement=-1 \
    -c log_min_duration_sample=-1 -c log_transaction_sample_rate=0 \
    -c debug_print_parse=off -c debug_print_rewritten=off \
    -c pg_stat_statements.track_utility=off";

/// The first line that the server would refuse, with its reason. A line that it reads and that cannot
/// match, as `hostssl` without TLS, has an error beside what was read.
const WRONG_HBA_LINE: &str = "SELECT format('pg_hba.conf, line %s: %s', line_number, error) \
    FROM pg_catalog.pg_hba_file_rules WHERE type IS NULL ORDER BY line_number LIMIT 1";

impl Session {
    /// Opens a session. Its statements never wait for synchronous replication.
    ///
    /// # Errors
    /// If the server cannot be connected to in time, or does not accept the prepared statement.
    pub async fn open(settings: &SessionSettings) -> Result<Self, Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&settings.socket_directory)
            .port(settings.port)
            .user(&settings.user)
            .dbname("postgres")
            .application_name("mrg-agent")
            .connect_timeout(settings.timeout)
            .options(OPTIONS);
        let connect = tokio::time::timeout(settings.timeout, config.connect(NoTls));
        let (client, connection) = connect
            .await
            .map_err(|_| Error::Timeout("connect"))?
            .map_err(Error::Connect)?;
        tokio::spawn(async move {
            // A lost connection shows in the next statement.
            let _ = connection.await;
        });
        let probe = tokio::time::timeout(settings.timeout, client.prepare(PROBE))
            .await
            .map_err(|_| Error::Timeout("prepare"))?
            .map_err(|source| Error::Statement {
                operation: PROBE_OPERATION,
                source,
            })?;
        Ok(Self {
            client,
            probe,
            timeout: settings.timeout,
        })
    }

    /// Whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    async fn in_time<T>(
        &self,
        operation: &'static str,
        timeout: Duration,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(timeout, statement).await {
            Ok(answer) => answer.map_err(|source| Error::Statement { operation, source }),
            Err(_) => Err(Error::Timeout(operation)),
        }
    }

    /// Runs statements without a result. `operation` completes "failed to …".
    ///
    /// # Errors
    /// If a statement fails, or all of them take longer than `timeout`. They may have been executed
    /// all the same after a timeout.
    pub async fn execute(
        &self,
        operation: &'static str,
        sql: &str,
        timeout: Duration,
    ) -> Result<(), Error> {
        self.in_time(operation, timeout, self.client.batch_execute(sql))
            .await
    }

    /// Runs one statement and gives its first column as text; empty for null and for what is not
    /// text. `operation` completes "failed to …".
    ///
    /// # Errors
    /// As [`Session::execute`], with the session's timeout.
    pub async fn texts(&self, operation: &'static str, sql: &str) -> Result<Vec<String>, Error> {
        let query = self.client.query(sql, &[]);
        let rows = self.in_time(operation, self.timeout, query).await?;
        let text = |row: &tokio_postgres::Row| row.try_get::<_, Option<String>>(0).ok().flatten();
        Ok(rows
            .iter()
            .map(|row| text(row).unwrap_or_default())
            .collect())
    }

    /// The first line of the `pg_hba.conf` on disk that the server would refuse, with its reason.
    ///
    /// # Errors
    /// As [`Session::texts`].
    pub async fn wrong_hba_line(&self) -> Result<Option<String>, Error> {
        let wrong = self.texts("check pg_hba.conf", WRONG_HBA_LINE).await?;
        Ok(wrong.into_iter().next())
    }

    /// Probes the server.
    ///
    /// # Errors
    /// If it does not answer in time, or the answer is not of the expected form.
    pub async fn probe(&self) -> Result<Probe, Error> {
        let query = self.client.query_one(&self.probe, &[]);
        let row = self.in_time(PROBE_OPERATION, self.timeout, query).await?;
        Probe::read(&row)
    }

    /// Whether every WAL sender acts on these names: it writes its place in them into shared memory
    /// itself, when it has read them. True in recovery.
    ///
    /// # Errors
    /// As [`Session::probe`].
    pub async fn senders_act_on(&self, names: &Names) -> Result<bool, Error> {
        Ok(match self.probe().await? {
            Probe::Primary(_, server) => senders_act_on(&server.replication, names),
            Probe::Replica(..) => true,
        })
    }
}
