//! Requests that wait for a dependency to come back. They are in PostgreSQL, where every pod sees
//! them; in a log on this pod's volume while PostgreSQL cannot be reached. A request is sent once:
//! before it is sent it is marked, durably, and one whose outcome is unknown is left to people,
//! unless its dependency recognises a second attempt by its key.

mod error;
mod item;
mod log;
mod postgres;
mod web;

pub(crate) use error::Error;
pub(crate) use item::Enqueued;
pub use item::{Item, Line, Status};
pub use log::{Replayed, replay};
pub(crate) use web::router;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{Mutex, Notify, watch};

use crate::head::Head;
use log::Log;
use mrg_base::lock;
use mrg_policy::{Queue as Limits, QueueReport};
use mrg_telemetry::chain;
use postgres::Postgres;

/// How long PostgreSQL may take before the log is used. It answers in a few milliseconds when it is
/// well; the caller waits.
const POSTGRES_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the database may take to say what is pending; the caller waits.
const LOOKUP_TIMEOUT: Duration = Duration::from_millis(200);
/// How long nothing is taken to be pending that another pod may have kept meanwhile.
const EMPTY_FOR: Duration = Duration::from_secs(1);
/// How long a database that did not answer is not asked again.
const AWAY_FOR: Duration = Duration::from_secs(5);

/// Where requests wait.
pub(crate) struct Queue {
    workload: String,
    pod: String,
    postgres: Option<Postgres>,
    log: Option<Mutex<Log>>,
    /// A request came, or may be sent again.
    pub(crate) news: Notify,
    /// Counts changes that the status shows.
    changes: watch::Sender<u64>,
    trouble: std::sync::Mutex<Option<String>>,
    /// Until when the database need not be asked what is pending for a dependency: nothing was, or it
    /// did not answer.
    unasked: std::sync::Mutex<BTreeMap<String, Instant>>,
}

impl Queue {
    /// Opens the log, if there is a directory for it; the database is connected to when it is used.
    ///
    /// # Errors
    /// If the log cannot be read, or there is neither log nor database.
    pub(crate) async fn open(
        (workload, pod): (&str, &str),
        dsn: Option<&str>,
        directory: Option<&Path>,
        changes: watch::Sender<u64>,
    ) -> Result<Arc<Self>, Error> {
        if dsn.is_none() && directory.is_none() {
            return Err(Error::NoPlace);
        }
        let log = match directory {
            Some(directory) => Some(Mutex::new(Log::open(directory).await?)),
            None => None,
        };
        let postgres = dsn.map(Postgres::new).transpose()?;
        let (workload, pod) = (workload.to_owned(), pod.to_owned());
        Ok(Arc::new(Self {
            workload,
            pod,
            postgres,
            log,
            news: Notify::new(),
            changes,
            trouble: std::sync::Mutex::default(),
            unasked: std::sync::Mutex::default(),
        }))
    }

    /// Keeps a request. When this returns a ticket, it is on a disk.
    ///
    /// # Errors
    /// If neither the database nor the log took it.
    pub(crate) async fn enqueue(
        &self,
        dependency: &str,
        key: &str,
        head: &Head,
        body: Bytes,
        status: Status,
        limits: &Limits,
    ) -> Result<Enqueued, Error> {
        let item = Item::new(&self.workload, dependency, key, head, body, status);
        let kept = self.put(&item, limits.capacity).await;
        if kept.is_ok() {
            lock(&self.unasked).remove(dependency);
            self.news.notify_waiters();
            self.changes.send_modify(|count| *count += 1);
        }
        kept
    }

    /// The ticket and the status of a request that is pending, by its key: at this pod, and in the
    /// database as far as that answers in time.
    pub(crate) async fn pending(&self, dependency: &str, key: &str) -> Option<(String, Status)> {
        let ticket = item::ticket(&self.workload, dependency, key);
        let mut status = None;
        if let Some(log) = &self.log {
            status = log.lock().await.status(&ticket);
        }
        if let Some(postgres) = &self.postgres
            && status.is_none()
            && lock(&self.unasked)
                .get(dependency)
                .is_none_or(|until| *until <= Instant::now())
        {
            let pending = postgres.pending(&self.workload, dependency, &ticket);
            let pause = match tokio::time::timeout(LOOKUP_TIMEOUT, pending).await {
                Ok(Ok((found, anything))) => {
                    status = found;
                    (!anything).then_some(EMPTY_FOR)
                }
                Ok(Err(_)) | Err(_) => Some(AWAY_FOR),
            };
            if let Some(pause) = pause {
                lock(&self.unasked).insert(dependency.to_owned(), Instant::now() + pause);
            }
        }
        let status = status.filter(|status| status.is_pending())?;
        Some((ticket, status))
    }

