//! In which order the providers of a dependency are tried.

use mrg_base::{Millis, Moment};

/// What is known of each provider, in the order of the configuration: the first that may is tried
/// first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Providers {
    minimum_hold: Millis,
    known: Vec<Known>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Known {
    unhealthy: bool,
    avoided_until: Option<Moment>,
}

impl Providers {
    /// So many; one that was left is not returned to before `minimum_hold` has passed.
    pub fn new(count: usize, minimum_hold: Millis) -> Self {
        Self {
            minimum_hold,
            known: vec![Known::default(); count],
        }
    }

    /// Calls move on from this provider: its breaker opened, or refused.
    pub fn left(&mut self, provider: usize, now: Moment) {
        let until = now + self.minimum_hold;
        if let Some(known) = self.known.get_mut(provider)
            && known.avoided_until.is_none_or(|avoided| avoided <= now)
        {
            known.avoided_until = Some(until);
        }
    }

    /// What an active health check says.
    pub fn checked(&mut self, provider: usize, healthy: bool) {
        if let Some(known) = self.known.get_mut(provider) {
            known.unhealthy = !healthy;
        }
    }

    /// Whether an active health check speaks against it.
    pub fn is_unhealthy(&self, provider: usize) -> bool {
        self.known
            .get(provider)
            .is_some_and(|known| known.unhealthy)
    }

    /// Which providers are tried, and in which order. Those that are avoided or unhealthy come last,
    /// since they are better than none. A pinned provider is the only one, since another knows nothing of what it was asked
    /// for.
    pub fn order(
        &self,
        eligible: impl Fn(usize) -> bool,
        pinned: Option<usize>,
        now: Moment,
    ) -> Vec<usize> {
        if let Some(pinned) = pinned.filter(|pinned| *pinned < self.known.len()) {
            return vec![pinned];
        }
        let hinders =
            |known: &Known| known.unhealthy || known.avoided_until.is_some_and(|until| now < until);
        let (mut order, last): (Vec<usize>, Vec<usize>) = (0..self.known.len())
            .filter(|provider| eligible(*provider))
            .partition(|provider| !hinders(&self.known[*provider]));
        order.extend(last);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_that_was_left_is_tried_last_until_the_hold_has_passed() {
        let mut providers = Providers::new(3, Millis::seconds(60));
        let all = |_| true;
        assert_eq!(providers.order(all, None, Moment(0)), [0, 1, 2]);
        providers.left(0, Moment(0));
        assert_eq!(providers.order(all, None, Moment(59_999)), [1, 2, 0]);
        providers.left(0, Moment(30_000));
        assert_eq!(
            providers.order(all, None, Moment(60_000)),
            [0, 1, 2],
            "a hold is not prolonged by every refusal"
        );
    }

    #[test]
    fn only_eligible_providers_are_tried_and_a_pinned_one_alone() {
        let mut providers = Providers::new(3, Millis::seconds(60));
        providers.checked(1, false);
        assert_eq!(
            providers.order(|provider| provider > 0, None, Moment(0)),
            [2, 1]
        );
        assert_eq!(providers.order(|_| true, Some(1), Moment(0)), [1]);
        assert_eq!(providers.order(|_| true, Some(9), Moment(0)), [0, 2, 1]);
    }
}
