//! Asking the poolers to pause before a hand-over: ask, wait until their last transactions are
//! done, or give up.
//!
//! The request is a key under the leader's lease; each pooler acknowledges it in its own record and
//! reports there when no transaction is under way any more. A pooler that does not acknowledge is
//! not waited for: it may be dead. One that does and whose transactions do not end decides by its
//! settings: they are cut, or a planned switchover is abandoned.

use std::collections::BTreeMap;

use crate::action::Outcome;
use crate::mutant::bug;
use crate::view::Revision;
use mrg_base::{Millis, Moment};

/// How long a leader waits for a pooler to acknowledge the request.
pub const ACKNOWLEDGED_WITHIN: Millis = Millis(500);

/// The record of a pooler whose clients write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WritePooler {
    /// How long a leader waits for its last transactions.
    pub max_wait: Millis,
    /// Whether a planned switchover is given up if they do not end; otherwise they are cut.
    pub abandons: bool,
    /// The request that it acknowledges.
    pub request: Option<Revision>,
    /// Whether no transaction has been under way since it acknowledged.
    pub drained: bool,
}

/// The write poolers, by pod.
pub type WritePoolers = BTreeMap<String, WritePooler>;

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PauseEvent {
    /// [`PoolPause::wake_at`] has come, or any other time.
    Tick,
    /// A state of the records, never older than the one before.
    Poolers {
        /// The poolers.
        poolers: WritePoolers,
        /// The revision that created our leader key, if it is there.
        leadership: Option<Revision>,
    },
    /// The DCS does not give the records.
    Lost,
    /// What came of [`PauseEffect::Request`].
    Requested(Outcome),
}

/// What to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PauseEffect {
    /// Write the request, on condition that the leader key is ours; report the outcome.
    Request {
        /// The leadership that it is about.
        leadership: Revision,
    },
    /// Delete the request, on condition that the leader key is ours.
    Withdraw,
    /// What follows cuts transactions of these pods' clients: to be logged.
    Cut {
        /// The pods.
        pods: Vec<String>,
    },
    /// The step has ended; nothing follows.
    End(Outcome),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for the records until `by`.
    Reading {
        by: Moment,
    },
    /// Waits for the request to be written.
    Requesting,
    /// Waits for the poolers.
    Waiting {
        request: Revision,
        since: Moment,
    },
    Ended,
}

/// One request to the poolers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPause {
    may_abandon: bool,
    phase: Phase,
    /// As of the newest state of the records.
    poolers: WritePoolers,
    /// The longest wait that a pooler asked for when the request was made.
    max_wait: Millis,
}

impl PoolPause {
    /// Begins at `now`; the records have to come within `timeout`. `may_abandon`: whether what is
    /// planned may be given up for a pooler that says so.
    pub fn new(now: Moment, timeout: Millis, may_abandon: bool) -> Self {
        Self {
            may_abandon,
            phase: Phase::Reading { by: now + timeout },
            poolers: WritePoolers::new(),
            max_wait: Millis(0),
        }
    }

    /// When [`PauseEvent::Tick`] is due; `None` if only events count.
    pub fn wake_at(&self, now: Moment) -> Option<Moment> {
        match self.phase {
            Phase::Reading { by } => Some(by),
            Phase::Waiting { since, .. } => {
                let silent = since + self.silence();
                Some(if now < silent {
                    silent
                } else {
                    since + self.max_wait
                })
            }
            Phase::Requesting | Phase::Ended => None,
        }
    }

    /// Takes an event that happened at `now`, and gives what to do.
    pub fn on(&mut self, now: Moment, event: PauseEvent) -> Vec<PauseEffect> {
        match (&self.phase, event) {
            (
                Phase::Reading { .. },
                PauseEvent::Poolers {
                    poolers,
                    leadership,
                },
            ) => self.request(poolers, leadership),
            (Phase::Reading { by }, PauseEvent::Tick) if now < *by => Vec::new(),
            (Phase::Reading { .. }, PauseEvent::Tick | PauseEvent::Lost) => self.end(
                Outcome::Failed("etcd does not tell which poolers there are".to_owned()),
            ),
            (Phase::Requesting, PauseEvent::Requested(outcome)) => self.requested(now, outcome),
            (Phase::Requesting | Phase::Waiting { .. }, PauseEvent::Poolers { poolers, .. }) => {
                self.poolers = poolers;
                self.wait(now)
            }
            (Phase::Waiting { .. }, PauseEvent::Tick | PauseEvent::Lost) => self.wait(now),
            (Phase::Requesting, PauseEvent::Tick | PauseEvent::Lost)
            | (Phase::Ended, _)
            | (Phase::Reading { .. } | Phase::Waiting { .. }, PauseEvent::Requested(_)) => {
                Vec::new()
            }
        }
    }

