//! Copies of orders in Redis (or Valkey). Nothing depends on it: slow, full, gone or lying, and the
//! answer comes from elsewhere.
//!
//! One hash an order: `v`, the version, and `d`, the copy. A change leaves its version without a
//! copy, so that a slower reader cannot put an older copy back.

use std::sync::Mutex;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, Script};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use super::metrics::Metrics;
use super::order::{Micros, Order, OrderId};
use mrg_base::{Millis, lock};
use mrg_breaker::{Breaker, Outcome, Ratio, Settings};

/// Stores a copy unless a newer version is known. `KEYS[1]` the order, `ARGV` version, copy,
/// milliseconds to live.
const PUT: &str = "local v = redis.call('HGET', KEYS[1], 'v')
if v and tonumber(v) > tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'v', ARGV[1], 'd', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1";

/// Forgets copies older than a version. `KEYS[1]` the order, `ARGV` version, milliseconds to
/// remember it.
const DROP: &str = "local v = redis.call('HGET', KEYS[1], 'v')
if v and tonumber(v) >= tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'v', ARGV[1])
redis.call('HDEL', KEYS[1], 'd')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1";

/// How long a version without a copy is remembered: longer than any reader takes.
const REMEMBER_MS: u64 = 60_000;

/// Why the cache could not say.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the cache's address cannot be read: {0}")]
    Address(redis::RedisError),
    #[error("the cache failed: {0}")]
    Failed(#[from] redis::RedisError),
    /// It took too long.
    #[error("the cache did not answer within {} ms", .0.as_millis())]
    Late(Duration),
    /// It has failed lately, and is left alone for a moment.
    #[error("the cache has failed lately and is left alone for a moment")]
    LeftAlone,
}

/// How long copies live.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lives {
    /// Of an active order: how long its copy counts as fresh.
    pub active: Duration,
    /// Of an active order: how long its copy is kept for when nothing else answers.
    pub stale: Duration,
    /// Of a final one.
    pub history: Duration,
}

/// A copy, and when it was made.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Copy {
    /// When the database gave it.
    pub at: Micros,
    pub order: Order,
}

pub(crate) struct Cache {
    client: redis::Client,
    connection: OnceCell<ConnectionManager>,
    breaker: Mutex<Breaker>,
    put: Script,
    drop: Script,
    lives: Lives,
    budget: Duration,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache")
            .field("lives", &self.lives)
            .finish_non_exhaustive()
    }
}

fn key(id: OrderId) -> String {
    format!("mrg:order:{id}")
}

impl Cache {
    /// A cache at an address; it is connected when first used.
    ///
    /// # Errors
    /// If the address cannot be read.
    pub(crate) fn new(url: &str, lives: Lives, budget: Duration) -> Result<Self, Error> {
        let half = Ratio::try_from(0.5).unwrap_or_else(|_| unreachable!("a half is a ratio"));
        let settings = Settings {
            interval: Millis(10_000),
            timeout: Millis(1_000),
            min_requests: 10,
            failure_ratio: half,
            ..Settings::default()
        };
        Ok(Self {
            client: redis::Client::open(url).map_err(Error::Address)?,
            connection: OnceCell::new(),
            breaker: Mutex::new(Breaker::new(settings, mrg_clock::now())),
            put: Script::new(PUT),
            drop: Script::new(DROP),
            lives,
            budget,
        })
    }

    async fn connection(&self) -> Result<ConnectionManager, Error> {
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(1)
            .set_connection_timeout(Some(Duration::from_millis(500)))
            .set_response_timeout(Some(Duration::from_millis(500)));
        let manager = self
            .connection
            .get_or_try_init(|| self.client.get_connection_manager_with_config(config))
            .await?;
        Ok(manager.clone())
    }

    /// Every call goes through here: a deadline, and a breaker, so that a cache that hangs costs a
    /// few calls and not all.
    async fn call<T>(
        &self,
        budget: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let ticket = lock(&self.breaker)
            .admit(mrg_clock::now())
            .map_err(|_| Error::LeftAlone)?;
        let mut guard = Permit {
            breaker: &self.breaker,
            ticket: Some(ticket),
        };
        let outcome = tokio::time::timeout(budget, work)
            .await
            .unwrap_or(Err(Error::Late(budget)));
        guard.report(if outcome.is_ok() {
            Outcome::Success
        } else {
            Outcome::Failure
        });
        outcome
    }

