//! How many retries there may be: a share of the requests, so that retrying cannot multiply the
//! load on an upstream that is down.

use mrg_base::{Millis, Moment};

const SLICES: usize = 10;

/// Requests and retries of the last ten seconds. Retries are at most a share of the requests, and a
/// few a second in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    percent: u32,
    minimum_per_second: u32,
    slices: [(u32, u32); SLICES],
    second: u64,
}

impl Budget {
    /// At most `percent` retries for a hundred requests, and no fewer than `minimum_per_second`.
    pub fn new(percent: u32, minimum_per_second: u32) -> Self {
        Self {
            percent,
            minimum_per_second,
            slices: [(0, 0); SLICES],
            second: 0,
        }
    }

    fn slice(&mut self, now: Moment) -> &mut (u32, u32) {
        let second = now.0 / Millis::seconds(1).0;
        let passed = second.saturating_sub(self.second).min(SLICES as u64);
        for step in 0..passed {
            self.slices[usize::try_from((second - step) % SLICES as u64).unwrap_or_default()] =
                (0, 0);
        }
        self.second = self.second.max(second);
        &mut self.slices[usize::try_from(self.second % SLICES as u64).unwrap_or_default()]
    }

    /// A request came in.
    pub fn request(&mut self, now: Moment) {
        self.slice(now).0 += 1;
    }

    /// Takes a retry out of the budget, if one is left.
    pub fn take_retry(&mut self, now: Moment) -> bool {
        self.slice(now);
        let (requests, retries) = self.slices.iter().fold((0u64, 0u64), |sum, slice| {
            (sum.0 + u64::from(slice.0), sum.1 + u64::from(slice.1))
        });
        let allowed = (requests * u64::from(self.percent) / 100)
            .max(u64::from(self.minimum_per_second) * SLICES as u64);
        if retries >= allowed {
            return false;
        }
        self.slice(now).1 += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_the_requests_of_ten_seconds() {
        let mut budget = Budget::new(20, 1);
        let mut now = Moment(5_000);
        for _ in 0..200 {
            budget.request(now);
        }
        assert_eq!((0..100).filter(|_| budget.take_retry(now)).count(), 40);
        now = now + Millis::seconds(9);
        assert!(!budget.take_retry(now));
        now = now + Millis::seconds(1);
        assert_eq!(
            (0..100).filter(|_| budget.take_retry(now)).count(),
            10,
            "the minimum of one a second"
        );
    }

    #[test]
    fn a_long_silence_clears_the_budget() {
        let mut budget = Budget::new(0, 1);
        assert_eq!((0..50).filter(|_| budget.take_retry(Moment(0))).count(), 10);
        assert_eq!(
            (0..50)
                .filter(|_| budget.take_retry(Moment(1_000_000)))
                .count(),
            10
        );
    }
}
