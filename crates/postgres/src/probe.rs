//! What one round trip tells of a running server.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use crate::session::Error;
use mrg_base::{Lsn, MemberName, Position, Timeline};
use mrg_election::sync::Names;
use mrg_election::{Primary, WalSender};

/// A running server, by the role that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It accepts writes.
    Primary(Primary, ServerFacts),
    /// It is in recovery.
    Replica(Replica, ServerFacts),
}

/// What is known of a server in any role.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`
    pub version: u32,
    /// When the postmaster started, as `2026-01-31 12:00:00.000000 +00:00`.
    pub started: String,
    /// The end of replayed WAL; `None` if the server was not in recovery since it started.
    pub replayed: Option<Lsn>,
    /// Parameters that wait for a restart: name, value in force, value to come.
    pub pending_restart: Vec<(String, String, String)>,
    /// `pg_stat_replication`, for the status page.
    pub replication: Vec<ReplicationRow>,
}

/// A row of `pg_stat_replication`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationRow {
    /// The role that the standby has logged in as.
    pub usename: String,
    /// The member's name.
    pub application_name: String,
    /// The member's address; `None` over a socket.
    pub client_addr: Option<String>,
    /// `streaming`, `catchup`, `backup`, ...
    pub state: String,
    /// `sync`, `quorum`, `potential`, `async`
    pub sync_state: String,
    /// Its place in `synchronous_standby_names`; 0 if it has none.
    pub sync_priority: i32,
    /// The end of the WAL that it has flushed.
    #[serde(skip_serializing)]
    pub flush_lsn: Option<String>,
}

/// A server in recovery.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what the columns of one row say, each of another process"
)]
pub struct Replica {
    /// The system identifier.
    pub system_id: u64,
    /// The end of durable WAL; `None` while local WAL is still being replayed.
    pub flushed: Option<Lsn>,
    /// The end of replayed WAL.
    pub replayed: Lsn,
    /// The newest timeline that the server has shown.
    pub timeline: Timeline,
    /// Whether the WAL receiver streams.
    pub streaming: bool,
    /// Whether a WAL receiver process exists at all.
    pub receiver: bool,
    /// Whether the startup process has replayed what is here and waits for more WAL. Until then a
    /// WAL receiver that does not stream is no sign of anything: it may replay its own WAL, or be
    /// late by order (`recovery_min_apply_delay`).
    pub waiting: bool,
    /// Whether everything in `pg_wal` is replayed: WAL that was written and not yet flushed is
    /// replayed, too, and counts for who is ahead.
    pub settled: bool,
}

// One round trip for everything. In recovery the timeline is the newest of what the receiver, the
// restart point and the minimum recovery point say. Durable WAL is known once something was
// received, or once the startup process waits for more (wait events of `xlogrecovery.c`): before
// that it is still replaying what is on disk.
pub(crate) const PROBE: &str = "
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

/// The columns of [`PROBE`].
struct Columns<'a>(&'a Row);

impl<'a> Columns<'a> {
    fn get<T: FromSql<'a>>(&self, index: usize) -> Result<T, Error> {
        self.0.try_get(index).map_err(|source| Error::Statement {
            operation: PROBE_OPERATION,
            source,
        })
    }

    fn text(&self, index: usize) -> Result<&'a str, Error> {
        self.get(index)
    }

    fn lsn(&self, index: usize) -> Result<Lsn, Error> {
        self.text(index)?.parse().map_err(unexpected)
    }
}

pub(crate) const PROBE_OPERATION: &str = "look at the server";

fn unexpected(error: impl std::fmt::Display) -> Error {
    Error::Answer(error.to_string())
}

impl Probe {
    /// Reads the row of [`PROBE`].
    pub(crate) fn read(row: &Row) -> Result<Self, Error> {
        let columns = Columns(row);
        let id = columns.text(1)?;
        let system_id = id.parse().map_err(|_| unexpected(id))?;
        let server = ServerFacts {
            version: columns.get::<i32>(11)?.unsigned_abs(),
            started: columns.get(12)?,
            replayed: columns.lsn(5).ok(),
            pending_restart: columns.text(13)?.lines().filter_map(pending).collect(),
            replication: serde_json::from_str(columns.text(14)?).map_err(unexpected)?,
        };
        if columns.get(0)? {
            let recovery = Recovery {
                received: columns.lsn(4).ok(),
                replayed: columns.lsn(5).unwrap_or_default(),
                waits_on: columns.text(9)?,
            };
            let timeline: Option<i32> = columns.get(6)?;
            let replica = Replica {
                system_id,
                flushed: recovery.flushed(),
                replayed: recovery.replayed,
                timeline: Timeline(timeline.unwrap_or(0).unsigned_abs()),
                streaming: columns.text(7)? == "streaming",
                receiver: columns.get(8)?,
                waiting: recovery.waits_for_more(),
                settled: recovery.is_settled(),
            };
            return Ok(Self::Replica(replica, server));
        }
        let timeline = u32::from_str_radix(columns.text(2)?, 16).map_err(unexpected)?;
        let primary = Primary {
            system_id,
            position: Position {
                timeline: Timeline(timeline),
                flushed: columns.lsn(3)?,
            },
            names: Names::parse(columns.text(10)?),
            senders: senders(&server.replication),
        };
        Ok(Self::Primary(primary, server))
    }
}

