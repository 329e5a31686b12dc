//! Orders in PostgreSQL: one round trip a question, no prepared statements, so that any pooler
//! between will do.

use std::sync::Mutex;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use serde_json::value::RawValue;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{NoTls, Row as Line};
use uuid::Uuid;

use super::lag::Written;
use super::order::{Cursor, FINAL_STATES, Micros, Order, OrderId, Row};
use mrg_base::{Lsn, lock};

/// Why a database gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The connection string.
    #[error("{setting} is not a connection string: {source}")]
    Dsn {
        setting: &'static str,
        source: tokio_postgres::Error,
    },
    #[error("failed to connect")]
    Connect(#[from] deadpool_postgres::PoolError),
    /// The query failed.
    #[error("the query failed")]
    Query(#[from] tokio_postgres::Error),
    /// It took too long.
    #[error("no answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// The pool's settings.
    #[error("failed to make a pool: {0}")]
    Pool(String),
}

/// Connections to one pool of servers.
#[derive(Debug)]
pub(crate) struct Database {
    pool: Pool,
}

/// Orders made at or after this are beyond what a cursor can say: such rows are skipped.
const END_OF_TIME: i64 = 253_402_300_800_000_000;

/// What a server said of itself beside its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ServerState {
    /// Whether it is a standby.
    pub standby: bool,
    /// Up to where it had written, or replayed.
    pub at: Lsn,
}

/// Where an order is, as one server knows it.
#[derive(Debug)]
pub(crate) enum Place {
    /// In the table.
    Here(Order),
    /// In the archive, in this part.
    Archived(String),
    Missing,
}

/// Microseconds since 1970 of a column; PostgreSQL's infinities are none.
macro_rules! micros {
    ($column:literal) => {
        concat!(
            "CASE WHEN isfinite(",
            $column,
            ") THEN (extract(epoch FROM ",
            $column,
            ") * 1000000)::bigint ELSE 0 END"
        )
    };
}

/// The columns of a [`ServerState`]. The position is read within the same statement, some
/// microseconds after its snapshot.
macro_rules! server_state {
    () => {
        "pg_is_in_recovery(), ((CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_wal_replay_lsn(), '0/0') ELSE pg_current_wal_lsn() END) - '0/0'::pg_lsn)::bigint"
    };
}

const ONE: &str = concat!(
    "SELECT ",
    server_state!(),
    ", o.id, o.customer, o.state, ",
    micros!("o.created_at"),
    ", ",
    micros!("o.updated_at"),
    ", o.version, o.detail::text, a.part FROM (SELECT $1 AS id) wanted LEFT JOIN orders o USING (id) LEFT JOIN orders_archived a USING (id)"
);

const ACTIVE: &str = concat!(
    "SELECT ",
    server_state!(),
    ", page.* FROM (SELECT 1) one LEFT JOIN LATERAL (SELECT id, state, ",
    micros!("created_at"),
    ", false FROM orders WHERE customer = $1 AND NOT state = ANY ($5) AND created_at > '-infinity'
     AND (created_at, id) < ('epoch'::timestamptz + $2 * interval '1 microsecond', $3) ORDER BY created_at DESC, id DESC LIMIT $4) page ON true"
);

const HISTORY: &str = concat!(
    "SELECT ",
    server_state!(),
    ", page.* FROM (SELECT 1) one LEFT JOIN LATERAL (
     (SELECT id, state, ",
    micros!("created_at"),
    " AS made, false FROM orders WHERE customer = $1 AND state = ANY ($5) AND created_at > '-infinity'
      AND (created_at, id) < ('epoch'::timestamptz + $2 * interval '1 microsecond', $3) ORDER BY created_at DESC, id DESC LIMIT $4)
     UNION ALL (SELECT id, state, ",
    micros!("created_at"),
    ", true FROM orders_archived WHERE customer = $1 AND created_at > '-infinity'
      AND (created_at, id) < ('epoch'::timestamptz + $2 * interval '1 microsecond', $3) ORDER BY created_at DESC, id DESC LIMIT $4)
     ORDER BY made DESC, id DESC LIMIT $4) page ON true"
);

