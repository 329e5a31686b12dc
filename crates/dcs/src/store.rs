//! The store, as everything but its implementation sees it: one method for each operation.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::DynamicConfig;
use crate::health::Failure;
use crate::poolers::PoolerRecord;
use crate::snapshot::Section;
use crate::transaction::Transaction;
use crate::wire::{FailoverData, HistoryLine, MemberData, StatusData};
use mrg_base::{MemberName, Millis};
use mrg_election::{LeaseId, Revision, Stored};

/// What the store's client said went wrong.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong with a request to the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No endpoint could be reached.
    #[error("unable to reach etcd at {endpoint}")]
    Connect {
        /// Which.
        endpoint: String,
        /// Why.
        source: Cause,
    },
    /// The request failed.
    #[error("etcd at {endpoint} {} to {operation}", if failure.is_refusal() { "refused" } else { "failed" })]
    Request {
        /// What was asked.
        operation: &'static str,
        /// Which endpoint was asked last.
        endpoint: String,
        /// Why, in one word.
        failure: Failure,
        /// Whether it was refused before anything could have been done.
        refused: bool,
        /// Why.
        source: Cause,
    },
    /// No answer within the time given.
    #[error("etcd at {endpoint} did not answer in time to {operation}")]
    Timeout {
        /// What was asked.
        operation: &'static str,
        /// Which endpoint was asked last.
        endpoint: String,
    },
    /// The store went back in time, or is another one: it was emptied, restored from a backup, or
    /// replaced. The lease that was asked about is not known there.
    #[error(
        "etcd went back to revision {revision}: it is empty, restored from a backup, or another one"
    )]
    Reset {
        /// What it counts now.
        revision: i64,
    },
    /// Another cluster answers at some endpoints, and the one that is known at none.
    #[error(
        "another etcd cluster than before answers at some of {endpoints}; etcd3.hosts must name the members of one cluster"
    )]
    Stranger {
        /// All of them.
        endpoints: String,
    },
    /// The lease does not exist (any more).
    #[error("lease {} is gone", .0.0)]
    LeaseGone(LeaseId),
}

impl Error {
    /// Whether the request may have been done all the same.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Error::Connect { .. } | Error::LeaseGone(_) | Error::Stranger { .. } => false,
            Error::Timeout { .. } | Error::Reset { .. } => true,
            Error::Request { refused, .. } => !refused,
        }
    }

    /// Why, in one word.
    pub fn failure(&self) -> Failure {
        match self {
            Error::Connect { .. } => Failure::Unreachable,
            Error::Request { failure, .. } => *failure,
            Error::Timeout { .. } => Failure::Timeout,
            Error::LeaseGone(_) => Failure::NotFound,
            Error::Reset { .. } | Error::Stranger { .. } => Failure::Other,
        }
    }

    /// The whole of it in words, the store's own last.
    pub(crate) fn words(&self) -> String {
        match self {
            Error::Connect { source, .. } | Error::Request { source, .. } => {
                format!("{self}: {source}")
            }
            Error::Timeout { .. }
            | Error::LeaseGone(_)
            | Error::Reset { .. }
            | Error::Stranger { .. } => self.to_string(),
        }
    }

    /// What of the words does not depend on what was asked: the endpoint and the store's own.
    pub(crate) fn cause(&self) -> String {
        match self {
            Error::Connect { endpoint, source }
            | Error::Request {
                endpoint, source, ..
            } => {
                format!("{endpoint}: {source}")
            }
            Error::Timeout { endpoint, .. } => endpoint.clone(),
            Error::LeaseGone(_) | Error::Reset { .. } => String::new(),
            Error::Stranger { endpoints } => endpoints.clone(),
        }
    }
}

/// What came of a write.
#[derive(Debug)]
#[must_use]
pub enum Attempt<T> {
    /// Its condition held, and it was done.
    Done(T),
    /// Its condition did not hold, and nothing was written.
    Conflict,
    /// It may have been done, and may still be done later.
    InDoubt(Error),
    /// It was surely not done, and will not be.
    Failed(Error),
}

impl<T> Attempt<T> {
    /// An attempt that ended with this error.
    pub fn ended_by(error: Error) -> Self {
        if error.is_ambiguous() {
            Attempt::InDoubt(error)
        } else {
            Attempt::Failed(error)
        }
    }

    /// What was done (`None`: a conflict), for callers to whom it makes no difference why it is not
    /// known to be done.
    ///
    /// # Errors
    /// The cause, whether the write is in doubt or surely failed.
    pub fn into_result(self) -> Result<Option<T>, Error> {
        match self {
            Attempt::Done(value) => Ok(Some(value)),
            Attempt::Conflict => Ok(None),
            Attempt::InDoubt(error) | Attempt::Failed(error) => Err(error),
        }
    }

    /// Whether it was surely done.
    pub fn is_done(&self) -> bool {
        matches!(self, Attempt::Done(_))
    }
}

/// A lease that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Its name.
    pub id: LeaseId,
    /// Its time to live, at least what was asked for.
    pub ttl: Millis,
}

/// A write's future: the revision at which it was done.
pub trait Writing: Future<Output = Attempt<Revision>> + Send {}

impl<F: Future<Output = Attempt<Revision>> + Send> Writing for F {}

/// The distributed configuration store of one cluster.
///
/// Every write is described by the constructor of [`Transaction`] that it is named after: its
/// compare, and what an unknown outcome means. `within` bounds the whole call, over all endpoints.
pub trait Store: Send + Sync {
    /// Does a transaction: once, or until it is done or the time is over if it is repeatable.
    fn execute(&self, transaction: Transaction, within: Duration) -> impl Writing;