/// How far recovery is.
struct Recovery<'a> {
    /// The end of the WAL that was received and flushed since the server started, if any was.
    received: Option<Lsn>,
    replayed: Lsn,
    /// The wait event of the startup process.
    waits_on: &'a str,
}

impl Recovery<'_> {
    /// Whether the startup process has replayed what is there and waits for more.
    fn waits_for_more(&self) -> bool {
        matches!(
            self.waits_on,
            "RecoveryWalStream" | "RecoveryRetrieveRetryInterval"
        )
    }

    fn flushed(&self) -> Option<Lsn> {
        match self.received {
            Some(received) => Some(received.max(self.replayed)),
            None => self.waits_for_more().then_some(self.replayed),
        }
    }

    /// A standby that is far behind will not replay everything for long, but what it received is
    /// known.
    fn is_settled(&self) -> bool {
        self.waits_for_more()
            || self.waits_on == "RecoveryPause"
            || self
                .received
                .is_some_and(|received| self.replayed < received)
    }
}

fn pending(line: &str) -> Option<(String, String, String)> {
    let mut fields = line.splitn(3, '=').map(str::to_owned);
    Some((fields.next()?, fields.next()?, fields.next()?))
}

fn senders(rows: &[ReplicationRow]) -> BTreeMap<MemberName, WalSender> {
    let sender = |row: &ReplicationRow| {
        let name = MemberName::new(&row.application_name).ok()?;
        let flushed = row.flush_lsn.as_deref().and_then(|lsn| lsn.parse().ok());
        let sender = WalSender {
            streaming: row.state == "streaming",
            flushed: flushed.unwrap_or_default(),
        };
        Some((name, sender))
    };
    rows.iter().filter_map(sender).collect()
}

/// Whether every WAL sender that streams acts on these names: it has a place in them exactly if it
/// is named.
pub(crate) fn senders_act_on(rows: &[ReplicationRow], names: &Names) -> bool {
    let members = names.members();
    rows.iter()
        .filter(|row| row.state == "streaming")
        .all(|row| {
            let named =
                MemberName::new(&row.application_name).is_ok_and(|name| members.contains(&name));
            named == (row.sync_priority > 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_durable_wal_is_known_once_something_was_received_or_all_is_replayed() {
        let (stream, retry) = ("RecoveryWalStream", "RecoveryRetrieveRetryInterval");
        for (received, replayed, waits_on, flushed, settled) in [
            (None, 90, "", None, false),
            (None, 90, "WALRead", None, false),
            (None, 90, "RecoveryPause", None, true),
            (None, 90, stream, Some(90), true),
            (None, 90, retry, Some(90), true),
            (Some(100), 90, "", Some(100), true),
            (Some(100), 100, "", Some(100), false),
            (Some(100), 100, stream, Some(100), true),
            (Some(100), 110, "", Some(110), false),
            (Some(100), 110, retry, Some(110), true),
        ] {
            let recovery = Recovery {
                received: received.map(Lsn),
                replayed: Lsn(replayed),
                waits_on,
            };
            let found = (recovery.flushed(), recovery.is_settled());
            let case = (received, replayed, waits_on);
            assert_eq!(found, (flushed.map(Lsn), settled), "{case:?}");
        }
    }

    #[test]
    fn a_sender_acts_on_the_names_once_its_priority_says_so() {
        let any = Names::parse("ANY 1 (\"pg-2\")").unwrap();
        for (name, state, priority, acts) in [
            ("pg-2", "streaming", 1, true),
            ("pg-2", "streaming", 0, false),
            ("pg-2", "catchup", 0, true),
            ("pg-3", "streaming", 0, true),
            ("pg-3", "streaming", 1, false),
            ("not a member", "streaming", 0, true),
        ] {
            let row = ReplicationRow {
                application_name: name.to_owned(),
                state: state.to_owned(),
                sync_priority: priority,
                ..ReplicationRow::default()
            };
            assert_eq!(
                senders_act_on(&[row], &any),
                acts,
                "{name} {state} {priority}"
            );
        }
    }

    #[test]
    fn a_pending_parameter_may_have_equals_signs_in_its_value() {
        let split = |line| pending(line).map(|(name, old, new)| [name, old, new].join("|"));
        assert_eq!(
            split("max_connections=50=60").as_deref(),
            Some("max_connections|50|60")
        );
        assert_eq!(split("a=b=c=d").as_deref(), Some("a|b|c=d"));
        assert_eq!(split("nonsense"), None);
    }
}
