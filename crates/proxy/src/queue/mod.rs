//! Requests that wait for a dependency to come back. Enqueued in PostgreSQL, where every pod sees them;
//! in a log on this pod's volume while PostgreSQL cannot be reached. A request is sent once: before
//! it is sent it is marked, durably, and one whose end nobody knows is left to people, unless its
//! dependency is known to tell a second time by its key.

mod item;
mod log;
mod postgres;
mod web;

pub use item::{Item, Line, Status};
pub use log::{Replayed, replay};
pub(crate) use web::router;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use tokio::sync::{Mutex, Notify, watch};

use crate::client::attempt::Head;
use log::Log;
use mrg_base::lock;
use mrg_policy::{Queue as Limits, QueueReport};
use mrg_telemetry::chain;
use postgres::Postgres;

/// How long PostgreSQL may take before the log is used. It answers in a few milliseconds when it is
/// well; the caller waits.
const POSTGRES_WITHIN: Duration = Duration::from_secs(1);

/// Why something cannot be kept, found or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The log's file.
    #[error("the queue's log {action}")]
    Log {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// PostgreSQL.
    #[error("the queue's database {action}")]
    Postgres {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
    /// PostgreSQL took too long.
    #[error("the queue's database did not answer in time")]
    Slow,
    /// The address of the database is none.
    #[error("the queue's database address is wrong")]
    Address(#[source] tokio_postgres::Error),
    /// Neither a database nor a directory.
    #[error(
        "the queue has neither a database nor a directory: start the proxy with --queue-dsn-file, --queue-directory, or both"
    )]
    NoPlace,
}

/// What became of a request that was to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Enqueued {
    /// It is, under this ticket; or was before, by its key.
    Ticket(String, Status),
    /// So many wait already.
    Full,
}

/// Where requests wait.
pub(crate) struct Queue {
    workload: String,
    pod: String,
    postgres: Option<Postgres>,
    log: Option<Mutex<Log>>,
    /// Something came, or may be sent again.
    pub(crate) news: Notify,
    /// Counts changes that the status shows.
    changes: watch::Sender<u64>,
    trouble: std::sync::Mutex<Option<String>>,
}

impl Queue {
    /// Opens what there is.
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
        }))
    }

    /// Keeps a request. When this returns a ticket, it is on a disk.
    ///
    /// # Errors
    /// If it is nowhere.
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
            self.news.notify_waiters();
            self.changes.send_modify(|count| *count += 1);
        }
        kept
    }

    async fn put(&self, item: &Item, capacity: u32) -> Result<Enqueued, Error> {
        let mut failed = None;
        if let Some(postgres) = &self.postgres {
            match tokio::time::timeout(POSTGRES_WITHIN, postgres.put(item, capacity))
                .await
                .unwrap_or(Err(Error::Slow))
            {
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

    /// Moves what waits on disk into the database, if that takes it: whether or not somebody would
    /// take the requests.
    pub(crate) async fn move_to_postgres(&self) {
        let (Some(postgres), Some(log)) = (&self.postgres, &self.log) else {
            return;
        };
        loop {
            let Some(item) = log.lock().await.first_to_move() else {
                return;
            };
            // Its place is paid for already.
            match tokio::time::timeout(POSTGRES_WITHIN, postgres.put(&item, u32::MAX))
                .await
                .unwrap_or(Err(Error::Slow))
            {
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
    ) -> Option<(Item, Where)> {
        if let Some(postgres) = &self.postgres {
            let claim = postgres.claim(&self.workload, dependency, &self.pod, limits, repeatable);
            match tokio::time::timeout(POSTGRES_WITHIN, claim)
                .await
                .unwrap_or(Err(Error::Slow))
            {
                Ok(Some(item)) => return Some((item, Where::Postgres)),
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
            Ok(item) => item.map(|item| (item, Where::Log)),
            Err(error) => {
                tracing::warn!(
                    error = chain(&error),
                    "a request could not be marked as being sent; it waits"
                );
                None
            }
        }
    }

    /// Whoever waits for another try has it now.
    pub(crate) async fn hurry(&self, dependency: &str) {
        if let Some(postgres) = &self.postgres {
            let hurry = postgres.hurry(&self.workload, dependency);
            if let Err(error) = tokio::time::timeout(POSTGRES_WITHIN, hurry)
                .await
                .unwrap_or(Err(Error::Slow))
            {
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

    /// How a request that was sent has ended. Said until it is taken: who does not hear it leaves
    /// the request to people.
    pub(crate) async fn settle(
        &self,
        item: &Item,
        place: Where,
        status: Status,
        retry_at: Option<Timestamp>,
        note: &str,
    ) {
        for _ in 0..30 {
            let settled = match (place, &self.postgres, &self.log) {
                (Where::Postgres, Some(postgres), _) => {
                    let settle = postgres.settle(&item.ticket, status, retry_at, note);
                    tokio::time::timeout(POSTGRES_WITHIN, settle)
                        .await
                        .unwrap_or(Err(Error::Slow))
                }
                (Where::Log, _, Some(log)) => {
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
            match tokio::time::timeout(POSTGRES_WITHIN, postgres.count(&self.workload, dependency))
                .await
                .unwrap_or(Err(Error::Slow))
            {
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
                tokio::time::timeout(POSTGRES_WITHIN * 5, postgres.list(&self.workload))
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
        let decided = tokio::time::timeout(POSTGRES_WITHIN, postgres.decide(ticket, status, note))
            .await
            .unwrap_or(Err(Error::Slow))?;
        self.news.notify_waiters();
        Ok(decided)
    }
}

/// Where a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    Postgres,
    Log,
}

/// Headers that are kept: not those of the connection, which the caller's head has lost already,
/// and no body's length.
fn kept_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    };
    headers
        .iter()
        .filter(|(name, _)| *name != http::header::CONTENT_LENGTH)
        .filter_map(text)
        .collect()
}
