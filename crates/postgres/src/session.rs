//! A session with the local server, as superuser over its socket.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tokio_postgres::{Client, NoTls, Statement};

use mrg_base::{Lsn, MemberName, Position, Timeline};
use mrg_election::sync::Names;
use mrg_election::{Primary, WalSender};

/// What went wrong in a session.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No session could be had.
    #[error("unable to connect to the local postgres")]
    Connect(#[source] tokio_postgres::Error),
    /// A statement failed.
    #[error("failed to {operation}")]
    Statement {
        /// What for.
        operation: &'static str,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// The server did not answer.
    #[error("postgres did not answer in time to {0}")]
    Timeout(&'static str),
    /// The answer makes no sense.
    #[error("postgres answered {0}")]
    Answer(String),
}

/// Where the server is.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// The socket's directory.
    pub socket_directory: PathBuf,
    /// The port.
    pub port: u16,
    /// The superuser.
    pub user: String,
    /// How long a statement may take.
    pub within: Duration,
}

/// An open session.
pub struct Session {
    client: Client,
    look: Statement,
    within: Duration,
}

/// What a look at the server shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// It accepts writes.
    Primary(Primary, Server),
    /// It is in recovery.
    Replica(Replica, Server),
}

/// What is said of a server in any role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// `server_version_num`
    pub version: u32,
    /// When the postmaster started.
    pub started: String,
    /// Replayed up to here, in recovery.
    pub replayed: Option<Lsn>,
    /// Parameters that wait for a restart: name, value in force, value to come.
    pub pending_restart: Vec<(String, String, String)>,
    /// `pg_stat_replication`, for the status page.
    pub replication: Vec<ReplicationRow>,
}

/// A row of `pg_stat_replication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct ReplicationRow {
    /// The role.
    pub usename: String,
    /// The member.
    pub application_name: String,
    /// Its address.
    pub client_addr: Option<String>,
    /// `streaming`, `catchup`, `backup`, ...
    pub state: String,
    /// `sync`, `quorum`, `potential`, `async`
    pub sync_state: String,
    /// Its place in `synchronous_standby_names`; 0 if it has none.
    pub sync_priority: i32,
    /// What it has flushed.
    #[serde(skip_serializing)]
    pub flush_lsn: Option<String>,
}

/// A server in recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The system identifier.
    pub system_id: u64,
    /// Durable WAL ends here; `None` while local WAL is still being replayed.
    pub flushed: Option<Lsn>,
    /// Replayed up to here.
    pub replayed: Lsn,
    /// The newest timeline that the server has shown.
    pub timeline: Timeline,
    /// Whether the WAL receiver streams.
    pub streaming: bool,
    /// Whether a WAL receiver process exists at all.
    pub receiver: bool,
    /// Whether everything in `pg_wal` is replayed: WAL that was written and not yet flushed is
    /// replayed, too, and counts for who is ahead.
    pub settled: bool,
}

