//! What a pooler publishes: its record in etcd, for the leader and the operator, and its status over
//! HTTP, for the kubelet, Prometheus and people.

use std::time::SystemTime;

use tokio::sync::watch;

use crate::config::{Mode, PoolerConfig};
use crate::http::Status;
use mrg_base::Millis;
use mrg_clock::now;
use mrg_dcs::health::{Access, Failing};
use mrg_dcs::poolers::{PoolerRecord, Rewire};
use mrg_dcs_etcd::HealthLog;
use mrg_election::Revision;
use mrg_pgbouncer::Pools;
use mrg_pool_core::{PoolCore, Reason, Retargeted, Servers};

/// From this wait on, waiting clients are published: clients wait for a moment all the time.
const LONG_WAIT_US: u64 = 1_000_000;

/// The pool at one moment.
pub(crate) struct PoolState {
    why: Reason,
    /// For how long clients have waited; `None` while they work.
    paused: Option<Millis>,
    servers: Servers,
    /// Whether all processes run.
    started: bool,
    pools: Pools,
    /// The number of the present target.
    generation: u64,
}

impl PoolState {
    /// The state of a pool's core and its processes.
    pub(crate) fn of(core: &dyn PoolCore, started: bool, pools: Pools, generation: u64) -> Self {
        Self {
            why: core.reason(),
            paused: core.paused_since().map(|since| now().since(since)),
            servers: core.serving(),
            started,
            pools,
            generation,
        }
    }

    fn members(&self) -> Vec<String> {
        self.servers.keys().map(ToString::to_string).collect()
    }

    fn addresses(&self) -> Vec<String> {
        self.servers.values().map(ToString::to_string).collect()
    }

    /// The record with this state, if the difference is worth a write to etcd.
    fn record(&self, old: &PoolerRecord) -> Option<PoolerRecord> {
        let waits = self.paused.is_some() || self.pools.longest_wait_us >= LONG_WAIT_US;
        let new = PoolerRecord {
            reason: self.why.into(),
            members: self.members(),
            addresses: self.addresses(),
            generation: self.generation,
            clients: self.pools.clients,
            waiting: if waits { self.pools.waiting } else { 0 },
            ..old.clone()
        };
        // Numbers that change all the time are not worth a write by themselves: about one in ten is.
        let near = |a: u64, b: u64| a.abs_diff(b) <= a.max(b) / 10;
        let same = PoolerRecord {
            clients: old.clients,
            waiting: old.waiting,
            ..new.clone()
        } == *old;
        let changed =
            !same || !near(new.clients, old.clients) || (new.waiting == 0) != (old.waiting == 0);
        changed.then_some(new)
    }
}

/// Publishes how etcd answers, and logs it, until the client of etcd is gone.
pub(crate) async fn follow_etcd(mut log: HealthLog, status: watch::Sender<Status>) {
    while let Some(health) = log.next().await {
        status.send_modify(|status| {
            let error =
                |(access, failing): (Access, &Failing)| (access.name(), failing.text.clone());
            status.etcd_errors = health.failing().map(error).collect();
            status.etcd = health;
        });
    }
}

/// The senders of both, and the reason that was logged last.
pub(crate) struct Publisher {
    record: watch::Sender<PoolerRecord>,
    status: watch::Sender<Status>,
    logged: Option<Reason>,
}

impl Publisher {
    /// A pooler that has just started.
    pub(crate) fn new(config: &PoolerConfig) -> Self {
        let record = watch::Sender::new(PoolerRecord {
            pool: config.pool.clone(),
            writes: config.mode == Mode::Write,
            max_wait_ms: config.max_wait_ms.0,
            abandons: config.abandons,
            reason: Reason::Starting.into(),
            ..PoolerRecord::default()
        });
        let status = watch::Sender::new(Status {
            pool: config.pool.clone(),
            ..Status::default()
        });
        Self {
            record,
            status,
            logged: None,
        }
    }

    /// The record in etcd.
    pub(crate) fn record(&self) -> &watch::Sender<PoolerRecord> {
        &self.record
    }

    /// What is served over HTTP.
    pub(crate) fn status(&self) -> &watch::Sender<Status> {
        &self.status
    }

    /// Publishes the pool's state, and logs a new reason.
    pub(crate) fn publish(&mut self, state: &PoolState) {
        if self.logged != Some(state.why) {
            tracing::info!(why = state.why.name(), "{}", state.why);
            self.logged = Some(state.why);
        }
        self.status.send_modify(|status| {
            status.serving = state.started;
            state.why.name().clone_into(&mut status.why);
            status.because = state.why.to_string();
            status.held_ms = state
                .paused
                .filter(|_| state.started)
                .map_or(0, |paused| paused.0);
            status.members = state.members();
            status.addresses = state.addresses();
            status.pools = state.pools;
        });
        self.record
            .send_if_modified(|record| match state.record(record) {
                Some(new) => {
                    *record = new;
                    true
                }
                None => false,
            });
    }

    /// Publishes that PgBouncer ended, and why.
    pub(crate) fn note_failure(&self, why: &str) {
        self.status.send_modify(|status| status.restarts += 1);
        let failure = Some(format!("PgBouncer: {why}"));
        self.record.send_if_modified(|record| {
            let changed = record.failure != failure;
            record.failure = failure;
            changed
        });
    }

    /// Publishes that PgBouncer runs.
    pub(crate) fn note_running(&self) {
        self.record
            .send_if_modified(|record| record.failure.take().is_some());
    }

    /// Acknowledges a pause request, by its revision.
    pub(crate) fn acknowledge(&self, pause: Revision, drained: bool) {
        self.record.send_modify(|record| {
            record.pause = Some(pause);
            record.drained = drained;
        });
    }

    /// Publishes the end of a pause that this many clients were in.
    pub(crate) fn note_retargeted(&self, retargeted: &Retargeted, clients: u64) {
        let (cause, paused) = (retargeted.cause, retargeted.paused);
        self.status.send_modify(|status| {
            let (count, total) = status.rewires.entry(cause.name().to_owned()).or_default();
            *count += 1;
            *total += paused.0;
        });
        // A pod that has just started had no clients.
        if cause == Reason::Starting {
            return;
        }
        let at_ms = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            });
        self.record.send_modify(|record| {
            record.rewire = Some(Rewire {
                cause: cause.into(),
                held_ms: paused.0,
                clients,
                at_ms,
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(clients: u64, waiting: u64) -> PoolState {
        PoolState {
            why: Reason::Confirmed,
            paused: None,
            servers: Servers::new(),
            started: true,
            pools: Pools {
                clients,
                waiting,
                ..Pools::default()
            },
            generation: 1,
        }
    }

    #[test]
    fn small_changes_of_counts_are_not_written() {
        let record = state(100, 0).record(&PoolerRecord::default()).unwrap();
        assert_eq!(state(105, 0).record(&record), None);
        assert_eq!(state(150, 0).record(&record).unwrap().clients, 150);
    }

    #[test]
    fn waiting_clients_are_published_once_they_wait_long_or_are_paused() {
        let record = state(100, 0).record(&PoolerRecord::default()).unwrap();
        assert_eq!(state(100, 7).record(&record), None);
        let mut long = state(100, 7);
        long.pools.longest_wait_us = LONG_WAIT_US;
        assert_eq!(long.record(&record).unwrap().waiting, 7);
        let mut paused = state(100, 7);
        paused.paused = Some(Millis(1));
        assert_eq!(paused.record(&record).unwrap().waiting, 7);
    }
}
