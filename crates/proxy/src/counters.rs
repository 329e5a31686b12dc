//! Counters that outlive a change of configuration.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many requests are under way, with a limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Concurrency(Arc<AtomicU32>);

/// One request that is under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<AtomicU32>);

impl Concurrency {
    /// One more request; `None` if the limit is reached.
    pub(crate) fn enter(&self, limit: u32) -> Option<InFlight> {
        // Counting needs no order with other memory.
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let entered = InFlight(self.0.clone());
        (before < limit).then_some(entered)
    }

    /// How many requests are under way.
    pub(crate) fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The value.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_are_under_way_and_a_refused_one_is_not_counted() {
        let concurrency = Concurrency::default();
        let (first, second) = (concurrency.enter(2), concurrency.enter(2));
        assert!(first.is_some() && second.is_some() && concurrency.enter(2).is_none());
        assert_eq!(concurrency.now(), 2);
        drop(first);
        assert!(concurrency.enter(2).is_some());
    }
}
