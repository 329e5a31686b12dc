//! What a breaker counts.

use serde::{Deserialize, Serialize};

/// gobreaker's `Counts`. Requests are counted when they are admitted, so those under way are in the
/// denominator of every ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Admitted.
    pub requests: u32,
    /// Succeeded.
    pub successes: u32,
    /// Failed.
    pub failures: u32,
    /// Ended without saying anything about the upstream.
    pub exclusions: u32,
    /// Successes since the last failure.
    pub consecutive_successes: u32,
    /// Failures since the last success.
    pub consecutive_failures: u32,
}

impl Counts {
    /// Requests that say something, or may yet.
    pub fn valid_requests(&self) -> u32 {
        self.requests.saturating_sub(self.exclusions)
    }

    pub(super) fn admit(&mut self) {
        self.requests = self.requests.wrapping_add(1);
    }

    pub(super) fn succeed(&mut self) {
        self.successes = self.successes.wrapping_add(1);
        self.consecutive_successes = self.consecutive_successes.wrapping_add(1);
        self.consecutive_failures = 0;
    }

    pub(super) fn fail(&mut self) {
        self.failures = self.failures.wrapping_add(1);
        self.consecutive_failures = self.consecutive_failures.wrapping_add(1);
        self.consecutive_successes = 0;
    }

    pub(super) fn exclude(&mut self) {
        self.exclusions = self.exclusions.wrapping_add(1);
    }
}
