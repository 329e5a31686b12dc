//! What the proxy serves now, and how that is changed.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

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
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
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
            changing: tokio::sync::Mutex::default(),
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

    /// Takes a new configuration, and answers with its hash.
    ///
    /// # Errors
    /// If it is refused, with the reason; the last one goes on.
    pub(crate) async fn configure(&self, bytes: &[u8]) -> Result<String, String> {
        let _one = self.changing.lock().await;
        let hash = short_digest(bytes, 8);
        if self.table.get().hash == hash {
            return Ok(hash);
        }
        let applied = self.apply(bytes, hash.clone());
        let refused = applied.err().map(|error| format!("{error:#}"));
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
        refused.map_or(Ok(hash), Err)
    }

    /// Serves a configuration from now on.
    ///
    /// # Errors
    /// If it is refused, a port is taken, or the table cannot be built. Nothing has changed then.
    pub(crate) fn apply(&self, bytes: &[u8], hash: String) -> anyhow::Result<()> {
        let checked = parse(bytes)?;
        // What can fail comes first: ports, then secrets and headers. Until then nothing has
        // changed.
        let ports = lock(&self.listeners).bind_new(&checked, self.outbound)?;
        let before = self.table.get();
        let table = Arc::new(self.builder.build(checked, hash, Some(&before))?);
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