    /// The copy of an order, if there is one that can be believed.
    ///
    /// # Errors
    /// If the cache does not answer.
    pub(crate) async fn get(
        &self,
        id: OrderId,
        now: Micros,
        metrics: &Metrics,
    ) -> Result<Option<Copy>, Error> {
        let found: Option<Vec<u8>> = self
            .call(self.budget, async {
                Ok(self.connection().await?.hget(key(id), "d").await?)
            })
            .await?;
        let Some(bytes) = found else { return Ok(None) };
        let copy = believable(&bytes, id, now);
        if copy.is_none() {
            metrics
                .malformed
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(copy)
    }

    /// The same when nothing else has answered: with more patience, and although it may have failed
    /// lately.
    ///
    /// # Errors
    /// If the cache does not answer.
    pub(crate) async fn get_last_resort(
        &self,
        id: OrderId,
        now: Micros,
    ) -> Result<Option<Copy>, Error> {
        let budget = self.budget * 6;
        let asked = async {
            Ok(self
                .connection()
                .await?
                .hget::<_, _, Option<Vec<u8>>>(key(id), "d")
                .await?)
        };
        let found = tokio::time::timeout(budget, asked)
            .await
            .unwrap_or(Err(Error::Late(budget)))?;
        Ok(found.and_then(|bytes| believable(&bytes, id, now)))
    }

    /// Keeps a copy, unless a newer version of the order is known. A cache that is full or gone
    /// fails no answer: its errors are only counted and logged.
    pub(crate) async fn put(&self, order: &Order, at: Micros, metrics: &Metrics) {
        let life = if order.is_final() {
            self.lives.history
        } else {
            self.lives.stale
        };
        let Ok(bytes) = serde_json::to_vec(&CopyOf { at, order }) else {
            return;
        };
        let stored = self.call(self.budget * 4, async {
            let mut connection = self.connection().await?;
            let millis = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
            Ok(self
                .put
                .key(key(OrderId(order.id)))
                .arg(order.version)
                .arg(bytes)
                .arg(millis)
                .invoke_async::<i64>(&mut connection)
                .await?)
        });
        if let Err(error) = stored.await {
            metrics
                .cache_writes_failed
                .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::debug!(error = %mrg_telemetry::chain(&error), "a copy was not kept");
        }
    }

    /// Removes the copies of an order that are older than this version.
    ///
    /// # Errors
    /// If the cache does not answer in time, or refuses the write.
    pub(crate) async fn forget(&self, id: OrderId, version: i64) -> Result<(), Error> {
        self.call(self.budget * 4, async {
            let mut connection = self.connection().await?;
            self.drop
                .key(key(id))
                .arg(version)
                .arg(REMEMBER_MS)
                .invoke_async::<i64>(&mut connection)
                .await?;
            Ok(())
        })
        .await
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// If the cache does not answer in time.
    pub(crate) async fn ping(&self, budget: Duration) -> Result<(), Error> {
        let ping = async {
            Ok(redis::cmd("PING")
                .query_async::<String>(&mut self.connection().await?)
                .await?)
        };
        tokio::time::timeout(budget, ping)
            .await
            .unwrap_or(Err(Error::Late(budget)))
            .map(|_| ())
    }

    /// How long copies live.
    pub(crate) fn lives(&self) -> Lives {
        self.lives
    }
}

#[derive(Serialize)]
struct CopyOf<'a> {
    at: Micros,
    order: &'a Order,
}

/// A copy that is what was asked for. Whatever else lies under the key, garbage, another order, a
/// copy from the future, is none.
fn believable(bytes: &[u8], id: OrderId, now: Micros) -> Option<Copy> {
    let copy: Copy = serde_json::from_slice(bytes).ok()?;
    (copy.order.id == id.0 && copy.at.0 <= now.0 + 2_000_000 && copy.order.version > 0)
        .then_some(copy)
}

/// A permit of the breaker that is given back whatever happens, also when the caller goes away.
struct Permit<'a> {
    breaker: &'a Mutex<Breaker>,
    ticket: Option<mrg_breaker::Ticket>,
}

impl Permit<'_> {
    fn report(&mut self, outcome: Outcome) {
        if let Some(ticket) = self.ticket.take() {
            lock(self.breaker).report(mrg_clock::now(), ticket, outcome);
        }
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.report(Outcome::Excluded);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn only_a_copy_of_the_order_asked_for_is_believed() {
        let id = OrderId(uuid::Uuid::from_u128(1));
        let order = |id: u128, version| Order {
            id: uuid::Uuid::from_u128(id),
            customer: "c".into(),
            state: "completed".into(),
            created_at: Micros(1),
            updated_at: Micros(2),
            version,
            detail: RawValue::NULL.to_owned(),
        };
        let bytes = |order: &Order, at| {
            serde_json::to_vec(&CopyOf {
                at: Micros(at),
                order,
            })
            .unwrap_or_default()
        };
        let now = Micros(10_000_000);
        assert!(believable(&bytes(&order(1, 1), 10), id, now).is_some());
        assert!(
            believable(&bytes(&order(2, 1), 10), id, now).is_none(),
            "another order's"
        );
        assert!(
            believable(&bytes(&order(1, 0), 10), id, now).is_none(),
            "no version"
        );
        assert!(
            believable(&bytes(&order(1, 1), 99_000_000), id, now).is_none(),
            "from the future"
        );
        let whole = bytes(&order(1, 1), 10);
        for cut in 0..whole.len() {
            assert!(believable(&whole[..cut], id, now).is_none(), "cut at {cut}");
        }
    }
}