    fn end(&mut self, outcome: Outcome) -> Vec<PauseEffect> {
        self.phase = Phase::Ended;
        vec![PauseEffect::End(outcome)]
    }

    fn request(&mut self, poolers: WritePoolers, leadership: Option<Revision>) -> Vec<PauseEffect> {
        let Some(max_wait) = poolers.values().map(|pooler| pooler.max_wait).max() else {
            return self.end(Outcome::Done);
        };
        let Some(leadership) = leadership else {
            return self.end(Outcome::Failed("there is no leader key".to_owned()));
        };
        self.poolers = poolers;
        self.max_wait = max_wait;
        self.phase = Phase::Requesting;
        vec![PauseEffect::Request { leadership }]
    }

    fn requested(&mut self, now: Moment, outcome: Outcome) -> Vec<PauseEffect> {
        match outcome {
            Outcome::Written(request) => {
                self.phase = Phase::Waiting {
                    request,
                    since: now,
                };
                self.wait(now)
            }
            // No pooler refuses anything here; who leads is found out by the steps that follow.
            Outcome::Refused(reason) | Outcome::Unknown(reason) => {
                self.end(Outcome::Failed(reason))
            }
            other => self.end(other),
        }
    }

    /// How long a pooler is waited for that does not acknowledge.
    fn silence(&self) -> Millis {
        if bug!(SilentPoolersAwaited) {
            self.max_wait
        } else {
            ACKNOWLEDGED_WITHIN.min(self.max_wait)
        }
    }

