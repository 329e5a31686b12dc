//! Rounds of promises: while its lease cannot be renewed, a leader asks all members to keep quiet
//! for one ttl, again and again, and leads by their promises.

use crate::lease::fence_margin;
use crate::mutant::bug;
use crate::settings::Failover;
use mrg_base::{Millis, Moment};

/// The pause after a round that failed.
const RETRY: Millis = Millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    /// No member was asked since the lease was kept last.
    Free { due: Moment },
    /// Answers are waited for.
    Open,
    /// Members may have promised; the next round is due at this time.
    Bound { due: Moment },
}

/// The rounds of one leader.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PromiseRounds {
    /// Counts the rounds.
    round: u64,
    phase: Phase,
}

impl PromiseRounds {
    pub(crate) fn new(now: Moment) -> Self {
        Self {
            round: 0,
            phase: Phase::Free { due: now },
        }
    }

    /// When a round is due, if keepalives fail; `None` while one is open.
    pub(crate) fn due(&self) -> Option<Moment> {
        match self.phase {
            Phase::Free { due } | Phase::Bound { due } => Some(due),
            Phase::Open => None,
        }
    }

    /// Whether answers of a round are waited for.
    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Opens a round, unless the last is still open or the next is not due. Only to be called
    /// while a keepalive is unanswered.
    pub(crate) fn open(&mut self, now: Moment) -> Option<u64> {
        self.due().filter(|due| *due <= now)?;
        self.round += 1;
        self.phase = Phase::Open;
        Some(self.round)
    }

    /// A round ended: until when its promises count, if all were given.
    pub(crate) fn close(
        &mut self,
        now: Moment,
        round: u64,
        asked: Moment,
        all: bool,
        failover: &Failover,
    ) -> Option<Moment> {
        if !self.is_open() || round != self.round {
            return None;
        }
        let all = all || bug!(SomePromisesSuffice);
        let due = if all {
            asked + failover.loop_wait.min(Millis(failover.ttl.0 / 3))
        } else {
            now + RETRY
        };
        self.phase = Phase::Bound { due };
        all.then(|| asked + failover.ttl - fence_margin(failover.ttl))
    }

    /// The lease holds again: members that promised are free up to this round, if any was asked. An
    /// answer that is still under way does not count.
    pub(crate) fn release(&mut self, now: Moment) -> Option<u64> {
        let bound = !matches!(self.phase, Phase::Free { .. });
        self.phase = Phase::Free { due: now };
        bound.then_some(self.round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failover() -> Failover {
        Failover {
            ttl: Millis(30_000),
            loop_wait: Millis(10_000),
            ..crate::Settings::default().failover
        }
    }

    #[test]
    fn a_round_counts_once_and_from_its_beginning() {
        let mut rounds = PromiseRounds::new(Moment(0));
        assert_eq!(rounds.open(Moment(0)), Some(1));
        assert_eq!(rounds.open(Moment(1)), None, "the first is still open");
        let mut close = |round, all| rounds.close(Moment(100), round, Moment(50), all, &failover());
        assert_eq!(close(0, true), None, "another round");
        assert_eq!(close(1, true), Some(Moment(27_050)));
        assert_eq!(close(1, true), None, "it is closed");
        assert_eq!(rounds.open(Moment(10_049)), None);
        assert_eq!(rounds.open(Moment(10_050)), Some(2));
    }

    #[test]
    fn a_round_without_all_promises_proves_nothing_and_is_repeated_soon() {
        let mut rounds = PromiseRounds::new(Moment(0));
        rounds.open(Moment(0));
        let until = rounds.close(Moment(100), 1, Moment(0), false, &failover());
        assert_eq!(until, None);
        assert_eq!(rounds.due(), Some(Moment(350)));
    }

    #[test]
    fn a_kept_lease_frees_those_who_were_asked_and_no_late_answer_counts() {
        let mut rounds = PromiseRounds::new(Moment(0));
        assert_eq!(rounds.release(Moment(1)), None);
        rounds.open(Moment(1));
        assert_eq!(rounds.release(Moment(2)), Some(1));
        let until = rounds.close(Moment(3), 1, Moment(1), true, &failover());
        assert_eq!(until, None);
        assert_eq!(rounds.release(Moment(4)), None);
    }
}
