//! Requests to etcd about this member's lease, each a task that ends in an event.

use tokio::sync::mpsc;

use crate::context::Context;
use crate::incarnation::Incarnation;
use crate::run::Agent;
use mrg_base::Millis;
use mrg_dcs::{Error as DcsError, Store, wire};
use mrg_dcs_etcd::WatchCommand;
use mrg_election::{Event, LeaseId};
use mrg_postgres::server_in;
use mrg_telemetry::chain;

impl Agent {
    pub(super) fn grant(&self, ttl: Millis) {
        let (context, events) = (self.context.clone(), self.events.clone());
        let pids = [std::process::id(), self.fence.pid];
        tokio::spawn(async move {
            let _ = events.send(grant(&context, ttl, &pids).await).await;
        });
    }

    pub(super) fn keep_alive(&self, lease: LeaseId) {
        let (context, events) = (self.context.clone(), self.events.clone());
        let commands = self.commands.clone();
        tokio::spawn(async move {
            let kept = keep_alive(&context, lease, &commands).await;
            let _ = events.send(kept).await;
        });
    }

    /// Revokes the lease of the incarnation before this one, if that is surely dead: its leader key
    /// goes at once.
    pub(super) async fn clear_former_incarnation(&self) {
        let config = &self.context.config;
        // The agent and its fence may be gone while their server is not.
        if let Some(pid) = server_in(&config.data_directory) {
            tracing::error!(
                pid,
                directory = %config.data_directory.display(),
                "a PostgreSQL server that this agent did not start runs on its data; the lease of the agent before is not revoked while it may write"
            );
            return;
        }
        let Some(record) = Incarnation::load(&config.incarnation_file()) else {
            return;
        };
        if !record.is_dead(config.own.container) {
            tracing::warn!(
                "an earlier incarnation of this agent may still run; waiting for its lease to end"
            );
            return;
        }
        let revoked = self
            .context
            .store
            .revoke(record.lease, self.context.dcs_within());
        match revoked.await {
            Ok(()) => tracing::info!(
                lease = record.lease.0,
                "cleared the keys of this agent's earlier incarnation"
            ),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "unable to clear the keys of this agent's earlier incarnation"
            ),
        }
    }
}

/// The lease counts from before the request is sent.
async fn grant(context: &Context, ttl: Millis, pids: &[u32]) -> Event {
    let sent = mrg_clock::now();
    let granted = match context.store.grant(ttl, context.dcs_within()).await {
        Ok(granted) => granted,
        Err(error) => {
            tracing::debug!(error = chain(&error), "no lease");
            return Event::LeaseUnanswered;
        }
    };
    if let Err(error) = record_lease(context, granted.id, pids).await {
        let path = context.config.incarnation_file();
        tracing::error!(error = chain(&error), path = %path.display(), "failed to record the lease");
        let _ = context.store.revoke(granted.id, context.dcs_within()).await;
        return Event::LeaseUnanswered;
    }
    Event::LeaseGranted {
        id: granted.id,
        granted: granted.ttl,
        sent,
    }
}

async fn keep_alive(
    context: &Context,
    lease: LeaseId,
    commands: &mpsc::UnboundedSender<WatchCommand>,
) -> Event {
    let sent = mrg_clock::now();
    match context.store.keep_alive(lease, context.dcs_within()).await {
        Ok(()) => Event::LeaseKept { id: lease, sent },
        Err(DcsError::LeaseGone(_)) => Event::LeaseGone(lease),
        // The watch reads, and reports it with what etcd says now.
        Err(error @ DcsError::Reset { .. }) => {
            tracing::warn!(error = chain(&error), "the lease is not known any more");
            let _ = commands.send(WatchCommand::Again);
            Event::LeaseUnanswered
        }
        Err(error) => {
            tracing::debug!(error = chain(&error), "the keepalive was not answered");
            Event::LeaseUnanswered
        }
    }
}

/// Records the lease for the incarnation after this one, and for the kubelet, before the lease is
/// used for anything. Fails if the disk does not take it in time.
async fn record_lease(context: &Context, lease: LeaseId, pids: &[u32]) -> std::io::Result<()> {
    let record = Incarnation::of(lease, pids);
    let path = context.config.incarnation_file();
    let message = context.config.own.termination_message.clone();
    let write = tokio::task::spawn_blocking(move || {
        record.store(&path)?;
        message.map_or(Ok(()), |path| {
            std::fs::write(path, wire::compact(&serde_json::json!({ "lease": lease })))
        })
    });
    let written = tokio::time::timeout(context.dcs_within(), write).await;
    written.map_err(|_| std::io::ErrorKind::TimedOut)??
}
