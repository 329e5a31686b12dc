//! How an order is found: from the cheapest place that may answer down to the last that can. What
//! the places say is judged by pure functions; a question costs at most one round trip to each
//! place.

mod answer;
mod page;
mod places;
mod verdict;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::{Semaphore, watch};

use super::archive::Archive;
use super::cache::Cache;
use super::database::{Database, Place};
use super::flight::Flights;
use super::lag::Written;
use super::metrics::Metrics;
use super::order::{Micros, OrderId};
use mrg_telemetry::chain;
use verdict::{Cached, Replica, judge, of_kind, younger};

pub(crate) use answer::{Answer, Found, Kind, Source};

/// How much may be spent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budgets {
    /// For the primary's answer about an active order (the analysis: 200 ms).
    pub active: Duration,
    /// For a standby's answer.
    pub replica: Duration,
    /// For the archive's.
    pub archive: Duration,
    /// An answer of a standby that may be older than this is not a good one (the analysis: 5 s).
    pub maximum_lag: Duration,
    /// Orders older than this may be in the archive (the analysis: 30 days).
    pub archived_after: Duration,
}

/// How many connections to each database are opened before the first question.
const WARM_CONNECTIONS: usize = 4;

/// The places to read from, and how much each may cost.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Copies; `None`: there is no cache.
    pub cache: Option<Arc<Cache>>,
    pub primary: Database,
    /// Places at the leader: many for active orders, few for history.
    pub bulkhead: Semaphore,
    /// Standbys; `None`: only the leader is read from.
    pub replica: Option<Database>,
    /// Object storage; `None`: nothing is archived.
    pub archive: Option<Archive>,
    /// What the leader had written, and when.
    pub written: Mutex<Written>,
    /// Since when changes are received without a gap; `None`: they are not.
    pub received_since: watch::Receiver<Option<Micros>>,
    /// How much may be spent.
    pub budgets: Budgets,
    /// Counters and histograms.
    pub metrics: Arc<Metrics>,
    /// Questions under way.
    pub flights: Flights<(Kind, OrderId), Answer>,
}

impl Reader {
    /// Opens a few connections to each place.
    pub(crate) async fn warm(&self) {
        let limit = Duration::from_secs(5);
        let primary =
            futures::future::join_all((0..WARM_CONNECTIONS).map(|_| self.primary.ping(limit)));
        let replica = futures::future::join_all(
            self.replica
                .iter()
                .flat_map(|replica| (0..WARM_CONNECTIONS).map(move |_| replica.ping(limit))),
        );
        let cache = futures::future::join_all(self.cache.iter().map(|cache| cache.ping(limit)));
        let _ = tokio::join!(primary, replica, cache);
    }

    /// The answer to a question. Callers with the same question at the same time share it.
    pub(crate) async fn detail(self: &Arc<Self>, kind: Kind, id: OrderId) -> Answer {
        let began = Instant::now();
        let (answer, joined) = self
            .flights
            .join((kind, id), || {
                let reader = self.clone();
                async move { reader.find(kind, id).await }.boxed()
            })
            .await;
        if joined {
            self.metrics.shared.fetch_add(1, Relaxed);
        }
        match &answer {
            Answer::Found(found) => {
                self.metrics
                    .answered(kind, Some(found.source), began.elapsed());
            }
            Answer::Unavailable(_) => self.metrics.answered(kind, None, began.elapsed()),
            Answer::IsFinal | Answer::IsActive | Answer::Missing => {}
        }
        answer
    }

    async fn find(&self, kind: Kind, id: OrderId) -> Answer {
        let copy = match self.cached(id).await {
            Cached::Good(found) => return of_kind(kind, found),
            Cached::Doubtful(found) => Some(found),
            Cached::Nothing => None,
        };
        match kind {
            Kind::Active => self.active(id, copy).await,
            Kind::History => self.history(id, Kind::History, copy).await,
            Kind::Auto => self.history(id, Kind::Auto, copy).await,
        }
    }

