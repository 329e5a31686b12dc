//! The canary: which requests it gets, and how it fares beside the workload.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::uri::Authority;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::traffic::{Answered, TrafficStats, failed};
use crate::client::attempt;
use crate::provider::{Permit, Provider};
use crate::routes::convert;
use mrg_breaker::{Mode, Outcome, Settings};
use mrg_policy::{Canary, CanaryReport, Ended};

/// A connection that is refused within this time has cost the caller nothing.
const FAST_REFUSAL: Duration = Duration::from_millis(100);

/// A server that gets a share of the workload's requests, and how both of them fare.
pub(super) struct CanaryUpstream {
    spec: Canary,
    pub(super) authority: Authority,
    number: AtomicU64,
    /// Its breaker: while it is open, the canary's share goes to the workload.
    provider: Arc<Provider>,
    /// Whether it has answered once. Its first pod may be ready before every node routes to it, and
    /// then a connection that fails counts as no failure.
    reached: AtomicBool,
    /// Until then one request at a time tries to reach it.
    probe: Semaphore,
    canary: TrafficStats,
    pub(super) stable: TrafficStats,
}

impl CanaryUpstream {
    /// One of which nothing is counted yet.
    pub(super) fn new(
        spec: Canary,
        authority: &mrg_policy::Authority,
        changes: &watch::Sender<u64>,
    ) -> Self {
        Self {
            authority: convert::authority(authority),
            number: AtomicU64::new(0),
            provider: Arc::new(Provider::new(
                format!("canary {}", spec.trial),
                Mode::Enforce,
                Settings::default(),
                changes.clone(),
            )),
            reached: AtomicBool::new(false),
            probe: Semaphore::new(1),
            canary: TrafficStats::default(),
            stable: TrafficStats::default(),
            spec,
        }
    }

    /// What is counted of both.
    pub(super) fn report(&self) -> CanaryReport {
        CanaryReport {
            trial: self.spec.trial.clone(),
            share: self.spec.share,
            opened: self.provider.opened.get(),
            canary: self.canary.report(),
            stable: self.stable.report(),
        }
    }

    /// The next request's turn at the canary; `None` if it goes to the workload.
    pub(super) fn turn(&self) -> Option<CanaryTurn<'_>> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        if !self.spec.takes(number) {
            return None;
        }
        let probe = if self.reached.load(Ordering::Relaxed) {
            None
        } else {
            Some(self.probe.try_acquire().ok()?)
        };
        Some(CanaryTurn {
            upstream: self,
            permit: self.provider.admit().ok()?,
            _probe: probe,
        })
    }

    /// Counts what came of a turn, and reports it to the breaker.
    pub(super) fn record(&self, permit: Permit, took: Duration, answered: &Answered) {
        let connected =
            !matches!(answered, Ok(Err(error)) if attempt::ended(error) == Ended::NotConnected);
        if connected {
            self.reached.store(true, Ordering::Relaxed);
        } else if !self.reached.load(Ordering::Relaxed) && took < FAST_REFUSAL {
            return permit.end(Outcome::Excluded);
        }
        let has_failed = failed(answered);
        self.canary.count(took, has_failed);
        permit.end(if has_failed {
            Outcome::Failure
        } else {
            Outcome::Success
        });
    }
}

/// A request that goes to the canary instead of the workload.
pub(super) struct CanaryTurn<'a> {
    pub(super) upstream: &'a CanaryUpstream,
    pub(super) permit: Permit,
    pub(super) _probe: Option<SemaphorePermit<'a>>,
}
