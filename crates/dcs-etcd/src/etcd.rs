//! A connection to etcd that moves to the next endpoint when one does not answer.

use std::sync::Mutex;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};
use tokio::time::Instant;

use mrg_base::Millis;
use mrg_dcs::wire::{Entries, Entry};
use mrg_election::{LeaseId, Revision};

/// What went wrong with a request to etcd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No endpoint could be reached.
    #[error("unable to reach etcd at {endpoint}")]
    Connect {
        /// Which.
        endpoint: String,
        /// Why.
        source: etcd_client::Error,
    },
    /// The request failed.
    #[error("etcd refused to {operation}")]
    Request {
        /// What was asked.
        operation: &'static str,
        /// Why.
        source: etcd_client::Error,
    },
    /// No answer within the time given.
    #[error("etcd did not answer in time to {operation}")]
    Timeout {
        /// What was asked.
        operation: &'static str,
    },
    /// etcd does not know the lease (any more).
    #[error("lease {0} is gone")]
    LeaseGone(i64),
}

impl Error {
    /// Whether the request may have been done all the same.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Error::Connect { .. } | Error::LeaseGone(_) => false,
            Error::Timeout { .. } => true,
            Error::Request { source, .. } => match source {
                // etcd answers these before it proposes anything.
                etcd_client::Error::GRpcStatus(status) => {
                    use tonic::Code;
                    !matches!(
                        status.code(),
                        Code::InvalidArgument
                            | Code::NotFound
                            | Code::PermissionDenied
                            | Code::Unauthenticated
                            | Code::FailedPrecondition
                    )
                }
                _ => true,
            },
        }
    }
}

/// A lease that was granted or kept.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    /// Its name.
    pub id: LeaseId,
    /// Its ttl.
    pub ttl: Millis,
}

/// Where etcd is.
#[derive(Clone, Debug)]
pub struct Connection {
    /// `http://host:port`, any number.
    pub endpoints: Vec<String>,
    /// User and password, if etcd asks for them.
    pub user: Option<(String, String)>,
}

/// etcd.
#[derive(Debug)]
pub struct Etcd {
    connection: Connection,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    index: usize,
    client: Option<Client>,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "endpoint {}", self.index)
    }
}

/// A try on one endpoint may take this long; a request goes on with the next endpoint.
const TRY_LEAST: Duration = Duration::from_millis(500);

impl Etcd {
    /// Connects lazily. `first` says with which endpoint to begin, so that members spread over
    /// etcd.
    ///
    /// # Panics
    /// If no endpoint is given.
    pub fn new(connection: Connection, first: usize) -> Self {
        assert!(
            !connection.endpoints.is_empty(),
            "an etcd connection needs an endpoint"
        );
        let index = first % connection.endpoints.len();
        Self {
            connection,
            current: Mutex::new(Current {
                index,
                client: None,
            }),
        }
    }

    /// The same etcd by other endpoints.
    pub(super) fn at(&self, endpoints: Vec<String>) -> Self {
        Self::new(
            Connection {
                endpoints,
                user: self.connection.user.clone(),
            },
            0,
        )
    }

