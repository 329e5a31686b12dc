//! The lease under which a member leads, and the deadline by which it must have stopped writing.

use serde::{Deserialize, Serialize};

use crate::mutant::bug;
use mrg_base::{Millis, Moment};

/// The DCS's name for a lease. Ownership of the leader key is this, never the member's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub i64);

/// A lease that this process was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// Its name in the DCS.
    pub id: LeaseId,
    /// The ttl that was asked for.
    pub requested: Millis,
    /// Its ttl: the smaller of what was asked for and what was granted.
    pub ttl: Millis,
    /// Until when the DCS surely honours it, less the margin in which postgres is killed.
    pub valid_until: Moment,
}

/// What is kept in hand before a lease ends, for the killing of postgres: a tenth of the ttl, at
/// least half a second.
pub fn fence_margin(ttl: Millis) -> Millis {
    if bug!(NoFenceMargin) {
        Millis(0)
    } else {
        Millis((ttl.0 / 10).max(500))
    }
}

/// A member's word to a leader without DCS: not to race, vote or promise another while it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Hash)]
pub struct Promise {
    /// The leader's lease.
    pub lease: LeaseId,
    /// Until when it holds.
    pub until: Moment,
    /// The leader's count of the times it asked; a withdrawal of an earlier round does not touch
    /// it.
    #[serde(default)]
    pub round: u64,
}

impl Lease {
    /// A lease that was asked for at `sent` and granted. The time is counted from the sending, and
    /// from the smaller of the two ttls.
    pub fn granted(id: LeaseId, requested: Millis, granted: Millis, sent: Moment) -> Self {
        let ttl = requested.min(granted);
        Self {
            id,
            requested,
            ttl,
            valid_until: sent + ttl - fence_margin(ttl),
        }
    }

    /// The lease after an answered keepalive that was *sent* at `sent`. A late answer changes
    /// nothing.
    #[must_use]
    pub fn kept(self, sent: Moment) -> Self {
        let valid_until = (sent + self.ttl - fence_margin(self.ttl)).max(self.valid_until);
        Self {
            valid_until,
            ..self
        }
    }

    /// When the last successful grant or keepalive was sent.
    pub fn confirmed_at(&self) -> Moment {
        self.valid_until + fence_margin(self.ttl) - self.ttl
    }

    /// Whether the lease is still surely ours.
    pub fn is_valid(&self, now: Moment) -> bool {
        now < self.valid_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_counts_from_the_sending_and_from_the_smaller_ttl() {
        let lease = Lease::granted(
            LeaseId(1),
            Millis::seconds(10),
            Millis::seconds(8),
            Moment(1_000),
        );
        assert_eq!(lease.valid_until, Moment(1_000 + 8_000 - 800));
        assert!(lease.is_valid(Moment(8_199)));
        assert!(!lease.is_valid(Moment(8_200)));
    }

    #[test]
    fn an_answer_that_was_overtaken_does_not_shorten_the_lease() {
        let lease = Lease::granted(
            LeaseId(1),
            Millis::seconds(10),
            Millis::seconds(10),
            Moment(5_000),
        );
        assert_eq!(lease.kept(Moment(4_000)), lease);
        assert_eq!(lease.kept(Moment(6_000)).confirmed_at(), Moment(6_000));
    }

    #[test]
    fn a_short_lease_keeps_half_a_second_in_hand() {
        assert_eq!(fence_margin(Millis::seconds(3)), Millis(500));
        assert_eq!(fence_margin(Millis::seconds(30)), Millis(3_000));
    }
}