// One round trip for everything. In recovery the timeline is the newest of what the receiver, the
// restart point and the minimum recovery point say. Durable WAL is known once something was
// received, or once the startup process waits for more (wait events of `xlogrecovery.c`): before
// that it is still replaying what is on disk.
const LOOK: &str = "
SELECT pg_is_in_recovery(),
       (SELECT system_identifier::text FROM pg_control_system()),
       CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) END,
       CASE WHEN pg_is_in_recovery() THEN '' ELSE pg_current_wal_flush_lsn()::text END,
       coalesce(pg_last_wal_receive_lsn()::text, ''),
       coalesce(pg_last_wal_replay_lsn()::text, ''),
       greatest((SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                (SELECT received_tli FROM pg_stat_wal_receiver)),
       coalesce((SELECT status FROM pg_stat_wal_receiver), ''),
       EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'walreceiver'),
       coalesce((SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'), ''),
       current_setting('synchronous_standby_names'),
       current_setting('server_version_num')::int4,
       to_char(pg_postmaster_start_time(), 'YYYY-MM-DD HH24:MI:SS.US TZH:TZM'),
       coalesce((SELECT string_agg(s.name || '=' || s.setting || '=' || f.setting, E'\\n')
                   FROM pg_settings s JOIN pg_file_settings f USING (name) WHERE s.pending_restart AND f.sourcefile LIKE '%/postgresql.conf'), ''),
       coalesce((SELECT json_agg(json_build_object('usename', coalesce(usename, ''), 'application_name', application_name,
           'client_addr', client_addr, 'state', coalesce(state, ''), 'sync_state', coalesce(sync_state, ''),
           'sync_priority', coalesce(sync_priority, 0), 'flush_lsn', flush_lsn::text))
         FROM pg_stat_replication), '[]')::text";

impl Session {
    /// Opens a session. Its statements never wait for synchronous replication.
    pub async fn open(settings: &SessionSettings) -> Result<Self, Error> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&settings.socket_directory)
            .port(settings.port)
            .user(&settings.user)
            .dbname("postgres")
            .application_name("mrg-agent")
            .connect_timeout(settings.within)
            .options("-c synchronous_commit=local -c statement_timeout=0 -c default_transaction_read_only=off -c search_path=pg_catalog");
        let connect = tokio::time::timeout(settings.within, config.connect(NoTls));
        let (client, connection) = connect
            .await
            .map_err(|_| Error::Timeout("connect"))?
            .map_err(Error::Connect)?;
        tokio::spawn(async move {
            // A lost connection shows in the next statement.
            let _ = connection.await;
        });
        let prepared = tokio::time::timeout(settings.within, client.prepare(LOOK))
            .await
            .map_err(|_| Error::Timeout("prepare"))?;
        let look = prepared.map_err(|source| Error::Statement {
            operation: "look at the server",
            source,
        })?;
        Ok(Self {
            client,
            look,
            within: settings.within,
        })
    }

    /// Whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    async fn within<T>(
        &self,
        operation: &'static str,
        within: Duration,
        statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(within, statement).await {
            Ok(answer) => answer.map_err(|source| Error::Statement { operation, source }),
            Err(_) => Err(Error::Timeout(operation)),
        }
    }

    /// Runs statements that give nothing back.
    pub async fn execute(
        &self,
        operation: &'static str,
        sql: &str,
        within: Duration,
    ) -> Result<(), Error> {
        self.within(operation, within, self.client.batch_execute(sql))
            .await
    }

    /// Runs one statement and gives its first column as text.
    pub async fn texts(&self, operation: &'static str, sql: &str) -> Result<Vec<String>, Error> {
        let rows = self
            .within(operation, self.within, self.client.query(sql, &[]))
            .await?;
        Ok(rows
            .iter()
            .map(|row| {
                row.try_get::<_, Option<String>>(0)
                    .ok()
                    .flatten()
                    .unwrap_or_default()
            })
            .collect())
    }

    /// Looks at the server.
    pub async fn look(&self) -> Result<Look, Error> {
        let operation = "look at the server";
        let row = self
            .within(
                operation,
                self.within,
                self.client.query_one(&self.look, &[]),
            )
            .await?;
        let get = |index: usize| -> Result<String, Error> {
            row.try_get(index)
                .map_err(|source| Error::Statement { operation, source })
        };
        let answer = |error: String| Error::Answer(error);
        let system_id = get(1)?
            .parse()
            .map_err(|_| answer(get(1).unwrap_or_default()))?;
        let replication: Vec<ReplicationRow> =
            serde_json::from_str(&get(14)?).map_err(|error| answer(error.to_string()))?;
        let failed = |source| Error::Statement { operation, source };
        let server = Server {
            version: row.try_get::<_, i32>(11).map_err(failed)?.unsigned_abs(),
            started: get(12)?,
            replayed: get(5)?.parse().ok(),
            pending_restart: get(13)?.lines().filter_map(pending).collect(),
            replication,
        };
        let lsn = |text: String| {
            text.parse::<Lsn>()
                .map_err(|error| Error::Answer(error.to_string()))
        };
        if row.try_get::<_, bool>(0).map_err(failed)? {
            let replayed = lsn(get(5)?).unwrap_or_default();
            let received = lsn(get(4)?).ok();
            let waits_on = get(9)?;
            let waits_for_more = matches!(
                waits_on.as_str(),
                "RecoveryWalStream" | "RecoveryRetrieveRetryInterval"
            );
            let flushed = match received {
                Some(received) => Some(received.max(replayed)),
                None => waits_for_more.then_some(replayed),
            };
            let timeline = row
                .try_get::<_, Option<i32>>(6)
                .map_err(failed)?
                .unwrap_or(0);
            let replica = Replica {
                system_id,
                flushed,
                replayed,
                timeline: Timeline(timeline.unsigned_abs()),
                streaming: get(7)? == "streaming",
                receiver: row.try_get(8).map_err(failed)?,
                // One that is far behind will not know the end for long; what was received is
                // known.
                settled: waits_for_more
                    || waits_on == "RecoveryPause"
                    || received.is_some_and(|received| replayed < received),
            };
            return Ok(Look::Replica(replica, server));
        }
        let timeline =
            u32::from_str_radix(&get(2)?, 16).map_err(|error| Error::Answer(error.to_string()))?;
        let position = Position {
            timeline: Timeline(timeline),
            flushed: lsn(get(3)?)?,
        };
        let senders = senders(&server.replication);
        let names = Names::parse(&get(10)?);
        Ok(Look::Primary(
            Primary {
                system_id,
                position,
                names,
                senders,
            },
            server,
        ))
    }

    /// Whether every WAL sender acts on these names: it writes its place in them into shared memory
    /// itself, when it has read them.
    pub async fn senders_act_on(&self, names: &Names) -> Result<bool, Error> {
        let members = names.members();
        let Look::Primary(_, server) = self.look().await? else {
            return Ok(true);
        };
        Ok(server
            .replication
            .iter()
            .filter(|row| row.state == "streaming")
            .all(|row| {
                let named = MemberName::new(&row.application_name)
                    .is_ok_and(|name| members.contains(&name));
                named == (row.sync_priority > 0)
            }))
    }
}

fn pending(line: &str) -> Option<(String, String, String)> {
    let mut fields = line.splitn(3, '=').map(str::to_owned);
    Some((fields.next()?, fields.next()?, fields.next()?))
}

fn senders(rows: &[ReplicationRow]) -> BTreeMap<MemberName, WalSender> {
    let sender = |row: &ReplicationRow| {
        let name = MemberName::new(&row.application_name).ok()?;
        let flushed = row
            .flush_lsn
            .as_deref()
            .and_then(|lsn| lsn.parse().ok())
            .unwrap_or_default();
        Some((
            name,
            WalSender {
                streaming: row.state == "streaming",
                flushed,
            },
        ))
    };
    rows.iter().filter_map(sender).collect()
}
