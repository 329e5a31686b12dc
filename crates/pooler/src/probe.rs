//! Asks servers what they are. The connection stays open as a heartbeat: its end shows at once that
//! the server is gone.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Connection, NoTls, SimpleQueryMessage};

use mrg_base::{Lsn, Millis, Timeline};
use mrg_bounds::{Allowance, Metered, dial};
use mrg_pgbouncer::Login;
use mrg_pool_core::{Address, Finding};

/// How long a server may take to accept a connection or to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// How long one probe waits for a server to leave recovery.
const PROMOTED_WITHIN: Duration = Duration::from_millis(500);
/// Between two questions while that lasts: nothing announces that a server has left recovery.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// What a server sends for a login or one answer is a hundredth of this.
const ANSWER_BYTES: usize = 64 << 10;

/// What the database and the role are set to does not say what a probe calls: the database's owner
/// could. `pg_temp` is named because it would be searched first.
const OPTIONS: &str = "-c search_path=pg_catalog,pg_temp";

// One round trip. Everything here is open to any role. A standby without a WAL receiver may be any
// time behind, so the age of what it has replayed counts even if it has replayed all that it has.
const PROBE: &str = "
SELECT pg_is_in_recovery(), (SELECT system_identifier FROM pg_control_system()),
       CASE WHEN pg_is_in_recovery() THEN '' ELSE substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8) END,
       CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
       CASE WHEN pg_last_wal_receive_lsn() IS DISTINCT FROM pg_last_wal_replay_lsn() OR NOT EXISTS (SELECT FROM pg_stat_wal_receiver)
            THEN greatest(0, extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000)::int8 ELSE 0 END";

/// An open session with a server.
pub(crate) struct HeartbeatConnection {
    client: Client,
    /// What the server may send for one answer.
    allowance: Allowance,
}

/// Connects; `None` if the server does not accept the login in time. `on_end` is awaited once when
/// an accepted connection has ended.
pub(crate) async fn connect(
    address: &Address,
    login: &Login,
    database: &str,
    on_end: impl Future<Output = ()> + Send + 'static,
) -> Option<HeartbeatConnection> {
    let allowance = Allowance::new(ANSWER_BYTES);
    let opened = tokio::time::timeout(
        ANSWER_WITHIN,
        open(address, login, database, allowance.clone()),
    );
    match opened.await {
        Ok(Ok((client, connection))) => {
            tokio::spawn(async move {
                let _ = connection.await;
                on_end.await;
            });
            Some(HeartbeatConnection { client, allowance })
        }
        Ok(Err(error)) => {
            tracing::debug!(%address, error = mrg_telemetry::chain(error.as_ref()), "the server does not take a connection");
            None
        }
        Err(_) => None,
    }
}

type Opened = (Client, Connection<Metered<TcpStream>, NoTlsStream>);

/// Dials and logs in.
async fn open(
    address: &Address,
    login: &Login,
    database: &str,
    allowance: Allowance,
) -> Result<Opened, Box<dyn std::error::Error + Send + Sync>> {
    let mut config = tokio_postgres::Config::new();
    config
        .user(&login.user)
        .password(&login.password)
        .dbname(database)
        .options(OPTIONS)
        .application_name("mrg-pooler");
    let stream = dial(&address.host, address.port, allowance).await?;
    Ok(config.connect_raw(stream, NoTls).await?)
}

/// What a server says of itself; `columns` is its answer to the question. `None` if it is no such
/// answer.
pub fn read_answer(columns: &[String]) -> Option<Finding> {
    let [recovering, system_id, timeline, position, behind] = columns else {
        return None;
    };
    let (system_id, position) = (system_id.parse().ok()?, position.parse::<Lsn>().ok());
    Some(if recovering == "t" {
        Finding::Standby {
            system_id,
            replayed: position.unwrap_or_default(),
            behind: Millis(behind.parse().unwrap_or(0)),
        }
    } else {
        Finding::Primary {
            system_id,
            timeline: Timeline(u32::from_str_radix(timeline, 16).ok()?),
            written: position?,
        }
    })
}

impl HeartbeatConnection {
    /// What the server is now.
    pub(crate) async fn probe(&self) -> Finding {
        self.allowance.renew();
        let Ok(Ok(messages)) =
            tokio::time::timeout(ANSWER_WITHIN, self.client.simple_query(PROBE)).await
        else {
            return Finding::Unreachable;
        };
        let columns = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|i| row.get(i).unwrap_or_default().to_owned())
                    .collect::<Vec<_>>(),
            ),
            _ => None,
        });
        columns
            .and_then(|columns| read_answer(&columns))
            .unwrap_or(Finding::Unreachable)
    }

    /// What the server is, once it has left recovery or too much time has passed.
    async fn probe_for_primary(&self) -> Finding {
        let deadline = Instant::now() + PROMOTED_WITHIN;
        loop {
            let finding = self.probe().await;
            if !matches!(finding, Finding::Standby { .. }) || Instant::now() >= deadline {
                return finding;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Probes a leader's server, waiting a moment for it to leave recovery. The connection comes back
/// if the server is the primary.
pub(crate) async fn leader(
    address: &Address,
    login: &Login,
    database: &str,
    on_end: impl Future<Output = ()> + Send + 'static,
) -> (Finding, Option<HeartbeatConnection>) {
    let Some(connection) = connect(address, login, database, on_end).await else {
        return (Finding::Unreachable, None);
    };
    let finding = connection.probe_for_primary().await;
    let is_primary = matches!(finding, Finding::Primary { .. });
    (finding, Some(connection).filter(|_| is_primary))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_itself_is_read_whole_or_not_at_all() {
        let row = |columns: [&str; 5]| read_answer(&columns.map(str::to_owned));
        let primary = Finding::Primary {
            system_id: 7,
            timeline: Timeline(17),
            written: Lsn(0x1_0000_0010),
        };
        assert_eq!(row(["f", "7", "00000011", "1/10", ""]), Some(primary));
        let standby = Finding::Standby {
            system_id: 7,
            replayed: Lsn(16),
            behind: Millis(1500),
        };
        assert_eq!(row(["t", "7", "", "0/10", "1500"]), Some(standby));
        assert_eq!(row(["f", "7", "", "0/10", ""]), None);
        assert_eq!(row(["f", "seven", "00000001", "0/10", ""]), None);
    }
}