    /// A section of the keys, linearizably: with every write that was done before this began.
    fn read<S: Section>(&self, within: Duration) -> impl Future<Output = Result<S, Error>> + Send;

    /// Grants a lease. Without an answer one may have been granted: nothing hangs off it, and it
    /// ends by itself.
    fn grant(
        &self,
        ttl: Millis,
        within: Duration,
    ) -> impl Future<Output = Result<Granted, Error>> + Send;

    /// Renews a lease: one try, so that the caller learns quickly. Without an answer it may have
    /// been renewed, which may not be counted on. [`Error::LeaseGone`]: it has ended.
    /// [`Error::Reset`]: this store does not know it, and is not as it was.
    fn keep_alive(
        &self,
        lease: LeaseId,
        within: Duration,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Revokes a lease: every key that hangs off it is deleted. One that is gone already is a
    /// success. Without an answer the keys go with the lease's own end at the latest.
    fn revoke(
        &self,
        lease: LeaseId,
        within: Duration,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// See [`Transaction::acquire_leader`].
    fn acquire_leader(
        &self,
        lease: LeaseId,
        member: &MemberName,
        within: Duration,
    ) -> impl Writing {
        self.execute(Transaction::acquire_leader(lease, member), within)
    }

    /// See [`Transaction::move_leader`].
    fn move_leader(
        &self,
        from: LeaseId,
        to: LeaseId,
        member: &MemberName,
        within: Duration,
    ) -> impl Writing {
        self.execute(Transaction::move_leader(from, to, member), within)
    }

    /// See [`Transaction::release_leader`].
    fn release_leader(
        &self,
        lease: LeaseId,
        status: Option<StatusData>,
        within: Duration,
    ) -> impl Writing {
        self.execute(Transaction::release_leader(lease, status), within)
    }

    /// See [`Transaction::claim_initialize`].
    fn claim_initialize(&self, lease: LeaseId, within: Duration) -> impl Writing {
        self.execute(Transaction::claim_initialize(lease), within)
    }

    /// See [`Transaction::abandon_initialize`].
    fn abandon_initialize(&self, lease: LeaseId, within: Duration) -> impl Writing {
        self.execute(Transaction::abandon_initialize(lease), within)
    }

    /// See [`Transaction::store_system_id`].
    fn store_system_id(
        &self,
        lease: LeaseId,
        id: u64,
        first: StatusData,
        within: Duration,
    ) -> impl Writing {
        self.execute(Transaction::store_system_id(lease, id, first), within)
    }

    /// See [`Transaction::write_sync`].
    fn write_sync(
        &self,
        lease: LeaseId,
        over: Option<Revision>,
        stored: Stored,
        within: Duration,
    ) -> impl Writing {
        self.execute(Transaction::write_sync(lease, over, stored), within)
    }

    /// See [`Transaction::write_history`].
    fn write_history(
        &self,
        lease: LeaseId,
        over: Option<Revision>,
        lines: Vec<HistoryLine>,
        within: Duration,
    ) -> impl Writing {
        self.execute(Transaction::write_history(lease, over, lines), within)
    }

    /// See [`Transaction::write_failsafe`].
    fn write_failsafe(
        &self,
        lease: LeaseId,
        over: Option<Revision>,
        members: Option<BTreeMap<MemberName, String>>,
        within: Duration,
    ) -> impl Writing {
        self.execute(Transaction::write_failsafe(lease, over, members), within)
    }

    /// See [`Transaction::put_status`].
    fn put_status(&self, data: StatusData, within: Duration) -> impl Writing {
        self.execute(Transaction::put_status(data), within)
    }

    /// See [`Transaction::publish_member`].
    fn publish_member(
        &self,
        member: &MemberName,
        data: MemberData,
        lease: LeaseId,
        former: Option<LeaseId>,
        within: Duration,
    ) -> impl Writing {
        let transaction = Transaction::publish_member(member, data, lease, former);
        self.execute(transaction, within)
    }

    /// See [`Transaction::create_config`].
    fn create_config(&self, config: DynamicConfig, within: Duration) -> impl Writing {
        self.execute(Transaction::create_config(config), within)
    }

    /// See [`Transaction::write_config`].
    fn write_config(
        &self,
        over: Option<Revision>,
        config: DynamicConfig,
        within: Duration,
    ) -> impl Writing {
        self.execute(Transaction::write_config(over, config), within)
    }

    /// See [`Transaction::request_failover`].
    fn request_failover(&self, request: FailoverData, within: Duration) -> impl Writing {
        self.execute(Transaction::request_failover(request), within)
    }

    /// See [`Transaction::withdraw_failover`].
    fn withdraw_failover(&self, within: Duration) -> impl Writing {
        self.execute(Transaction::withdraw_failover(), within)
    }

    /// See [`Transaction::take_failover`].
    fn take_failover(&self, expected: Revision, within: Duration) -> impl Writing {
        self.execute(Transaction::take_failover(expected), within)
    }

    /// See [`Transaction::ask_poolers`].
    fn ask_poolers(&self, lease: LeaseId, leadership: Revision, within: Duration) -> impl Writing {
        self.execute(Transaction::ask_poolers(lease, leadership), within)
    }

    /// See [`Transaction::resume_poolers`].
    fn resume_poolers(&self, lease: LeaseId, within: Duration) -> impl Writing {
        self.execute(Transaction::resume_poolers(lease), within)
    }

    /// See [`Transaction::publish_pooler`].
    fn publish_pooler(
        &self,
        pod: &str,
        record: PoolerRecord,
        lease: LeaseId,
        within: Duration,
    ) -> impl Writing {
        self.execute(Transaction::publish_pooler(pod, record, lease), within)
    }
}
