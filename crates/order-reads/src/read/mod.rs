//! How an order is found: from the cheapest place that may answer down to the last that can. What
//! the places say is judged by pure functions; a question costs at most one round trip to each
//! place.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::sync::{Semaphore, watch};

use super::archive::Archive;
use super::cache::{Cache, Copy};
use super::database::{Database, Place, Standing};
use super::flight::Flights;
use super::lag::Written;
use super::metrics::Metrics;
use super::order::{Cursor, Micros, Order, OrderId, Row};
use mrg_base::lock;
use mrg_telemetry::chain;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An order under way.
    Active,
    /// One that has ended.
    History,
    /// Whichever it is.
    Auto,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 3] = [Self::Active, Self::History, Self::Auto];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::History => "history",
            Self::Auto => "auto",
        }
    }
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A copy.
    Cache,
    /// The leader.
    Primary,
    /// A standby.
    Replica,
    /// Object storage.
    Archive,
}

impl Source {
    /// All.
    pub const ALL: [Self; 4] = [Self::Cache, Self::Primary, Self::Replica, Self::Archive];

    /// As headers and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Archive => "archive",
        }
    }
}

/// An order, where it came from, and how old this view of it may be; `None`: unknown.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub order: Arc<Order>,
    pub source: Source,
    /// How old at most; microseconds.
    pub staleness: Option<Micros>,
}

/// What a question ends with.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Found(Found),
    /// It has ended: it is asked for as history.
    IsFinal,
    /// It is under way: it is asked for as active.
    IsActive,
    /// There is none.
    Missing,
    /// Nobody can say just now.
    Unavailable(String),
}

/// What a page of a list ends with.
#[derive(Debug)]
pub(crate) struct Page {
    pub rows: Vec<Row>,
    pub source: Source,
    /// How old at most; microseconds.
    pub staleness: Option<Micros>,
}

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

/// How long an answer waits for its copy to be kept.
const PATIENCE_TO_KEEP: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(crate) struct Reader {
    /// Copies; `None`: there is no cache.
    pub cache: Option<Arc<Cache>>,
    pub primary: Database,
    /// Places at the leader: many for active orders, few for history.
    pub bulkhead: Semaphore,
    /// Standbys; `None`: only the leader is asked.
    pub replica: Option<Database>,
    /// Object storage; `None`: nothing is archived.
    pub archive: Option<Archive>,
    /// What the leader had written, and when.
    pub written: Mutex<Written>,
    /// Since when changes are heard without a gap; `None`: they are not.
    pub heard_since: watch::Receiver<Option<Micros>>,
    /// How much may be spent.
    pub budgets: Budgets,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Questions under way.
    pub flights: Flights<(Kind, OrderId), Answer>,
}

/// What the cache has to say.
enum Cached {
    /// A copy that answers.
    Good(Found),
    /// A copy that is too old, or of which nobody knows whether it is: for when all else fails.
    Doubtful(Found),
    Nothing,
}

/// What a standby has to say.
enum Replica {
    /// An order that has ended: nothing newer can be known of it.
    Final(Found),
    /// One under way, as a standby with a known small lag sees it.
    Active(Found),
    /// It is archived.
    Archived(String),
    /// A standby with a known small lag has no such order, and it would have it were it not younger
    /// than this.
    Missing { lag: Duration },
    /// An answer that is not to be trusted, or none.
    Nothing {
        doubtful: Option<Found>,
        why: String,
    },
}

impl Reader {
    /// Opens a few connections to each place.
    pub(crate) async fn warm(&self) {
        const FEW: usize = 4;
        let limit = Duration::from_secs(5);
        let primary = futures::future::join_all((0..FEW).map(|_| self.primary.ping(limit)));
        let replica = futures::future::join_all(
            self.replica
                .iter()
                .flat_map(|replica| (0..FEW).map(move |_| replica.ping(limit))),
        );
        let cache = futures::future::join_all(self.cache.iter().map(|cache| cache.ping(limit)));
        let _ = tokio::join!(primary, replica, cache);
    }

