//! Which provider served a thing first: later requests about it go there.

use std::collections::{HashMap, VecDeque};

use mrg_base::{Millis, Moment};

/// So many are remembered; the one that was pinned first is forgotten first.
const CAPACITY: usize = 100_000;

/// Things and the provider of each.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    of: HashMap<String, (String, Moment)>,
    order: VecDeque<String>,
}

impl Affinity {
    /// The provider's name.
    pub(crate) fn get(&self, thing: &str, keep: Millis, now: Moment) -> Option<&str> {
        self.of
            .get(thing)
            .filter(|(_, used)| now.since(*used) <= keep)
            .map(|(provider, _)| provider.as_str())
    }

    /// It was served by this provider.
    pub(crate) fn set(&mut self, thing: &str, provider: &str, now: Moment) {
        if self
            .of
            .insert(thing.to_owned(), (provider.to_owned(), now))
            .is_none()
        {
            self.order.push_back(thing.to_owned());
            if self.order.len() > CAPACITY
                && let Some(oldest) = self.order.pop_front()
            {
                self.of.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_ends_when_it_was_not_used_for_long() {
        let mut pins = Affinity::default();
        pins.set("order-1", "xendit", Moment(0));
        assert_eq!(pins.get("order-1", Millis(10), Moment(10)), Some("xendit"));
        assert_eq!(pins.get("order-1", Millis(10), Moment(11)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut pins = Affinity::default();
        for number in 0..=CAPACITY {
            pins.set(&number.to_string(), "a", Moment(0));
        }
        assert_eq!((pins.of.len(), pins.order.len()), (CAPACITY, CAPACITY));
        assert_eq!(pins.get("0", Millis(1), Moment(0)), None);
    }
}
