//! How far behind a standby's answer is, from positions in the WAL: every answer of a standby says
//! how far it had replayed, and once a second the primary says how far it has written. A standby
//! that has replayed what was written at a moment lags by less than that moment's age. Pure. Unlike
//! `now() - pg_last_xact_replay_timestamp()` it does not take a quiet night for a lag.

use std::collections::VecDeque;

use super::order::Micros;
use mrg_base::Lsn;

/// What the primary had written, and when: the last two minutes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Written {
    samples: VecDeque<(Micros, Lsn)>,
}

/// One sample a second, for two minutes.
const MAX_SAMPLES: usize = 120;

impl Written {
    /// Asked at `at`, the primary said that it had written up to here. Take the time before asking:
    /// the answer is younger, never older.
    pub(crate) fn sample(&mut self, at: Micros, lsn: Lsn) {
        if self.samples.back().is_some_and(|(_, last)| lsn < *last) {
            // Another history: a primary restored from elsewhere.
            self.samples.clear();
        }
        self.samples.push_back((at, lsn));
        if self.samples.len() > MAX_SAMPLES {
            self.samples.pop_front();
        }
    }

    /// How old an answer may be at most that was given at `now` by a standby that had replayed up
    /// to `replayed`; microseconds. `None`: unknown.
    pub(crate) fn staleness(&self, now: Micros, replayed: Lsn) -> Option<Micros> {
        let (at, _) = self
            .samples
            .iter()
            .rev()
            .find(|(_, written)| *written <= replayed)?;
        Some(Micros(now.0.saturating_sub(at.0).max(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_as_old_as_the_last_sample_that_it_has_replayed() {
        let mut written = Written::default();
        assert_eq!(
            written.staleness(Micros(5), Lsn(100)),
            None,
            "nothing is known before the first sample"
        );
        written.sample(Micros(1_000), Lsn(100));
        written.sample(Micros(2_000), Lsn(200));
        assert_eq!(
            written.staleness(Micros(2_500), Lsn(250)),
            Some(Micros(500))
        );
        assert_eq!(
            written.staleness(Micros(2_500), Lsn(199)),
            Some(Micros(1_500))
        );
        assert_eq!(
            written.staleness(Micros(2_500), Lsn(99)),
            None,
            "further behind than is remembered"
        );
    }

    #[test]
    fn a_quiet_night_is_no_lag_and_a_silent_primary_is() {
        let mut written = Written::default();
        for second in 0..300 {
            written.sample(Micros(second * 1_000_000), Lsn(100));
        }
        assert_eq!(
            written.staleness(Micros(299_500_000), Lsn(100)),
            Some(Micros(500_000))
        );
        assert_eq!(
            written.staleness(Micros(330_000_000), Lsn(100)),
            Some(Micros(31_000_000)),
            "nobody knows what was written since"
        );
    }

    #[test]
    fn positions_that_go_back_are_another_history() {
        let mut written = Written::default();
        written.sample(Micros(1), Lsn(500));
        written.sample(Micros(2), Lsn(100));
        assert_eq!(written.staleness(Micros(3), Lsn(50)), None);
        assert_eq!(written.staleness(Micros(3), Lsn(150)), Some(Micros(1)));
    }
}
