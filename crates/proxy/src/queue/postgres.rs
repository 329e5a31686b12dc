//! The table in PostgreSQL, reached through the write pool. Every pod of the workload sees it;
//! `SKIP LOCKED` shares the work.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row};

use super::error::Error;
use super::item::{Enqueued, Item, Status};
use mrg_policy::Queue as Limits;

/// Moments are milliseconds since 1970: no type of the server's stands between the two clocks.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS mrg_queue (
  ticket text PRIMARY KEY,
  workload text NOT NULL,
  dependency text NOT NULL,
  idempotency_key text NOT NULL,
  method text NOT NULL,
  path text NOT NULL,
  headers text NOT NULL,
  body bytea NOT NULL,
  created_ms bigint NOT NULL,
  standing text NOT NULL,
  retry_at_ms bigint NOT NULL,
  attempts integer NOT NULL DEFAULT 0,
  note text NOT NULL DEFAULT '',
  claimed_by text,
  claimed_until_ms bigint
);
CREATE INDEX IF NOT EXISTS mrg_queue_open ON mrg_queue (workload, dependency, created_ms) WHERE standing NOT IN ('Done', 'Discarded')";

const COLUMNS: &str = "ticket, workload, dependency, idempotency_key, method, path, headers, body, created_ms, standing, retry_at_ms, attempts, note";

/// How long a claim holds: a proxy that has not written by then how the request ended never will.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(120);

/// The database.
pub(super) struct Postgres {
    config: Config,
    connection: Mutex<Option<Client>>,
}