    async fn put(&self, item: &Item, capacity: u32) -> Result<Enqueued, Error> {
        let mut failed = None;
        if let Some(postgres) = &self.postgres {
            match in_time(postgres.put(item, capacity)).await {
                Ok(kept) => {
                    *lock(&self.trouble) = None;
                    return Ok(kept);
                }
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "the queue's database did not take a request"
                    );
                    *lock(&self.trouble) = Some(chain(&error));
                    failed = Some(error);
                }
            }
        }
        // By its ticket it will be the same one in the database, should that have taken it after
        // all.
        match &self.log {
            Some(log) => log.lock().await.put(item, capacity).await,
            None => Err(failed.unwrap_or(Error::NoPlace)),
        }
    }

    /// Moves what waits on disk into the database, as long as that takes it. Whether the dependency
    /// would take the requests makes no difference.
    pub(crate) async fn move_to_postgres(&self) {
        let (Some(postgres), Some(log)) = (&self.postgres, &self.log) else {
            return;
        };
        loop {
            let Some(item) = log.lock().await.first_to_move() else {
                return;
            };
            // Its place was counted when it came.
            match in_time(postgres.put(&item, u32::MAX)).await {
                Ok(_) => {
                    *lock(&self.trouble) = None;
                    tracing::info!(
                        ticket = item.ticket,
                        dependency = item.dependency,
                        "moved from disk into the database"
                    );
                    if let Err(error) = log.lock().await.forget(&item.ticket).await {
                        tracing::warn!(
                            error = chain(&error),
                            "what was moved could not be taken from the disk; it will be moved again"
                        );
                        return;
                    }
                    self.changes.send_modify(|count| *count += 1);
                }
                Err(error) => {
                    *lock(&self.trouble) = Some(chain(&error));
                    return;
                }
            }
        }
    }

    /// The next request that may be sent; it is marked as being sent.
    pub(crate) async fn claim(
        &self,
        dependency: &str,
        limits: &Limits,
        repeatable: bool,
    ) -> Option<(Item, Location)> {
        if let Some(postgres) = &self.postgres {
            let claim = postgres.claim(&self.workload, dependency, &self.pod, limits, repeatable);
            match in_time(claim).await {
                Ok(Some(item)) => return Some((item, Location::Postgres)),
                Ok(None) => *lock(&self.trouble) = None,
                Err(error) => *lock(&self.trouble) = Some(chain(&error)),
            }
        }
        let claimed = self
            .log
            .as_ref()?
            .lock()
            .await
            .claim(dependency, limits)
            .await;
        match claimed {
            Ok(item) => item.map(|item| (item, Location::Log)),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "a request could not be marked as being sent; it waits"
                );
                None
            }
        }
    }

    /// Lets the requests that wait for another attempt be sent now.
    pub(crate) async fn hurry(&self, dependency: &str) {
        if let Some(postgres) = &self.postgres {
            let hurry = postgres.hurry(&self.workload, dependency);
            if let Err(error) = in_time(hurry).await {
                tracing::warn!(
                    error = chain(&error),
                    "what waits is sent later than it could be"
                );
            }
        }
        if let Some(log) = &self.log {
            log.lock().await.hurry(dependency);
        }
    }

    /// Writes how a request that was sent has ended, with retries for half a minute: a request whose
    /// outcome is not written is left to people.
    pub(crate) async fn settle(
        &self,
        item: &Item,
        place: Location,
        status: Status,
        retry_at: Option<Timestamp>,
        note: &str,
    ) {
        for _ in 0..30 {
            let settled = match (place, &self.postgres, &self.log) {
                (Location::Postgres, Some(postgres), _) => {
                    let settle = postgres.settle(&item.ticket, status, retry_at, note);
                    in_time(settle).await
                }
                (Location::Log, _, Some(log)) => {
                    log.lock()
                        .await
                        .settle(&item.ticket, status, retry_at, note)
                        .await
                }
                _ => return,
            };
            match settled {
                Ok(()) => {
                    self.changes.send_modify(|count| *count += 1);
                    return;
                }
                Err(error) => {
                    tracing::warn!(
                        ticket = item.ticket,
                        standing = status.name(),
                        error = chain(&error),
                        "the end of a request could not be written"
                    );
                }
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// What waits for a dependency.
    pub(crate) async fn report(&self, dependency: &str) -> QueueReport {
        let mut report = QueueReport {
            trouble: lock(&self.trouble).clone(),
            ..QueueReport::default()
        };
        if let Some(postgres) = &self.postgres {
            match in_time(postgres.count(&self.workload, dependency)).await {
                Ok((waiting, inquiry, oldest)) => {
                    report.waiting = waiting;
                    report.inquiry = inquiry;
                    report.oldest = oldest.map(|at| at.to_string());
                }
                Err(error) => report.trouble = Some(chain(&error)),
            }
        }
        if let Some(log) = &self.log {
            let (waiting, inquiry, oldest) = log.lock().await.count(dependency);
            report.on_disk = waiting + inquiry;
            report.waiting += waiting;
            report.inquiry += inquiry;
            report.oldest = [report.oldest, oldest.map(|at| at.to_string())]
                .into_iter()
                .flatten()
                .min();
        }
        report
    }

    /// Everything, or one request.
    ///
    /// # Errors
    /// If the database does not answer.
    pub(crate) async fn list(&self) -> Result<Vec<Item>, Error> {
        let mut items = match &self.postgres {
            Some(postgres) => {
                tokio::time::timeout(POSTGRES_TIMEOUT * 5, postgres.list(&self.workload))
                    .await
                    .unwrap_or(Err(Error::Slow))?
            }
            None => Vec::new(),
        };
        if let Some(log) = &self.log {
            items.extend(log.lock().await.list());
        }
        Ok(items)
    }

    /// A person decides: to send it (again), or not to.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) async fn decide(&self, ticket: &str, status: Status) -> Result<bool, Error> {
        let note = "decided by a person";
        if let Some(log) = &self.log
            && log.lock().await.decide(ticket, status, note).await?
        {
            self.news.notify_waiters();
            return Ok(true);
        }
        let Some(postgres) = &self.postgres else {
            return Ok(false);
        };
        let decided = in_time(postgres.decide(ticket, status, note)).await?;
        self.news.notify_waiters();
        Ok(decided)
    }
}

/// What PostgreSQL answers in time.
async fn in_time<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(POSTGRES_TIMEOUT, answer)
        .await
        .unwrap_or(Err(Error::Slow))
}

/// Where a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Postgres,
    Log,
}
