//! What the proxy serves now, and how that is changed.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::configuration::parse;
use crate::current::Current;
use crate::digest::short_digest;
use crate::listeners::Listeners;
use crate::routes::table::{RouteTable, TableBuilder};
use crate::server::inbound::InboundHandler;
use mrg_base::lock;
use mrg_policy::Checked;

/// A proxy that runs.
pub(crate) struct Running {
    builder: TableBuilder,
    outbound: IpAddr,
    table: Current<RouteTable>,
    listeners: Mutex<Listeners>,
    state: Mutex<State>,
    /// The newest configuration, taken or refused. Held while it changes: one change at a time.
    newest: tokio::sync::Mutex<Newest>,
}

/// Where a configuration comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The operator.
    Push,
    /// The mounted file, which is late by as much as the kubelet is.
    File,
}

/// How long a file may still be an older configuration than the newest.
const FILE_IS_LATE_FOR: Duration = Duration::from_secs(120);
/// Older configurations that are remembered.
const REMEMBERED: usize = 32;

/// The newest configuration that came.
#[derive(Default)]
struct Newest {
    bytes: Vec<u8>,
    hash: String,
    /// What the Secrets held that it names.
    secrets: String,
    came: Option<Instant>,
    /// The hashes of those before it.
    older: VecDeque<String>,
}

impl Newest {
    /// Whether a file with this hash is one from before the newest.
    fn is_late(&self, hash: &str) -> bool {
        let lately = self
            .came
            .is_some_and(|came| came.elapsed() < FILE_IS_LATE_FOR);
        lately && self.older.iter().any(|older| older == hash)
    }

    fn replace(&mut self, bytes: &[u8], hash: &str) {
        if self.hash != hash {
            self.older.retain(|older| older != hash);
            self.older
                .push_back(std::mem::replace(&mut self.hash, hash.to_owned()));
            if self.older.len() > REMEMBERED {
                self.older.pop_front();
            }
            self.bytes = bytes.to_vec();
        }
        self.came = Some(Instant::now());
    }
}

#[derive(Default)]
struct State {
    /// Why the newest configuration was refused; `None`: it was not.
    refused: Option<String>,
    draining: bool,
}

impl Running {
    /// A proxy that serves nothing yet.
    pub(crate) fn new(builder: TableBuilder, outbound: IpAddr, workload: String) -> Self {
        let empty = RouteTable {
            config: Arc::new(Checked::empty(workload)),
            hash: String::new(),
            routes: Vec::new(),
        };
        Self {
            builder,
            outbound,
            table: Current::new(Arc::new(empty)),
            listeners: Mutex::default(),
            state: Mutex::default(),
            newest: tokio::sync::Mutex::default(),
        }
    }

    /// What serves now.
    pub(crate) fn now(&self) -> (Arc<RouteTable>, Option<Arc<InboundHandler>>) {
        let inbound = lock(&self.listeners).inbound();
        (self.table.get(), inbound)
    }

    /// Counts changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.builder.changes.subscribe()
    }

    /// Why the newest configuration was refused.
    pub(crate) fn refused(&self) -> Option<String> {
        lock(&self.state).refused.clone()
    }

    /// Whether it is about to end.
    pub(crate) fn is_draining(&self) -> bool {
        lock(&self.state).draining
    }

    /// Takes a new configuration, and answers with its hash; `None` if it is a file from before the
    /// newest.
    ///
    /// # Errors
    /// If it is refused, with the reason; the last one goes on.
    pub(crate) async fn configure(
        &self,
        bytes: &[u8],
        source: Source,
    ) -> Result<Option<String>, String> {
        let mut newest = self.newest.lock().await;
        let hash = short_digest(bytes, 8);
        if source == Source::File && newest.is_late(&hash) {
            tracing::debug!(hash, "the mounted file is older than what was pushed");
            return Ok(None);
        }
        newest.replace(bytes, &hash);
        if self.table.get().hash == hash {
            lock(&self.state).refused = None;
            self.take_again(&mut newest)?;
        } else {
            self.take(&mut newest)?;
        }
        Ok(Some(hash))
    }

    /// Takes the newest configuration once more if a Secret that it names has changed, or has come.
    ///
    /// # Errors
    /// If it is refused; what was taken last goes on.
    pub(crate) async fn take_secrets(&self) -> Result<(), String> {
        self.take_again(&mut *self.newest.lock().await)
    }

    fn take_again(&self, newest: &mut Newest) -> Result<(), String> {
        let Ok(checked) = parse(&newest.bytes) else {
            // Refused for what it says itself.
            return Ok(());
        };
        if self.builder.secrets_digest(&checked) == newest.secrets {
            return Ok(());
        }
        tracing::info!("the credentials of a provider have changed in their Secret, or have come");
        self.take(newest)
    }

    fn take(&self, newest: &mut Newest) -> Result<(), String> {
        let applied = self.apply(newest);
        let refused = applied.err().map(|error| format!("{error:#}"));
        let hash = &newest.hash;
        if let Some(refused) = &refused {
            tracing::warn!(
                hash,
                why = refused,
                "configuration refused; the last one goes on"
            );
        } else {
            tracing::info!(hash, "configuration taken");
        }
        lock(&self.state).refused.clone_from(&refused);
        self.builder.changes.send_modify(|count| *count += 1);
        refused.map_or(Ok(()), Err)
    }

    /// Serves the configuration that the proxy starts with.
    ///
    /// # Errors
    /// If it is refused: there is no last one to go on with.
    pub(crate) async fn start(&self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut newest = self.newest.lock().await;
        (newest.bytes, newest.hash) = (bytes.to_vec(), short_digest(bytes, 8));
        self.apply(&mut newest)
    }

    /// Serves a configuration from now on.
    ///
    /// # Errors
    /// If it is refused, a port is taken, or the table cannot be built. Nothing has changed then.
    fn apply(&self, newest: &mut Newest) -> anyhow::Result<()> {
        let checked = parse(&newest.bytes)?;
        // Read before it is applied: what changes meanwhile is taken the next time.
        newest.secrets = self.builder.secrets_digest(&checked);
        // What can fail comes first: ports, then secrets and headers. Until then nothing has
        // changed.
        let ports = lock(&self.listeners).bind_new(&checked, self.outbound)?;
        let before = self.table.get();
        let table = Arc::new(
            self.builder
                .build(checked, newest.hash.clone(), Some(&before))?,
        );
        let mut listeners = lock(&self.listeners);
        listeners.serve(&table, ports, &self.builder.changes);
        self.table.set(table);
        Ok(())
    }

    /// The pod is about to stop: callers are served, and sent elsewhere for their next request. The
    /// workload's own calls go on.
    pub(crate) fn leave(&self) {
        lock(&self.state).draining = true;
        lock(&self.listeners).leave();
        self.builder.changes.send_modify(|count| *count += 1);
    }

    /// No new connections; what is under way ends.
    pub(crate) async fn drain(&self) {
        lock(&self.state).draining = true;
        let ending = lock(&self.listeners).end();
        for task in ending {
            // A task that panicked has nothing under way.
            let _ = task.await;
        }
    }
}