fn failed(action: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Error {
    move |source| Error::Postgres { action, source }
}

fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

fn moment(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

impl Postgres {
    /// The database at this address; it is connected to when it is used.
    ///
    /// # Errors
    /// If the address cannot be parsed.
    pub(super) fn new(dsn: &str) -> Result<Self, Error> {
        let mut config: Config = dsn.parse().map_err(Error::Address)?;
        config
            .connect_timeout(Duration::from_secs(1))
            .application_name("mrg-proxy");
        Ok(Self {
            config,
            connection: Mutex::new(None),
        })
    }

    /// Does something over the connection. A connection that fails is not used again.
    async fn with<T>(
        &self,
        action: &'static str,
        act: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, Error> {
        let mut connection = self.connection.lock().await;
        // Taken out, so that giving up in the middle leaves no connection with half an answer in
        // it.
        let client = if let Some(client) = connection.take().filter(|client| !client.is_closed()) {
            client
        } else {
            let (client, driver) = self
                .config
                .connect(NoTls)
                .await
                .map_err(failed("cannot be reached"))?;
            // Its end shows where the client is used.
            tokio::spawn(driver);
            client
                .batch_execute(TABLE)
                .await
                .map_err(failed("could not make its table"))?;
            client
        };
        let done = act(&client).await.map_err(failed(action))?;
        *connection = Some(client);
        Ok(done)
    }

    /// Keeps a request, unless it is there already or too many are.
    ///
    /// # Errors
    /// If the database does not answer; the request may be kept all the same.
    pub(super) async fn put(&self, item: &Item, capacity: u32) -> Result<Enqueued, Error> {
        let headers = serde_json::to_string(&item.headers).unwrap_or_default();
        let (created, retry_at) = (millis(item.created), millis(item.retry_at));
        let (status, capacity) = (item.status.name(), i64::from(capacity));
        let attempts = i32::try_from(item.attempts).unwrap_or(i32::MAX);
        let body: &[u8] = &item.body;
        let values: [&(dyn ToSql + Sync); 14] = [
            &item.ticket,
            &item.workload,
            &item.dependency,
            &item.key,
            &item.method,
            &item.path,
            &headers,
            &body,
            &created,
            &status,
            &retry_at,
            &attempts,
            &item.note,
            &capacity,
        ];
        self.with("did not keep a request", async |client| {
            let kept = client
                .execute(
                    "INSERT INTO mrg_queue (ticket, workload, dependency, idempotency_key, method, path, headers, body, created_ms, standing,
                       retry_at_ms, attempts, note)
                     SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13
                     WHERE (SELECT count(*) FROM mrg_queue WHERE workload = $2 AND dependency = $3 AND standing NOT IN ('Done', 'Discarded')) < $14
                     ON CONFLICT (ticket) DO NOTHING",
                    &values,
                )
                .await?;
            if kept > 0 {
                return Ok(Enqueued::Ticket(item.ticket.clone(), item.status));
            }
            let known = client.query_opt("SELECT standing FROM mrg_queue WHERE ticket = $1", &[&item.ticket]).await?;
            let status = known.and_then(|row| Status::from_name(row.get(0)));
            Ok(status.map_or(Enqueued::Full, |status| Enqueued::Ticket(item.ticket.clone(), status)))
        })
        .await
    }

    /// The status of a request, and whether anything is pending for its dependency.
    ///
    /// # Errors
    /// If the database does not answer.
    pub(super) async fn pending(
        &self,
        workload: &str,
        dependency: &str,
        ticket: &str,
    ) -> Result<(Option<Status>, bool), Error> {
        let statement = "SELECT (SELECT standing FROM mrg_queue WHERE ticket = $3), EXISTS
                           (SELECT FROM mrg_queue WHERE workload = $1 AND dependency = $2 AND standing IN ('Waiting', 'Sending', 'Inquiry'))";
        self.with("did not look a request up", async |client| {
            let row = client
                .query_one(statement, &[&workload, &dependency, &ticket])
                .await?;
            let status = row.get::<_, Option<&str>>(0).and_then(Status::from_name);
            Ok((status, row.get(1)))
        })
        .await
    }

    /// The oldest that may be sent, marked as being sent. What others marked and never settled is
    /// left to people first.
    ///
    /// # Errors
    /// If the database does not answer.
    pub(super) async fn claim(
        &self,
        workload: &str,
        dependency: &str,
        pod: &str,
        limits: &Limits,
        repeatable: bool,
    ) -> Result<Option<Item>, Error> {
        let now = millis(Timestamp::now());
        let length = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let (too_old, until) = (
            now.saturating_sub(length(limits.max_age.0.duration())),
            now + length(CLAIM_TIMEOUT),
        );
        let lost = if repeatable {
            Status::Waiting
        } else {
            Status::NeedsReview
        }
        .name();
        let statement = format!(
            "UPDATE mrg_queue SET standing = 'Sending', attempts = attempts + 1, claimed_by = $3, claimed_until_ms = $4
             WHERE ticket = (SELECT ticket FROM mrg_queue WHERE workload = $1 AND dependency = $2 AND standing = 'Waiting' AND retry_at_ms <= $5
                             ORDER BY created_ms LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING {COLUMNS}"
        );
        self.with("did not give out a request", async |client| {
            client
                .execute(
                    "UPDATE mrg_queue SET standing = CASE WHEN standing = 'Sending' THEN $4 ELSE 'Expired' END,
                       note = CASE WHEN standing = 'Sending' THEN 'the proxy ended while it was being sent' ELSE 'it waited too long' END
                     WHERE workload = $1 AND dependency = $2
                       AND ((standing = 'Sending' AND claimed_until_ms < $3) OR (standing = 'Waiting' AND created_ms < $5))",
                    &[&workload, &dependency, &now, &lost, &too_old],
                )
                .await?;
            let row = client.query_opt(&statement, &[&workload, &dependency, &pod, &until, &now]).await?;
            Ok(row.map(|row| item(&row)))
        })
        .await
    }

    /// Lets the requests that wait for another attempt be sent now.
    ///
    /// # Errors
    /// If the database does not write it.
    pub(super) async fn hurry(&self, workload: &str, dependency: &str) -> Result<(), Error> {
        let now = millis(Timestamp::now());
        self.with("did not bring forward what waits", async |client| {
            let statement = "UPDATE mrg_queue SET retry_at_ms = $3
                             WHERE workload = $1 AND dependency = $2 AND standing = 'Waiting' AND retry_at_ms > $3";
            client.execute(statement, &[&workload, &dependency, &now]).await
        })
        .await
        .map(drop)
    }

    /// How a request has ended.
    ///
    /// # Errors
    /// If the database does not write it.
    pub(super) async fn settle(
        &self,
        ticket: &str,
        status: Status,
        retry_at: Option<Timestamp>,
        note: &str,
    ) -> Result<(), Error> {
        let retry_at = millis(retry_at.unwrap_or_else(Timestamp::now));
        let status = status.name();
        self.with("did not write how a request ended", async |client| {
            let statement = "UPDATE mrg_queue SET standing = $2, retry_at_ms = $3, note = $4, claimed_until_ms = NULL WHERE ticket = $1";
            client.execute(statement, &[&ticket, &status, &retry_at, &note]).await
        })
        .await
        .map(drop)
    }

    /// Gives a request the status that a person chose. False if it is unknown, answered, or being
    /// sent.
    ///
    /// # Errors
    /// If the database does not write it.
    pub(super) async fn decide(
        &self,
        ticket: &str,
        status: Status,
        note: &str,
    ) -> Result<bool, Error> {
        let (status, now) = (status.name(), millis(Timestamp::now()));
        let decided = self.with("did not write what was decided", async |client| {
            let statement = "UPDATE mrg_queue SET standing = $2, retry_at_ms = $3, note = $4
                             WHERE ticket = $1 AND standing NOT IN ('Sending', 'Done')";
            client
                .execute(statement, &[&ticket, &status, &now, &note])
                .await
        });
        Ok(decided.await? > 0)
    }

    /// How many wait, how many people must ask about, and since when the oldest of them does.
    ///
    /// # Errors
    /// If the database does not count.
    pub(super) async fn count(
        &self,
        workload: &str,
        dependency: &str,
    ) -> Result<(u64, u64, Option<Timestamp>), Error> {
        self.with("did not count", async |client| {
            let row = client
                .query_one(
                    "SELECT count(*) FILTER (WHERE standing IN ('Waiting', 'Sending')),
                            count(*) FILTER (WHERE standing IN ('Inquiry', 'Expired')), min(created_ms)
                     FROM mrg_queue WHERE workload = $1 AND dependency = $2 AND standing NOT IN ('Done', 'Discarded')",
                    &[&workload, &dependency],
                )
                .await?;
            let count = |index| u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
            Ok((count(0), count(1), row.get::<_, Option<i64>>(2).map(moment)))
        })
        .await
    }

    /// The newest thousand.
    ///
    /// # Errors
    /// If the database does not answer.
    pub(super) async fn list(&self, workload: &str) -> Result<Vec<Item>, Error> {
        let statement = format!(
            "SELECT {COLUMNS} FROM mrg_queue WHERE workload = $1 ORDER BY created_ms DESC LIMIT 1000"
        );
        self.with("did not list", async |client| {
            Ok(client
                .query(&statement, &[&workload])
                .await?
                .iter()
                .map(item)
                .collect())
        })
        .await
    }
}

fn item(row: &Row) -> Item {
    Item {
        ticket: row.get(0),
        workload: row.get(1),
        dependency: row.get(2),
        key: row.get(3),
        method: row.get(4),
        path: row.get(5),
        headers: serde_json::from_str(row.get(6)).unwrap_or_default(),
        body: Bytes::from(row.get::<_, Vec<u8>>(7)),
        created: moment(row.get(8)),
        // What is not understood is not sent.
        status: Status::from_name(row.get(9)).unwrap_or(Status::NeedsReview),
        retry_at: moment(row.get(10)),
        attempts: u32::try_from(row.get::<_, i32>(11)).unwrap_or(0),
        note: row.get(12),
    }
}
