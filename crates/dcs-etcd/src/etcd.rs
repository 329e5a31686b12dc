//! A connection to etcd that moves to the next endpoint when one does not answer.

use std::sync::Mutex;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions};
use tokio::time::Instant;

use crate::transaction;
use mrg_base::Millis;
use mrg_dcs::wire::Entry;
use mrg_dcs::{Attempt, Error, Granted, Keys, Section, Store, Transaction};
use mrg_election::{LeaseId, Revision};

/// What went wrong with a request that was sent.
pub(super) fn failed(operation: &'static str, source: etcd_client::Error) -> Error {
    use tonic::Code;
    // etcd answers these before it proposes anything.
    let refused = matches!(
        &source,
        etcd_client::Error::GRpcStatus(status) if matches!(
            status.code(),
            Code::InvalidArgument
                | Code::NotFound
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::FailedPrecondition
        )
    );
    Error::Request {
        operation,
        refused,
        source: source.into(),
    }
}

/// The client's own error behind ours.
fn cause(error: &Error) -> Option<&etcd_client::Error> {
    match error {
        Error::Request { source, .. } => source.downcast_ref(),
        _ => None,
    }
}

/// Where etcd is. `Debug` hides the password.
#[derive(Clone)]
pub struct Connection {
    /// `http://host:port`, any number.
    pub endpoints: Vec<String>,
    /// User and password, if etcd asks for them.
    pub user: Option<(String, String)>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let user = self.user.as_ref().map_or("nobody", |(user, _)| user);
        write!(f, "{:?} as {user}", self.endpoints)
    }
}

/// The keys of one cluster in etcd.
#[derive(Debug)]
pub struct Etcd {
    connection: Connection,
    keys: Keys,
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
    pub fn new(connection: Connection, keys: Keys, first: usize) -> Self {
        assert!(
            !connection.endpoints.is_empty(),
            "an etcd connection needs an endpoint"
        );
        let index = first % connection.endpoints.len();
        Self {
            connection,
            keys,
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
            self.keys.clone(),
            0,
        )
    }

    /// Where the keys are.
    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    fn current(&self) -> std::sync::MutexGuard<'_, Current> {
        mrg_base::lock(&self.current)
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
                Err(Error::Connect {
                    endpoint,
                    source: source.into(),
                })
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
                Err(failed(operation, source))
            }
            Err(_) => {
                self.rotate(index);
                Err(Error::Timeout { operation })
            }
        }
    }

    /// How long one endpoint may take, so that every endpoint has its turn in time.
    fn slice(&self, within: Duration) -> Duration {
        (within / (u32::try_from(self.connection.endpoints.len()).unwrap_or(1) + 1)).max(TRY_LEAST)
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

    /// A section of the keys, linearizably, with the revision as of which it is true.
    pub(super) async fn read_at<S: Section>(
        &self,
        within: Duration,
    ) -> Result<(Revision, S), Error> {
        let prefix = S::prefix(&self.keys);
        let request = |mut client: Client| {
            let prefix = prefix.clone();
            async move {
                client
                    .get(prefix, Some(GetOptions::new().with_prefix()))
                    .await
            }
        };
        let mut answer = self.repeat("read", within, request).await?;
        let revision = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        let mut section = S::default();
        for kv in answer.take_kvs() {
            let key = String::from_utf8_lossy(kv.key()).into_owned();
            if let Some(name) = key.strip_prefix(&prefix) {
                section.put(name, &entry(kv));
            }
        }
        section.advance(Revision(revision));
        Ok((Revision(revision), section))
    }

    async fn transact(
        &self,
        transaction: &Transaction,
        within: Duration,
    ) -> Result<Option<Revision>, Error> {
        let request = |mut client: Client| {
            let txn = transaction::translate(&self.keys, transaction.branches());
            async move { client.txn(txn).await }
        };
        let operation = transaction.operation();
        let answer = if transaction.is_repeatable() {
            self.repeat(operation, within, request).await?
        } else {
            self.once(operation, within, request).await?
        };
        let revision = answer
            .header()
            .map_or(0, etcd_client::ResponseHeader::revision);
        Ok(transaction::succeeded(&answer).then_some(Revision(revision)))
    }
}

impl Store for Etcd {
    async fn execute(&self, transaction: Transaction, within: Duration) -> Attempt<Revision> {
        match self.transact(&transaction, within).await {
            Ok(Some(revision)) => Attempt::Done(revision),
            Ok(None) => Attempt::Conflict,
            Err(error) => Attempt::ended_by(error),
        }
    }

    async fn read<S: Section>(&self, within: Duration) -> Result<S, Error> {
        self.read_at(within).await.map(|(_, section)| section)
    }

    async fn grant(&self, ttl: Millis, within: Duration) -> Result<Granted, Error> {
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

    /// One try on one endpoint; the next goes to the next endpoint.
    async fn keep_alive(&self, lease: LeaseId, within: Duration) -> Result<(), Error> {
        // The client waits for the first answer before it gives the stream, and says whether the
        // lease still lives.
        let request =
            move |mut client: Client| async move { client.lease_keep_alive(lease.0).await };
        let answer = self
            .once("keep the lease", self.slice(within), request)
            .await;
        answer.map(|_| ()).map_err(|error| match cause(&error) {
            Some(etcd_client::Error::LeaseKeepAliveError(_)) => Error::LeaseGone(lease),
            _ => error,
        })
    }

    async fn revoke(&self, lease: LeaseId, within: Duration) -> Result<(), Error> {
        let request = move |mut client: Client| async move { client.lease_revoke(lease.0).await };
        match self.repeat("revoke the lease", within, request).await {
            Ok(_) => Ok(()),
            Err(error) => match cause(&error) {
                Some(etcd_client::Error::GRpcStatus(status))
                    if status.code() == tonic::Code::NotFound =>
                {
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }
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
