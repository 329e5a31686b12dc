//! Moves orders that ended long ago from the database to the archive: written, read back and
//! compared, and only then deleted, in one transaction with the entry that says where they are now.
//! Whatever fails or is killed in between, an order is in at least one of the two places.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio_postgres::{Client, Config, NoTls};

use super::archive::{self, Archive};
use super::order::{FINAL_STATES, Micros, Order};

/// Why archiving ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the database failed")]
    Database(#[from] tokio_postgres::Error),
    #[error("the archive failed")]
    Archive(#[from] archive::Error),
    /// What was read back is not what was written.
    #[error(
        "the part {0} does not hold what was written to it; nothing was deleted; look at the storage, then run this again"
    )]
    Verify(String),
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Orders moved.
    pub orders: u64,
    /// Parts written.
    pub parts: u64,
    /// Orders that changed meanwhile, and stay.
    pub changed: u64,
}

/// Moves all orders that ended more than `age` ago, `batch` at a time.
///
/// # Errors
/// If the database or the archive fails; what was moved until then stays moved.
pub(crate) async fn run(
    config: &Config,
    archive: &Archive,
    age: Duration,
    batch: i64,
) -> Result<Moved, Error> {
    let (mut client, connection) = config.connect(NoTls).await?;
    let pump = tokio::spawn(connection);
    let mut moved = Moved::default();
    loop {
        let orders = oldest(&client, age, batch).await?;
        if orders.is_empty() {
            break;
        }
        let before = moved.orders;
        let mut days: BTreeMap<i64, Vec<Order>> = BTreeMap::new();
        for order in orders {
            days.entry(order.created_at.0.div_euclid(86_400_000_000))
                .or_default()
                .push(order);
        }
        for (_, mut orders) in days {
            orders.sort_by_key(|order| order.id);
            move_part(&mut client, archive, &orders, &mut moved).await?;
        }
        if moved.orders == before {
            // All of them change all the time; the next run may fare better.
            break;
        }
    }
    drop(client);
    let _ = pump.await;
    Ok(moved)
}

async fn oldest(client: &Client, age: Duration, batch: i64) -> Result<Vec<Order>, Error> {
    let states: &[&str] = &FINAL_STATES;
    let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
    let sql = "SELECT id, customer, state, (extract(epoch FROM created_at) * 1000000)::bigint, (extract(epoch FROM updated_at) * 1000000)::bigint,
               version, detail::text FROM public.orders WHERE state = ANY ($1) AND updated_at < now() - $2 * interval '1 second'
               AND isfinite(created_at) AND isfinite(updated_at) ORDER BY updated_at LIMIT $3";
    let rows = client
        .query(sql, &[&states, &(seconds as f64), &batch])
        .await?;
    let order = |row: &tokio_postgres::Row| -> Result<Order, tokio_postgres::Error> {
        Ok(Order {
            id: row.try_get(0)?,
            customer: row.try_get(1)?,
            state: row.try_get(2)?,
            created_at: Micros(row.try_get(3)?),
            updated_at: Micros(row.try_get(4)?),
            version: row.try_get(5)?,
            detail: RawValue::from_string(row.try_get(6)?)
                .unwrap_or_else(|_| RawValue::NULL.to_owned()),
        })
    };
    Ok(rows.iter().map(order).collect::<Result<_, _>>()?)
}

async fn move_part(
    client: &mut Client,
    archive: &Archive,
    orders: &[Order],
    moved: &mut Moved,
) -> Result<(), Error> {
    let part = archive.write(orders).await?;
    let text = |orders: &[Order]| serde_json::to_string(orders).unwrap_or_default();
    if text(&archive.read(&part).await?) != text(orders) {
        return Err(Error::Verify(part));
    }
    let transaction = client.transaction().await?;
    let ids: Vec<uuid::Uuid> = orders.iter().map(|order| order.id).collect();
    let versions: Vec<i64> = orders.iter().map(|order| order.version).collect();
    // Those that changed since they were read stay, and no row names their copy in the part.
    let sql = "WITH wanted AS (SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS w (id, version)),
               gone AS (DELETE FROM public.orders o USING wanted w WHERE o.id = w.id AND o.version = w.version
                        RETURNING o.id, o.customer, o.state, o.created_at, o.updated_at, o.version)
               INSERT INTO public.orders_archived (id, customer, state, created_at, updated_at, version, part)
               SELECT gone.*, $3 FROM gone ON CONFLICT (id) DO UPDATE SET part = excluded.part, state = excluded.state, version = excluded.version";
    let count = transaction.execute(sql, &[&ids, &versions, &part]).await?;
    transaction.commit().await?;
    moved.orders += count;
    moved.parts += 1;
    moved.changed += orders.len() as u64 - count;
    if count == 0 {
        archive.remove(&part).await?;
    }
    Ok(())
}