    /// The answer to a question. Those who ask the same at the same time share it.
    pub(crate) async fn detail(self: &Arc<Self>, kind: Kind, id: OrderId) -> Answer {
        let began = Instant::now();
        let (answer, joined) = self
            .flights
            .join((kind, id), || {
                let reader = self.clone();
                async move { reader.look(kind, id).await }.boxed()
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

    async fn look(&self, kind: Kind, id: OrderId) -> Answer {
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
        let why = match self.ask_primary(id).await {
            Ok(Place::Here(order)) => {
                return of_kind(Kind::Active, self.fresh(order, Source::Primary).await);
            }
            Ok(Place::Archived(_)) => return Answer::IsFinal,
            Ok(Place::Missing) => return self.maybe_old(id, Kind::Active).await,
            Err(why) => why,
        };
        match self.ask_replica(id).await {
            Replica::Final(_) | Replica::Archived(_) => Answer::IsFinal,
            Replica::Active(found) => Answer::Found(found),
            Replica::Missing { .. } => Answer::Unavailable(why),
            Replica::Nothing {
                doubtful,
                why: more,
            } => {
                self.at_last(
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
        let (seen, mut why) = match self.ask_replica(id).await {
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
        match self.ask_primary(id).await {
            Ok(Place::Here(order)) => {
                return of_kind(kind, self.fresh(order, Source::Primary).await);
            }
            Ok(Place::Archived(part)) => return self.archived(id, Some(&part)).await,
            Ok(Place::Missing) => return Answer::Missing,
            Err(more) if why.is_empty() => why = more,
            Err(more) => why = format!("{why}; {more}"),
        }
        self.at_last(kind, id, younger(copy, seen), why).await
    }

    /// Nobody has given a good answer: what there is, however old, and be it that the cache is
    /// asked once more.
    async fn at_last(&self, kind: Kind, id: OrderId, seen: Option<Found>, why: String) -> Answer {
        if let Some(found) = seen {
            return of_kind(kind, found);
        }
        let now = Micros::now();
        let Some(cache) = &self.cache else {
            return Answer::Unavailable(why);
        };
        match cache.get_at_last(id, now).await {
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

    async fn cached(&self, id: OrderId) -> Cached {
        let Some(cache) = &self.cache else {
            return Cached::Nothing;
        };
        let now = Micros::now();
        match cache.get(id, now, &self.metrics).await {
            Ok(Some(copy)) => judge(copy, now, *self.heard_since.borrow(), cache.lives().active),
            Ok(None) => Cached::Nothing,
            Err(error) => {
                tracing::debug!(error = %chain(&error), "the cache was not asked");
                Cached::Nothing
            }
        }
    }

    async fn ask_primary(&self, id: OrderId) -> Result<Place, String> {
        let Ok(_place) = self.bulkhead.try_acquire() else {
            self.metrics.bulkhead_full.fetch_add(1, Relaxed);
            return Err("all places at the primary are taken".to_owned());
        };
        match self.primary.place(id, self.budgets.active).await {
            Ok((standing, place)) if !standing.standby => Ok(place),
            Ok(_) => Err("the write pool leads to a standby".to_owned()),
            Err(error) => Err(format!("primary: {}", chain(&error))),
        }
    }

    async fn ask_replica(&self, id: OrderId) -> Replica {
        let Some(replica) = &self.replica else {
            return Replica::Nothing {
                doubtful: None,
                why: "there is no read pool".into(),
            };
        };
        let (standing, place) = match replica.place(id, self.budgets.replica).await {
            Ok(answer) => answer,
            Err(error) => {
                return Replica::Nothing {
                    doubtful: None,
                    why: format!("replica: {}", chain(&error)),
                };
            }
        };
        let staleness = self.staleness(standing);
        let source = if standing.standby {
            Source::Replica
        } else {
            Source::Primary
        };
        weigh(place, source, staleness, self.budgets.maximum_lag)
    }

    /// How old an answer of this server is at most.
    fn staleness(&self, standing: Standing) -> Option<Micros> {
        if !standing.standby {
            return Some(Micros(0));
        }
        let staleness = lock(&self.written).staleness(Micros::now(), standing.at);
        self.metrics.lag.store(
            staleness.map_or(u64::MAX, |age| age.0.unsigned_abs()),
            Relaxed,
        );
        staleness
    }

    async fn archived(&self, id: OrderId, part: Option<&str>) -> Answer {
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

    /// An order from the primary: kept for the next.
    async fn fresh(&self, order: Order, source: Source) -> Found {
        let order = Arc::new(order);
        self.keep(order.clone()).await;
        Found {
            order,
            source,
            staleness: Some(Micros(0)),
        }
    }

    /// Keeps a copy. The answer does not wait for a cache that is slow: it is kept all the same, a
    /// little later.
    async fn keep(&self, order: Arc<Order>) {
        let Some(cache) = self.cache.clone() else {
            return;
        };
        let metrics = self.metrics.clone();
        let kept = tokio::spawn(async move { cache.put(&order, Micros::now(), &metrics).await });
        let _ = tokio::time::timeout(PATIENCE_TO_KEEP, kept).await;
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

    /// A page of a customer's orders.
    ///
    /// # Errors
    /// If nobody can say just now, with the reason.
    pub(crate) async fn page(
        &self,
        kind: Kind,
        customer: &str,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Page, String> {
        let finals = kind == Kind::History;
        let of = |source, staleness, (rows, skipped): (Vec<Row>, u64)| {
            self.metrics.malformed.fetch_add(skipped, Relaxed);
            Page {
                rows,
                source,
                staleness,
            }
        };
        let mut why = Vec::new();
        let mut doubtful = None;
        if finals && let Some(replica) = &self.replica {
            match replica
                .page(customer, finals, after, limit, self.budgets.replica)
                .await
            {
                Ok((standing, rows, skipped)) => {
                    let staleness = self.staleness(standing);
                    let page = of(
                        if standing.standby {
                            Source::Replica
                        } else {
                            Source::Primary
                        },
                        staleness,
                        (rows, skipped),
                    );
                    if is_recent(staleness, self.budgets.maximum_lag) {
                        return Ok(page);
                    }
                    doubtful = Some(page);
                }
                Err(error) => why.push(format!("replica: {}", chain(&error))),
            }
        }
        match self.bulkhead.try_acquire() {
            Ok(_place) => match self
                .primary
                .page(customer, finals, after, limit, self.budgets.active)
                .await
            {
                Ok((standing, rows, skipped)) if !standing.standby => {
                    return Ok(of(Source::Primary, Some(Micros(0)), (rows, skipped)));
                }
                Ok(_) => why.push("the write pool leads to a standby".into()),
                Err(error) => why.push(format!("primary: {}", chain(&error))),
            },
            Err(_) => why.push("all places at the primary are taken".into()),
        }
        if !finals && let Some(replica) = &self.replica {
            match replica
                .page(customer, finals, after, limit, self.budgets.replica)
                .await
            {
                Ok((standing, rows, skipped)) => {
                    doubtful = Some(of(
                        Source::Replica,
                        self.staleness(standing),
                        (rows, skipped),
                    ));
                }
                Err(error) => why.push(format!("replica: {}", chain(&error))),
            }
        }
        doubtful.ok_or_else(|| why.join("; "))
    }
}

fn is_recent(staleness: Option<Micros>, maximum: Duration) -> bool {
    staleness.is_some_and(|age| u128::from(age.0.unsigned_abs()) <= maximum.as_micros())
}

/// What an order is to one who asked for this kind.
fn of_kind(kind: Kind, found: Found) -> Answer {
    match (kind, found.order.is_final()) {
        (Kind::Active, true) => Answer::IsFinal,
        (Kind::History, false) => Answer::IsActive,
        _ => Answer::Found(found),
    }
}

/// What a copy is worth. One of an order that has ended is as good as any. One of an order under
/// way must be young, and from a time since which every change was heard.
fn judge(copy: Copy, now: Micros, heard_since: Option<Micros>, fresh: Duration) -> Cached {
    let age = now.since(copy.at);
    let heard = heard_since.is_some_and(|since| copy.at >= since);
    let is_final = copy.order.is_final();
    let found = Found {
        source: Source::Cache,
        staleness: Some(Micros(i64::try_from(age.as_micros()).unwrap_or(i64::MAX))),
        order: Arc::new(copy.order),
    };
    if is_final || (heard && age <= fresh) {
        Cached::Good(found)
    } else {
        Cached::Doubtful(found)
    }
}

/// What a standby's answer is worth.
fn weigh(place: Place, source: Source, staleness: Option<Micros>, maximum: Duration) -> Replica {
    let recent = is_recent(staleness, maximum);
    let lag = staleness.map_or(Duration::MAX, |age| {
        Duration::from_micros(age.0.unsigned_abs())
    });
    let of = |order| Found {
        order: Arc::new(order),
        source,
        staleness,
    };
    match place {
        Place::Here(order) if recent && order.is_final() => Replica::Final(of(order)),
        Place::Here(order) if recent => Replica::Active(of(order)),
        Place::Archived(part) => Replica::Archived(part),
        Place::Missing if recent => Replica::Missing { lag },
        Place::Here(order) => Replica::Nothing {
            doubtful: Some(of(order)),
            why: "the standby lags too far, or nobody knows how far".into(),
        },
        Place::Missing => Replica::Nothing {
            doubtful: None,
            why: "the standby lags too far, or nobody knows how far".into(),
        },
    }
}

/// Of two doubtful views the one of the newer version.
fn younger(one: Option<Found>, other: Option<Found>) -> Option<Found> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.order.version >= one.order.version {
            other
        } else {
            one
        }),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn order(state: &str, version: i64) -> Order {
        let id = uuid::Uuid::from_u128(1);
        Order {
            id,
            customer: "c".into(),
            state: state.into(),
            created_at: Micros(1),
            updated_at: Micros(1),
            version,
            detail: RawValue::NULL.to_owned(),
        }
    }

    #[test]
    fn a_copy_of_an_active_order_answers_only_while_changes_are_heard_and_it_is_young() {
        let fresh = Duration::from_secs(30);
        let worth = |state: &str, at: i64, heard: Option<i64>| {
            let copy = Copy {
                at: Micros(at * 1_000_000),
                order: order(state, 1),
            };
            matches!(
                judge(
                    copy,
                    Micros(100_000_000),
                    heard.map(|since| Micros(since * 1_000_000)),
                    fresh
                ),
                Cached::Good(_)
            )
        };
        assert!(worth("ongoing", 90, Some(10)));
        assert!(
            !worth("ongoing", 69, Some(10)),
            "older than fresh copies are"
        );
        assert!(
            !worth("ongoing", 90, Some(95)),
            "a change may have gone unheard"
        );
        assert!(!worth("ongoing", 90, None), "nothing is heard");
        assert!(
            worth("completed", 1, None),
            "what has ended does not change"
        );
    }

    #[test]
    fn a_standby_counts_only_with_a_known_small_lag() {
        let maximum = Duration::from_secs(5);
        let lag = |seconds: i64| Some(Micros(seconds * 1_000_000));
        assert!(matches!(
            weigh(
                Place::Here(order("completed", 2)),
                Source::Replica,
                lag(5),
                maximum
            ),
            Replica::Final(_)
        ));
        assert!(matches!(
            weigh(
                Place::Here(order("ongoing", 2)),
                Source::Replica,
                lag(1),
                maximum
            ),
            Replica::Active(_)
        ));
        assert!(matches!(
            weigh(
                Place::Here(order("completed", 2)),
                Source::Replica,
                lag(6),
                maximum
            ),
            Replica::Nothing {
                doubtful: Some(_),
                ..
            }
        ));
        assert!(matches!(
            weigh(
                Place::Here(order("completed", 2)),
                Source::Replica,
                None,
                maximum
            ),
            Replica::Nothing {
                doubtful: Some(_),
                ..
            }
        ));
        assert!(
            matches!(
                weigh(Place::Missing, Source::Replica, None, maximum),
                Replica::Nothing { doubtful: None, .. }
            ),
            "unknown is a value"
        );
        assert!(
            matches!(
                weigh(Place::Archived("p".into()), Source::Replica, None, maximum),
                Replica::Archived(_)
            ),
            "what is archived stays there"
        );
    }

    #[test]
    fn who_asks_for_the_other_kind_is_told_so() {
        let found = |state: &str| Found {
            order: Arc::new(order(state, 1)),
            source: Source::Cache,
            staleness: None,
        };
        assert!(matches!(
            of_kind(Kind::Active, found("failed")),
            Answer::IsFinal
        ));
        assert!(matches!(
            of_kind(Kind::History, found("assigned")),
            Answer::IsActive
        ));
        assert!(matches!(
            of_kind(Kind::Auto, found("assigned")),
            Answer::Found(_)
        ));
        assert!(matches!(
            of_kind(Kind::History, found("expired")),
            Answer::Found(_)
        ));
    }
}