    /// How many endpoints there are.
    pub fn endpoint_count(&self) -> usize {
        self.connection.endpoints.len()
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        self.current
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A client on the current endpoint.
    pub(super) async fn client(&self, within: Duration) -> Result<Client, Error> {
        let index = {
            let current = self.current();
            if let Some(client) = &current.client {
                return Ok(client.clone());
            }
            current.index
        };
        let endpoint = self.connection.endpoints[index].clone();
        let mut options = ConnectOptions::new()
            .with_connect_timeout(within)
            .with_require_leader(true);
        if let Some((user, password)) = &self.connection.user {
            options = options.with_user(user, password);
        }
        let connect = Client::connect([endpoint.clone()], Some(options));
        match tokio::time::timeout(within, connect).await {
            Ok(Ok(client)) => {
                self.current().client = Some(client.clone());
                Ok(client)
            }
            Ok(Err(source)) => {
                self.rotate(index);
                Err(Error::Connect { endpoint, source })
            }
            Err(_) => {
                self.rotate(index);
                Err(Error::Timeout {
                    operation: "connect",
                })
            }
        }
    }

    /// Leaves the endpoint, unless somebody did already.
    fn rotate(&self, from: usize) {
        let mut current = self.current();
        if current.index == from {
            current.index = (from + 1) % self.connection.endpoints.len();
            current.client = None;
        }
    }

    /// Leaves the current endpoint.
    pub(super) fn rotate_now(&self) {
        let index = self.current().index;
        self.rotate(index);
    }

    /// Does one request on one endpoint; on silence or a lost connection the next request goes
    /// elsewhere.
    pub(super) async fn once<T, F>(
        &self,
        operation: &'static str,
        within: Duration,
        request: impl FnOnce(Client) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let started = Instant::now();
        let client = self.client(within).await?;
        let left = within.saturating_sub(started.elapsed());
        let index = self.current().index;
        match tokio::time::timeout(left, request(client)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => {
                self.rotate(index);
                Err(Error::Request { operation, source })
            }
            Err(_) => {
                self.rotate(index);
                Err(Error::Timeout { operation })
            }
        }
    }

    /// How long one endpoint may take, so that every endpoint has its turn in time.
    fn slice(&self, within: Duration) -> Duration {
        (within / (u32::try_from(self.endpoint_count()).unwrap_or(1) + 1)).max(TRY_LEAST)
    }

    /// Repeats a request that may be done twice, over the endpoints, until the time is over.
    async fn repeat<T, F>(
        &self,
        operation: &'static str,
        within: Duration,
        request: impl Fn(Client) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + within;
        let slice = self.slice(within);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.once(operation, slice.min(left), &request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => {
                    let pause = Duration::from_millis(20);
                    let hopeless = !error.is_ambiguous() && !matches!(error, Error::Connect { .. });
                    if hopeless || Instant::now() + pause >= deadline {
                        return Err(error);
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Everything under a prefix, linearizably, with the revision as of which it is true.
    pub async fn read(&self, prefix: &str, within: Duration) -> Result<(i64, Entries), Error> {
        let request = |mut client: Client| async move {
            client
                .get(prefix, Some(GetOptions::new().with_prefix()))
                .await
        };
        let mut answer = self.repeat("read", within, request).await?;
        let revision = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        let entries = answer.take_kvs().into_iter().filter_map(|kv| {
            let key = String::from_utf8_lossy(kv.key())
                .strip_prefix(prefix)?
                .to_owned();
            Some((key, entry(kv)))
        });
        Ok((revision, entries.collect()))
    }

    /// Grants a lease.
    pub async fn grant(&self, ttl: Millis, within: Duration) -> Result<Granted, Error> {
        // etcd counts in whole seconds; rounding up is safe, since the fence uses the smaller of
        // asked and granted.
        let seconds = i64::try_from(ttl.0.div_ceil(1000)).unwrap_or(i64::MAX);
        let request =
            move |mut client: Client| async move { client.lease_grant(seconds, None).await };
        let answer = self.repeat("grant a lease", within, request).await?;
        Ok(Granted {
            id: LeaseId(answer.id()),
            ttl: Millis::seconds(answer.ttl().unsigned_abs()),
        })
    }

    /// Keeps a lease: one try on one endpoint, of which the caller learns quickly. The next goes to
    /// the next endpoint.
    pub async fn keep_alive(&self, lease: LeaseId, within: Duration) -> Result<(), Error> {
        // The client waits for the first answer before it gives the stream, and says whether the
        // lease still lives.
        let request =
            move |mut client: Client| async move { client.lease_keep_alive(lease.0).await };
        match self
            .once("keep the lease", self.slice(within), request)
            .await
        {
            Ok(_) => Ok(()),
            Err(Error::Request {
                source: etcd_client::Error::LeaseKeepAliveError(_),
                ..
            }) => Err(Error::LeaseGone(lease.0)),
            Err(error) => Err(error),
        }
    }

    /// Revokes a lease: every key of it is deleted.
    pub async fn revoke(&self, lease: LeaseId, within: Duration) -> Result<(), Error> {
        let request = move |mut client: Client| async move { client.lease_revoke(lease.0).await };
        match self.repeat("revoke the lease", within, request).await {
            Ok(_) => Ok(()),
            Err(Error::Request {
                source: etcd_client::Error::GRpcStatus(status),
                ..
            }) if status.code() == tonic::Code::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Puts a key, under a lease if one is given. Repeatable, hence only for values that nobody
    /// compares.
    pub async fn put(
        &self,
        key: &str,
        value: &str,
        lease: Option<LeaseId>,
        within: Duration,
    ) -> Result<(), Error> {
        let request = |mut client: Client| async move {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            client.put(key, value, options).await
        };
        self.repeat("put", within, request).await.map(|_| ())
    }

    /// A transaction, tried once: `Ok(Some(revision))` if the conditions held, `Ok(None)` if not.
    pub async fn transact(
        &self,
        conditions: Vec<Compare>,
        operations: Vec<TxnOp>,
        within: Duration,
    ) -> Result<Option<Revision>, Error> {
        let txn = Txn::new().when(conditions).and_then(operations);
        let answer = self
            .once("transact", within, move |mut client: Client| async move {
                client.txn(txn).await
            })
            .await?;
        let revision = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        Ok(answer.succeeded().then_some(Revision(revision)))
    }

    /// Creates a key under a lease if it is absent, or owned by that lease or by `former`.
    /// `Ok(false)`: another owns it.
    pub async fn claim(
        &self,
        key: &str,
        value: &str,
        lease: LeaseId,
        former: Option<LeaseId>,
        within: Duration,
    ) -> Result<bool, Error> {
        let request = |mut client: Client| async move {
            let put = || TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease.0)));
            let owned = |by: LeaseId| {
                Txn::new()
                    .when([Compare::lease(key, CompareOp::Equal, by.0)])
                    .and_then([put()])
            };
            let mut ours = owned(lease);
            if let Some(former) = former {
                ours = ours.or_else([TxnOp::txn(owned(former))]);
            }
            let absent = Compare::create_revision(key, CompareOp::Equal, 0);
            client
                .txn(
                    Txn::new()
                        .when([absent])
                        .and_then([put()])
                        .or_else([TxnOp::txn(ours)]),
                )
                .await
        };
        let answer = self.repeat("claim", within, request).await?;
        Ok(did_put(&answer))
    }
}

/// Whether some branch of the nested transactions was the one that puts.
fn did_put(answer: &TxnResponse) -> bool {
    let nested =
        |inner: TxnOpResponse| matches!(inner, TxnOpResponse::Txn(inner) if did_put(&inner));
    answer.succeeded() || answer.op_responses().into_iter().any(nested)
}

pub(super) fn entry(kv: impl Into<etcd_client::KeyValue>) -> Entry {
    let kv = kv.into();
    Entry {
        lease: kv.lease(),
        created: kv.create_revision(),
        modified: kv.mod_revision(),
        value: kv.value().to_vec(),
    }
}