impl Database {
    /// At most `size` connections, opened when needed.
    ///
    /// # Errors
    /// If the connection string cannot be read.
    pub(crate) fn new(setting: &'static str, dsn: &str, size: usize) -> Result<Self, Error> {
        let mut config: tokio_postgres::Config = dsn
            .parse()
            .map_err(|source| Error::Dsn { setting, source })?;
        config
            .application_name("mrg-orders")
            .connect_timeout(Duration::from_secs(2));
        let manager = Manager::from_config(
            config,
            NoTls,
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let limits = Timeouts {
            wait: Some(Duration::from_secs(2)),
            create: Some(Duration::from_secs(2)),
            recycle: Some(Duration::from_secs(1)),
        };
        let pool = Pool::builder(manager)
            .max_size(size)
            .timeouts(limits)
            .runtime(Runtime::Tokio1)
            .build();
        Ok(Self {
            pool: pool.map_err(|error| Error::Pool(error.to_string()))?,
        })
    }

    async fn query(
        &self,
        budget: Duration,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<Line>, Error> {
        let mut taken: Option<Object> = None;
        let asked = async {
            let client = taken.insert(self.pool.get().await?);
            Ok(client.query_typed(sql, parameters).await?)
        };
        let answer = tokio::time::timeout(budget, asked)
            .await
            .unwrap_or(Err(Error::Late(budget)));
        if answer.is_err()
            && let Some(client) = taken
        {
            // Its answer may still come; the next question must not stand behind it.
            drop(Object::take(client));
        }
        answer
    }

    /// Where an order is.
    ///
    /// # Errors
    /// If the server does not answer in time.
    pub(crate) async fn place(
        &self,
        id: OrderId,
        budget: Duration,
    ) -> Result<(ServerState, Place), Error> {
        let lines = self.query(budget, ONE, &[(&id.0, Type::UUID)]).await?;
        let Some(line) = lines.first() else {
            return Ok((
                ServerState {
                    standby: false,
                    at: Lsn(0),
                },
                Place::Missing,
            ));
        };
        let place = match (
            line.try_get::<_, Option<Uuid>>(2)?,
            line.try_get::<_, Option<String>>(9)?,
        ) {
            (Some(id), _) => Place::Here(Order {
                id,
                customer: line.try_get(3)?,
                state: line.try_get(4)?,
                created_at: Micros(line.try_get(5)?),
                updated_at: Micros(line.try_get(6)?),
                version: line.try_get(7)?,
                // jsonb is JSON.
                detail: RawValue::from_string(line.try_get(8)?)
                    .unwrap_or_else(|_| RawValue::NULL.to_owned()),
            }),
            (None, Some(part)) => Place::Archived(part),
            (None, None) => Place::Missing,
        };
        Ok((server_state(line)?, place))
    }

    /// A page of a customer's orders, newest first, and how many rows were left out because they
    /// make no sense.
    ///
    /// # Errors
    /// If the server does not answer in time.
    pub(crate) async fn page(
        &self,
        customer: &str,
        finals: bool,
        after: Option<Cursor>,
        limit: i64,
        budget: Duration,
    ) -> Result<(ServerState, Vec<Row>, u64), Error> {
        let after = after.unwrap_or(Cursor {
            created_at: Micros(END_OF_TIME - 1),
            id: Uuid::max(),
        });
        let states: &[&str] = &FINAL_STATES;
        let parameters: [(&(dyn ToSql + Sync), Type); 5] = [
            (&customer, Type::TEXT),
            (&after.created_at.0, Type::INT8),
            (&after.id, Type::UUID),
            (&limit, Type::INT8),
            (&states, Type::TEXT_ARRAY),
        ];
        let lines = self
            .query(budget, if finals { HISTORY } else { ACTIVE }, &parameters)
            .await?;
        let (mut rows, mut skipped) = (Vec::with_capacity(lines.len()), 0);
        let mut seen = ServerState {
            standby: false,
            at: Lsn(0),
        };
        for line in &lines {
            seen = server_state(line)?;
            let Some(id) = line.try_get::<_, Option<Uuid>>(2)? else {
                continue;
            };
            let row = Row {
                id,
                state: line.try_get(3)?,
                created_at: Micros(line.try_get(4)?),
                archived: line.try_get(5)?,
            };
            if (0..END_OF_TIME).contains(&row.created_at.0) {
                rows.push(row);
            } else {
                skipped += 1;
            }
        }
        Ok((seen, rows, skipped))
    }

    /// The state of a server.
    ///
    /// # Errors
    /// If no server answers in time.
    pub(crate) async fn ping(&self, budget: Duration) -> Result<ServerState, Error> {
        let lines = self
            .query(budget, concat!("SELECT ", server_state!()), &[])
            .await?;
        lines.first().map_or(
            Ok(ServerState {
                standby: false,
                at: Lsn(0),
            }),
            server_state,
        )
    }

    /// Connections that are open.
    pub(crate) fn connections(&self) -> usize {
        self.pool.status().size
    }
}

fn server_state(line: &Line) -> Result<ServerState, Error> {
    let at: i64 = line.try_get(1)?;
    Ok(ServerState {
        standby: line.try_get(0)?,
        at: Lsn(at.unsigned_abs()),
    })
}

/// Asks the primary once a second how far it has written. Ends with the process.
pub(crate) async fn sample(primary: &Database, written: &Mutex<Written>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let asked = Micros::now();
        if let Ok(ServerState { standby: false, at }) = primary.ping(Duration::from_secs(1)).await {
            lock(written).sample(asked, at);
        }
    }
}