    /// Whether all poolers have paused, or the time is over.
    fn wait(&mut self, now: Moment) -> Vec<PauseEffect> {
        let Phase::Waiting { request, since } = self.phase else {
            return Vec::new();
        };
        let late = now >= since + self.silence();
        let busy = |pooler: &WritePooler| {
            let acknowledges = pooler.request == Some(request);
            let drained = pooler.drained && (acknowledges || bug!(FormerPauseCounts));
            !drained && (!late || acknowledges)
        };
        let busy: Vec<(&String, &WritePooler)> = self
            .poolers
            .iter()
            .filter(|(_, pooler)| busy(pooler))
            .collect();
        if busy.is_empty() || bug!(PauseNotAwaited) {
            return self.end(Outcome::Done);
        }
        if now < since + self.max_wait || bug!(PauseWithoutEnd) {
            return Vec::new();
        }
        let abandons = busy.iter().any(|(_, pooler)| pooler.abandons);
        let pods: Vec<String> = busy.into_iter().map(|(pod, _)| pod.clone()).collect();
        if !abandons || !self.may_abandon && !bug!(ShutdownAbandoned) {
            let mut effects = vec![PauseEffect::Cut { pods }];
            effects.extend(self.end(Outcome::Done));
            return effects;
        }
        let reason = format!(
            "transactions of {pods:?} were still open after {:?}; the switchover is abandoned",
            self.max_wait.duration()
        );
        let mut effects = self.end(Outcome::Refused(reason));
        if !bug!(PauseLeftBehind) {
            effects.insert(0, PauseEffect::Withdraw);
        }
        effects
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Millis = Millis(2_000);
    const REQUEST: Revision = Revision(30);
    const LEADERSHIP: Revision = Revision(12);

    fn pooler(request: Option<Revision>, drained: bool) -> WritePooler {
        WritePooler {
            max_wait: WAIT,
            abandons: true,
            request,
            drained,
        }
    }

    fn records(poolers: &[WritePooler]) -> PauseEvent {
        let named = |(number, pooler): (usize, &WritePooler)| (format!("p{number}"), *pooler);
        PauseEvent::Poolers {
            poolers: poolers.iter().enumerate().map(named).collect(),
            leadership: Some(LEADERSHIP),
        }
    }

    /// A pause whose request was written at 1,000 ms, with these poolers.
    fn requested(may_abandon: bool, poolers: &[WritePooler]) -> PoolPause {
        let mut pause = PoolPause::new(Moment(0), Millis(5_000), may_abandon);
        assert_eq!(
            pause.on(Moment(900), records(poolers)),
            [PauseEffect::Request {
                leadership: LEADERSHIP
            }]
        );
        assert_eq!(
            pause.on(
                Moment(1_000),
                PauseEvent::Requested(Outcome::Written(REQUEST))
            ),
            []
        );
        pause
    }

    fn is_refused(effects: &[PauseEffect]) -> bool {
        matches!(
            effects,
            [PauseEffect::Withdraw, PauseEffect::End(Outcome::Refused(_))]
        )
    }

    fn is_cut(effects: &[PauseEffect]) -> bool {
        matches!(
            effects,
            [PauseEffect::Cut { pods }, PauseEffect::End(Outcome::Done)] if *pods == ["p0"]
        )
    }

    const DONE: &[PauseEffect] = &[PauseEffect::End(Outcome::Done)];
    const IDLE: WritePooler = WritePooler {
        max_wait: WAIT,
        abandons: true,
        request: None,
        drained: false,
    };

    #[test]
    fn without_poolers_nothing_is_written() {
        let mut pause = PoolPause::new(Moment(0), Millis(5_000), true);
        assert_eq!(pause.on(Moment(10), records(&[])), DONE);
    }

    #[test]
    fn what_cannot_be_asked_fails() {
        let failed =
            |effects: &[PauseEffect]| matches!(effects, [PauseEffect::End(Outcome::Failed(_))]);
        let begin = || PoolPause::new(Moment(0), Millis(5_000), true);
        assert!(failed(&begin().on(Moment(10), PauseEvent::Lost)));
        assert!(failed(&begin().on(Moment(5_000), PauseEvent::Tick)));
        assert_eq!(begin().on(Moment(4_999), PauseEvent::Tick), []);
        let no_key = PauseEvent::Poolers {
            poolers: [("p".to_owned(), IDLE)].into(),
            leadership: None,
        };
        assert!(failed(&begin().on(Moment(10), no_key)));
        for outcome in [
            Outcome::Refused(String::new()),
            Outcome::Unknown(String::new()),
            Outcome::Failed(String::new()),
        ] {
            let mut pause = begin();
            pause.on(Moment(10), records(&[IDLE]));
            assert!(failed(
                &pause.on(Moment(20), PauseEvent::Requested(outcome))
            ));
        }
    }

    #[test]
    fn it_is_done_when_each_pooler_has_drained_for_this_request() {
        let mut pause = requested(true, &[IDLE, IDLE]);
        let drained = pooler(Some(REQUEST), true);
        let former = pooler(Some(Revision(20)), true);
        let table = [
            (1_010, records(&[drained, IDLE]), vec![]),
            (1_020, records(&[drained, former]), vec![]),
            (
                1_030,
                records(&[drained, pooler(Some(REQUEST), false)]),
                vec![],
            ),
            (1_040, PauseEvent::Lost, vec![]),
            (1_050, records(&[drained, drained]), DONE.to_vec()),
            (1_060, records(&[IDLE]), vec![]),
        ];
        for (at, event, effects) in table {
            assert_eq!(pause.on(Moment(at), event), effects, "at {at}");
        }
    }

    #[test]
    fn a_silent_pooler_is_not_waited_for() {
        let mut pause = requested(true, &[IDLE, pooler(Some(REQUEST), true)]);
        assert_eq!(pause.wake_at(Moment(1_000)), Some(Moment(1_500)));
        assert_eq!(pause.on(Moment(1_499), PauseEvent::Tick), []);
        assert_eq!(pause.on(Moment(1_500), PauseEvent::Tick), DONE);
    }

    #[test]
    fn a_short_wait_is_not_outlasted_by_the_wait_for_silent_poolers() {
        let short = WritePooler {
            max_wait: Millis(200),
            ..IDLE
        };
        let mut pause = requested(true, &[short]);
        assert_eq!(pause.wake_at(Moment(1_000)), Some(Moment(1_200)));
        assert_eq!(pause.on(Moment(1_200), PauseEvent::Tick), DONE);
    }

    #[test]
    fn transactions_that_do_not_end_stop_a_switchover_if_their_pool_says_so() {
        let busy = pooler(Some(REQUEST), false);
        let mut pause = requested(true, &[busy]);
        assert_eq!(pause.on(Moment(1_500), PauseEvent::Tick), []);
        assert_eq!(pause.wake_at(Moment(1_500)), Some(Moment(3_000)));
        assert_eq!(pause.on(Moment(2_999), PauseEvent::Tick), []);
        assert!(is_refused(&pause.on(Moment(3_000), PauseEvent::Tick)));
        let cuts = WritePooler {
            abandons: false,
            ..busy
        };
        assert!(is_cut(
            &requested(true, &[cuts]).on(Moment(3_000), PauseEvent::Tick)
        ));
    }

    #[test]
    fn a_shutdown_is_not_abandoned() {
        let busy = pooler(Some(REQUEST), false);
        assert!(is_cut(
            &requested(false, &[busy]).on(Moment(3_000), PauseEvent::Tick)
        ));
    }

    #[test]
    fn poolers_that_drain_before_the_answer_of_the_write_are_not_forgotten() {
        let mut pause = PoolPause::new(Moment(0), Millis(5_000), true);
        pause.on(Moment(900), records(&[IDLE]));
        assert_eq!(
            pause.on(Moment(950), records(&[pooler(Some(REQUEST), true)])),
            []
        );
        let written = PauseEvent::Requested(Outcome::Written(REQUEST));
        assert_eq!(pause.on(Moment(1_000), written), DONE);
    }
}