    /// The primary, then a standby with a known small lag, then the last copy.
    async fn active(&self, id: OrderId, copy: Option<Found>) -> Answer {
        let why = match self.query_primary(id).await {
            Ok(Place::Here(order)) => {
                return of_kind(Kind::Active, self.fresh(order, Source::Primary).await);
            }
            Ok(Place::Archived(_)) => return Answer::IsFinal,
            Ok(Place::Missing) => return self.maybe_old(id, Kind::Active).await,
            Err(why) => why,
        };
        match self.query_replica(id).await {
            Replica::Final(_) | Replica::Archived(_) => Answer::IsFinal,
            Replica::Active(found) => Answer::Found(found),
            Replica::Missing { .. } => Answer::Unavailable(why),
            Replica::Nothing {
                doubtful,
                why: more,
            } => {
                self.last_resort(
                    Kind::Active,
                    id,
                    younger(copy, doubtful),
                    format!("{why}; {more}"),
                )
                .await
            }
        }
    }

    /// A standby, the archive, and the primary only through the bulkhead.
    async fn history(&self, id: OrderId, kind: Kind, copy: Option<Found>) -> Answer {
        let (seen, mut why) = match self.query_replica(id).await {
            Replica::Final(found) => {
                self.keep(found.order.clone()).await;
                return Answer::Found(found);
            }
            Replica::Archived(part) => return self.archived(id, Some(&part)).await,
            // It may have ended within the lag; the primary knows.
            Replica::Active(found) => (Some(found), String::new()),
            Replica::Missing { lag } if Self::existed_before(id, lag) => {
                return self.maybe_old(id, kind).await;
            }
            Replica::Missing { .. } => (None, String::new()),
            Replica::Nothing { doubtful, why } => (doubtful, why),
        };
        if self.is_old(id)
            && let Answer::Found(found) = self.archived(id, None).await
        {
            return Answer::Found(found);
        }
        match self.query_primary(id).await {
            Ok(Place::Here(order)) => {
                return of_kind(kind, self.fresh(order, Source::Primary).await);
            }
            Ok(Place::Archived(part)) => return self.archived(id, Some(&part)).await,
            Ok(Place::Missing) => return Answer::Missing,
            Err(more) if why.is_empty() => why = more,
            Err(more) => why = format!("{why}; {more}"),
        }
        self.last_resort(kind, id, younger(copy, seen), why).await
    }

    /// The answer when no place has a good one: the newest view there is, however old, if need be
    /// from a second query to the cache.
    async fn last_resort(
        &self,
        kind: Kind,
        id: OrderId,
        seen: Option<Found>,
        why: String,
    ) -> Answer {
        if let Some(found) = seen {
            return of_kind(kind, found);
        }
        let now = Micros::now();
        let Some(cache) = &self.cache else {
            return Answer::Unavailable(why);
        };
        match cache.get_last_resort(id, now).await {
            Ok(Some(copy)) => match judge(copy, now, None, Duration::ZERO) {
                Cached::Good(found) | Cached::Doubtful(found) => of_kind(kind, found),
                Cached::Nothing => Answer::Unavailable(why),
            },
            Ok(None) => Answer::Unavailable(why),
            Err(error) => Answer::Unavailable(format!("{why}; {}", chain(&error))),
        }
    }

    /// An order that no table has: the archive has it, if it is old enough.
    async fn maybe_old(&self, id: OrderId, kind: Kind) -> Answer {
        match (self.is_old(id), kind) {
            (false, _) => Answer::Missing,
            (true, Kind::Active) => Answer::IsFinal,
            (true, _) => self.archived(id, None).await,
        }
    }

    /// Old enough to be in the archive, by its id.
    fn is_old(&self, id: OrderId) -> bool {
        self.archive.is_some()
            && id
                .made_at()
                .is_some_and(|made| Micros::now().since(made) >= self.budgets.archived_after)
    }

    /// Whether a server that lags by so much would have it; with two seconds for clocks that
    /// differ.
    fn existed_before(id: OrderId, lag: Duration) -> bool {
        id.made_at()
            .is_some_and(|made| Micros::now().since(made) > lag + Duration::from_secs(2))
    }
}
