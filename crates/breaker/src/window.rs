//! Counts over time: one window that is cleared, or a ring of buckets whose oldest is forgotten
//! (gobreaker's `rollingCounts`).

use super::Counts;

/// A ring of buckets, and their sum.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Window {
    total: Counts,
    age: u64,
    buckets: Vec<Counts>,
}

impl Window {
    /// A ring of so many buckets, at least one.
    pub(crate) fn new(buckets: u64) -> Self {
        let buckets = usize::try_from(buckets.max(1)).unwrap_or(usize::MAX);
        Self {
            total: Counts::default(),
            age: 0,
            buckets: vec![Counts::default(); buckets],
        }
    }

    pub(crate) fn total(&self) -> Counts {
        self.total
    }

    /// The newest bucket's number since the window began. A request's outcome is booked where its
    /// admission was.
    pub(crate) fn age(&self) -> u64 {
        self.age
    }

    pub(crate) fn is_rolling(&self) -> bool {
        self.buckets.len() >= 2
    }

    fn index(&self, age: u64) -> usize {
        usize::try_from(age % self.buckets.len() as u64).unwrap_or_default()
    }

    pub(crate) fn admit(&mut self) {
        self.total.admit();
        let current = self.index(self.age);
        self.buckets[current].admit();
    }

    /// Books an outcome of a request that was admitted at `age`, unless that bucket is forgotten.
    pub(crate) fn book(&mut self, age: u64, outcome: fn(&mut Counts)) {
        if age <= self.age && self.age - age < self.buckets.len() as u64 {
            outcome(&mut self.total);
            let bucket = self.index(age);
            outcome(&mut self.buckets[bucket]);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.total = Counts::default();
        self.age = 0;
        self.buckets.fill(Counts::default());
    }

    /// Forgets what is older than the window, if `age` is newer than the newest bucket.
    pub(crate) fn grow(&mut self, age: u64) {
        if age <= self.age {
            return;
        }
        if age - self.age >= self.buckets.len() as u64 {
            self.clear();
            self.age = age;
        } else {
            while self.age < age {
                self.roll();
            }
        }
    }

    fn roll(&mut self) {
        self.age += 1;
        let oldest = self.index(self.age);
        self.subtract(oldest);
        self.buckets[oldest] = Counts::default();
    }

    /// A run of successes or failures loses what the oldest bucket gave to it only if it spans all
    /// that came after.
    fn subtract(&mut self, oldest: usize) {
        let bucket = self.buckets[oldest];
        let others = |of: fn(&Counts) -> u32| -> u32 {
            let after = self
                .buckets
                .iter()
                .enumerate()
                .filter(|(index, _)| *index != oldest);
            after.fold(0, |sum, (_, counts)| sum.wrapping_add(of(counts)))
        };
        let successes = bucket
            .consecutive_successes
            .wrapping_add(others(|counts| counts.successes));
        let failures = bucket
            .consecutive_failures
            .wrapping_add(others(|counts| counts.failures));
        let total = &mut self.total;
        if total.consecutive_successes == successes {
            total.consecutive_successes = total
                .consecutive_successes
                .saturating_sub(bucket.consecutive_successes);
        }
        if total.consecutive_failures == failures {
            total.consecutive_failures = total
                .consecutive_failures
                .saturating_sub(bucket.consecutive_failures);
        }
        total.requests = total.requests.saturating_sub(bucket.requests);
        total.successes = total.successes.saturating_sub(bucket.successes);
        total.failures = total.failures.saturating_sub(bucket.failures);
        total.exclusions = total.exclusions.saturating_sub(bucket.exclusions);
    }
}
