//! What is known of a dependency, and survives a change of its configuration.

use std::sync::Mutex;

use crate::cache::recorder::SharedCache;
use crate::counters::{Concurrency, Counter};
use crate::routes::affinity::Affinity;
use mrg_base::Millis;
use mrg_breaker::{Budget, Providers};
use mrg_policy::{Dependency, Reason, Retry};
use mrg_telemetry::Histogram;

/// What of a dependency survives changes of its configuration.
pub(crate) struct Shared {
    /// Requests under way.
    pub concurrency: Concurrency,
    /// Retries left.
    pub budget: Mutex<Budget>,
    budget_settings: (u32, u32),
    /// Which provider is tried first.
    pub order: Mutex<Providers>,
    order_settings: (Vec<String>, Millis),
    /// Which provider served what.
    pub affinity: Mutex<Affinity>,
    /// Good responses for bad times.
    pub responses: SharedCache,
    /// How long answers took.
    pub latencies: Histogram,
    /// Requests that were not served, by reason.
    pub unserved: [Counter; Reason::ALL.len()],
    /// Attempts after the first.
    pub retries: Counter,
    /// Requests that another than the first provider served.
    pub failovers: Counter,
    /// Answers from a fallback.
    pub fallbacks: Counter,
}

impl Shared {
    /// Nothing known yet.
    pub(super) fn new(spec: &Dependency) -> Self {
        let (budget_settings, order_settings) =
            (budget_settings(&spec.retry), order_settings(spec));
        Self {
            concurrency: Concurrency::default(),
            budget: Mutex::new(Budget::new(budget_settings.0, budget_settings.1)),
            budget_settings,
            order: Mutex::new(Providers::new(
                spec.providers.len(),
                spec.failback.min_hold.0,
            )),
            order_settings,
            affinity: Mutex::default(),
            responses: SharedCache::default(),
            latencies: Histogram::default(),
            unserved: std::array::from_fn(|_| Counter::default()),
            retries: Counter::default(),
            failovers: Counter::default(),
            fallbacks: Counter::default(),
        }
    }

    /// Whether it can be taken over: a budget and an order are made for certain settings.
    pub(super) fn fits(&self, spec: &Dependency) -> bool {
        self.budget_settings == budget_settings(&spec.retry)
            && self.order_settings == order_settings(spec)
    }
}

fn budget_settings(retry: &Retry) -> (u32, u32) {
    (retry.budget_percent, retry.min_per_second)
}

fn order_settings(spec: &Dependency) -> (Vec<String>, Millis) {
    (
        spec.providers
            .iter()
            .map(|provider| provider.name.clone())
            .collect(),
        spec.failback.min_hold.0,
    )
}
