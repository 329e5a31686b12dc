//! A connection to etcd that moves to the next endpoint when one does not answer.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions, GetResponse, WatchOptions, WatchStream};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::failure::{cause, failed, has_no_logins, unreachable};
use crate::health_log::{HealthLog, since};
use crate::progress::{Answer, Asked, Mark, Progress};
use crate::transaction;
use crate::watch::WATCH;
use mrg_base::Millis;
use mrg_dcs::health::{Access, Failure, Health};
use mrg_dcs::wire::Entry;
use mrg_dcs::{Attempt, Error, Granted, Key, Keys, Section, Store, Transaction};
use mrg_election::{LeaseId, Revision};

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
    progress: Progress,
    health: watch::Sender<Health>,
    started: Instant,
}

#[derive(Default)]
struct Current {
    index: usize,
    client: Option<Client>,
    /// When a login was refused, and in which words.
    refused: Option<(Instant, String)>,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "endpoint {}", self.index)
    }
}

/// A try on one endpoint may take this long; a request goes on with the next endpoint.
const TRY_LEAST: Duration = Duration::from_millis(500);

/// A login that was refused is not tried again sooner: each costs etcd the hash of a password.
const LOGIN_EVERY: Duration = Duration::from_secs(1);

const LOG_IN: &str = "log in";

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
                ..Current::default()
            }),
            progress: Progress::default(),
            health: watch::Sender::default(),
            started: Instant::now(),
        }
    }

    /// An earlier process knew etcd to have come this far: one that has not went back meanwhile.
    pub fn resume(&self, mark: Mark) {
        self.progress.resume(mark);
    }

    /// The watch shows that etcd has come this far.
    pub(super) fn advance(&self, resets: u64, revision: Revision) {
        self.progress.advance(resets, revision.0);
    }

    /// How far etcd is known to have come.
    pub fn mark(&self) -> Mark {
        self.progress.mark()
    }

    /// Follows how etcd answers, and logs it.
    pub fn health(&self) -> HealthLog {
        HealthLog::new(&self.health, self.started)
    }

    /// Notes how a request ended.
    pub(super) fn note<T>(&self, access: Access, outcome: &Result<T, Error>) {
        let (now, outcome) = (since(self.started), outcome.as_ref().map(|_| ()));
        self.health
            .send_if_modified(|health| health.note(now, access, outcome));
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
        if let Some(refused) = self.refused_login(&endpoint) {
            return Err(refused);
        }
        match tokio::time::timeout(within, self.connect(&endpoint, within)).await {
            Ok(Ok(client)) => {
                let mut current = self.current();
                current.client = Some(client.clone());
                current.refused = None;
                Ok(client)
            }
            Ok(Err(error)) => {
                self.rotate(index);
                if error.failure() == Failure::Unauthenticated {
                    let said = cause(&error).map(ToString::to_string).unwrap_or_default();
                    self.current().refused = Some((Instant::now(), said));
                }
                Err(error)
            }
            Err(_) => {
                self.rotate(index);
                Err(Error::Timeout {
                    operation: "connect",
                    endpoint,
                })
            }
        }
    }

    async fn connect(&self, endpoint: &str, within: Duration) -> Result<Client, Error> {
        let options = ConnectOptions::new()
            // A little less, so that what is said is that no connection was made.
            .with_connect_timeout(within * 9 / 10)
            .with_require_leader(true);
        let client = match &self.connection.user {
            Some((user, password)) => {
                let options = options.clone().with_user(user, password);
                match Client::connect([endpoint], Some(options)).await {
                    Err(error) if has_no_logins(&error) => None,
                    outcome => Some(outcome),
                }
            }
            None => None,
        };
        let client = match client {
            Some(outcome) => outcome,
            None => Client::connect([endpoint], Some(options)).await,
        };
        client.map_err(|source| match source {
            etcd_client::Error::GRpcStatus(_) => failed(LOG_IN, endpoint, source),
            source => unreachable(endpoint.to_owned(), source),
        })
    }

    /// The login that was refused a moment ago, if one was.
    fn refused_login(&self, endpoint: &str) -> Option<Error> {
        let current = self.current();
        let (at, said) = current.refused.as_ref()?;
        (at.elapsed() < LOGIN_EVERY).then(|| Error::Request {
            operation: LOG_IN,
            endpoint: endpoint.to_owned(),
            failure: Failure::Unauthenticated,
            refused: true,
            source: said.clone().into(),
        })
    }

    /// Leaves the endpoint, unless somebody did already.
    fn rotate(&self, from: usize) {
        let mut current = self.current();
        if current.index == from {
            current.index = (from + 1) % self.connection.endpoints.len();
            current.client = None;
        }
    }

    /// The current endpoint.
    pub(super) fn endpoint(&self) -> String {
        let index = self.current().index;
        self.connection.endpoints[index].clone()
    }

    /// Opens a watch on the current endpoint.
    pub(super) async fn open_watch(
        &self,
        prefix: &str,
        options: WatchOptions,
        within: Duration,
    ) -> Result<WatchStream, Error> {
        self.once(WATCH, within, |mut client| async move {
            client.watch(prefix, Some(options)).await
        })
        .await
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
        let endpoint = &self.connection.endpoints[index];
        match tokio::time::timeout(left, request(client)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => {
                self.rotate(index);
                Err(failed(operation, endpoint, source))
            }
            Err(_) => {
                self.rotate(index);
                Err(Error::Timeout {
                    operation,
                    endpoint: endpoint.clone(),
                })
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
        let mut passed_over = BTreeMap::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let index = self.current().index;
            match self.once(operation, slice.min(left), &request).await {
                Ok(answer) => {
                    passed_over.remove(&index);
                    self.note_passed_over(&passed_over);
                    return Ok(answer);
                }
                Err(error) => {
                    let pause = Duration::from_millis(20);
                    if error.failure().is_refusal() || Instant::now() + pause >= deadline {
                        return Err(error);
                    }
                    passed_over.insert(index, error);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Notes endpoints that failed a request which another one then answered.
    fn note_passed_over(&self, passed_over: &BTreeMap<usize, Error>) {
        self.health.send_if_modified(|health| {
            for (index, error) in passed_over {
                health.note_passed_over(&self.connection.endpoints[*index], error);
            }
            !passed_over.is_empty()
        });
    }

    /// Reads keys linearizably; with how often etcd was seen to go back so far. What another cluster
    /// answers is passed over for the next endpoint, unless most of them answer so.
    async fn get(
        &self,
        key: &str,
        options: &GetOptions,
        within: Duration,
    ) -> Result<(GetResponse, u64), Error> {
        let endpoints = self.connection.endpoints.len();
        let deadline = Instant::now() + within;
        for _ in 0..endpoints {
            let request = |mut client: Client| {
                let (key, options) = (key.to_owned(), options.clone());
                async move { client.get(key, Some(options)).await }
            };
            let asked = self.progress.ask();
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.repeat("read", left, request).await?;
            let endpoint = self.current().index;
            let found = Mark::of(answer.header());
            match self.progress.answered(asked, found, endpoint, endpoints) {
                Answer::Known(resets) => return Ok((answer, resets)),
                Answer::Stranger => self.rotate_now(),
            }
        }
        Err(Error::Stranger {
            endpoints: self.connection.endpoints.join(", "),
        })
    }

    /// A section of the keys, linearizably, with the revision as of which it is true, and how often
    /// etcd was seen to go back so far.
    pub(super) async fn read_at<S: Section>(
        &self,
        within: Duration,
    ) -> Result<(Revision, S, u64), Error> {
        let prefix = S::prefix(&self.keys);
        let options = GetOptions::new().with_prefix();
        let answer = self.get(&prefix, &options, within).await;
        self.note(Access::Read, &answer);
        let (mut answer, resets) = answer?;
        let revision = Mark::of(answer.header()).revision;
        let mut section = S::default();
        for kv in answer.take_kvs() {
            let key = String::from_utf8_lossy(kv.key()).into_owned();
            if let Some(name) = key.strip_prefix(&prefix) {
                section.put(name, &entry(kv));
            }
        }
        section.advance(Revision(revision));
        Ok((Revision(revision), section, resets))
    }

    /// An etcd does not know the lease: because it ended, or because it is not the one that granted
    /// it. A read tells, and leaves the endpoint that is to be believed.
    async fn ask_again(&self, lease: LeaseId, asked: Asked, within: Duration) -> Result<(), Error> {
        let options = GetOptions::new().with_keys_only();
        let leader = self.keys.path(&Key::Leader);
        let (answer, _) = self.get(&leader, &options, within).await?;
        let found = Mark::of(answer.header());
        if !asked.leads_to(found) {
            let revision = found.revision;
            return Err(Error::Reset { revision });
        }
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
        let asked = self.progress.ask();
        let answer = if transaction.is_repeatable() {
            self.repeat(operation, within, request).await
        } else {
            self.once(operation, within, request).await
        };
        if transaction.puts() {
            self.note(Access::Write, &answer);
        }
        let answer = answer?;
        let found = Mark::of(answer.header());
        let revision = found.revision;
        if !asked.leads_to(found) {
            return Err(Error::Reset { revision });
        }
        self.progress.advance(asked.resets, revision);
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
        self.read_at(within).await.map(|(_, section, _)| section)
    }

    async fn grant(&self, ttl: Millis, within: Duration) -> Result<Granted, Error> {
        // etcd counts in whole seconds; rounding up is safe, since the fence uses the smaller of
        // asked and granted.
        let seconds = i64::try_from(ttl.0.div_ceil(1000)).unwrap_or(i64::MAX);
        let request =
            move |mut client: Client| async move { client.lease_grant(seconds, None).await };
        let answer = self.repeat("grant a lease", within, request).await;
        self.note(Access::Grant, &answer);
        let answer = answer?;
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
        let asked = self.progress.ask();
        let answer = self
            .once("keep the lease", self.slice(within), request)
            .await;
        self.note(Access::KeepAlive, &answer);
        let Err(error) = answer else {
            return Ok(());
        };
        match cause(&error) {
            Some(etcd_client::Error::LeaseKeepAliveError(_)) => {
                self.ask_again(lease, asked, within).await
            }
            _ => Err(error),
        }
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
