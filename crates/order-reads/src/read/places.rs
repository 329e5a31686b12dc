//! The places that an order may be read from: the cache, the primary, a standby, the archive.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Reader;
use super::answer::{Answer, Found, Source};
use super::verdict::{Cached, Replica, judge, weigh};
use crate::database::{Place, ServerState};
use crate::order::{Micros, Order, OrderId};
use mrg_base::lock;
use mrg_telemetry::chain;

/// How long an answer waits for its copy to be cached.
const CACHE_TIMEOUT: Duration = Duration::from_millis(5);

impl Reader {
    pub(super) async fn cached(&self, id: OrderId) -> Cached {
        let Some(cache) = &self.cache else {
            return Cached::Nothing;
        };
        let now = Micros::now();
        match cache.get(id, now, &self.metrics).await {
            Ok(Some(copy)) => judge(
                copy,
                now,
                *self.received_since.borrow(),
                cache.lives().active,
            ),
            Ok(None) => Cached::Nothing,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "the cache was not asked");
                Cached::Nothing
            }
        }
    }

    pub(super) async fn query_primary(&self, id: OrderId) -> Result<Place, String> {
        let Ok(_place) = self.bulkhead.try_acquire() else {
            self.metrics.bulkhead_full.fetch_add(1, Relaxed);
            return Err("all places at the primary are taken".to_owned());
        };
        match self.primary.place(id, self.budgets.active).await {
            Ok((state, place)) if !state.standby => Ok(place),
            Ok(_) => Err("the write pool leads to a standby".to_owned()),
            Err(error) => Err(format!("primary: {}", chain(&error))),
        }
    }

    pub(super) async fn query_replica(&self, id: OrderId) -> Replica {
        let Some(replica) = &self.replica else {
            return Replica::Nothing {
                doubtful: None,
                why: "there is no read pool".into(),
            };
        };
        let (state, place) = match replica.place(id, self.budgets.replica).await {
            Ok(answer) => answer,
            Err(error) => {
                return Replica::Nothing {
                    doubtful: None,
                    why: format!("replica: {}", chain(&error)),
                };
            }
        };
        let staleness = self.staleness(state);
        let source = if state.standby {
            Source::Replica
        } else {
            Source::Primary
        };
        weigh(place, source, staleness, self.budgets.maximum_lag)
    }

    /// How old an answer of this server is at most.
    pub(super) fn staleness(&self, state: ServerState) -> Option<Micros> {
        if !state.standby {
            return Some(Micros(0));
        }
        let staleness = lock(&self.written).staleness(Micros::now(), state.at);
        self.metrics.lag.store(
            staleness.map_or(u64::MAX, |age| age.0.unsigned_abs()),
            Relaxed,
        );
        staleness
    }

    pub(super) async fn archived(&self, id: OrderId, part: Option<&str>) -> Answer {
        let Some(archive) = &self.archive else {
            return if part.is_some() {
                Answer::Unavailable("no archive is configured".into())
            } else {
                Answer::Missing
            };
        };
        match tokio::time::timeout(self.budgets.archive, archive.find(id, part, &self.metrics))
            .await
        {
            Ok(Ok(Some(order))) => {
                let order = Arc::new(order);
                self.keep(order.clone()).await;
                Answer::Found(Found {
                    order,
                    source: Source::Archive,
                    staleness: Some(Micros(0)),
                })
            }
            Ok(Ok(None)) if part.is_some() => Answer::Unavailable(format!(
                "the archive's part {} does not have the order",
                part.unwrap_or_default()
            )),
            Ok(Ok(None)) => Answer::Missing,
            Ok(Err(error)) => Answer::Unavailable(format!("archive: {}", chain(&error))),
            Err(_) => Answer::Unavailable(format!(
                "archive: no answer within {} ms",
                self.budgets.archive.as_millis()
            )),
        }
    }

    /// An order from the primary, cached for the next question.
    pub(super) async fn fresh(&self, order: Order, source: Source) -> Found {
        let order = Arc::new(order);
        self.keep(order.clone()).await;
        Found {
            order,
            source,
            staleness: Some(Micros(0)),
        }
    }

    /// Caches a copy. The answer does not wait for a cache that is slow: the copy is written a
    /// little later.
    pub(super) async fn keep(&self, order: Arc<Order>) {
        let Some(cache) = self.cache.clone() else {
            return;
        };
        let metrics = self.metrics.clone();
        let kept = tokio::spawn(async move { cache.put(&order, Micros::now(), &metrics).await });
        let _ = tokio::time::timeout(CACHE_TIMEOUT, kept).await;
    }
}
