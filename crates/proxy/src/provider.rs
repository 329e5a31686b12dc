//! One provider while the proxy runs: its breaker, what is counted, and the permits of requests
//! under way.

use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use tokio::sync::watch;

use crate::counters::Counter;
use mrg_base::{Millis, Moment, lock};
use mrg_breaker::{Admission, Counts, Gate, Mode, Outcome, Override, Refusal, Settings, State};

/// A breaker's state with its story.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct BreakerStatus {
    /// The state.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// Why, in words.
    pub why: String,
}

/// What is kept of a provider across changes of configuration.
pub(crate) struct Provider {
    /// `dependency/provider`, for logs.
    pub label: String,
    gate: Mutex<Gate>,
    status: Mutex<BreakerStatus>,
    /// What the last failure was, in words.
    last_failure: Mutex<Option<String>>,
    /// Requests that succeeded.
    pub successes: Counter,
    /// Requests that failed.
    pub failures: Counter,
    /// Requests whose outcome says nothing about the provider, such as those that a caller broke off.
    pub excluded: Counter,
    /// Requests that its breaker refused.
    pub refused: Counter,
    /// How often its breaker opened.
    pub opened: Counter,
    /// Counts changes, for receivers that wait for one.
    changes: watch::Sender<u64>,
}

impl Provider {
    /// One whose breaker is closed.
    pub(crate) fn new(
        label: String,
        mode: Mode,
        settings: Settings,
        changes: watch::Sender<u64>,
    ) -> Self {
        let status = BreakerStatus {
            state: State::Closed,
            since: Timestamp::now(),
            why: "no failures yet".to_owned(),
        };
        Self {
            label,
            gate: Mutex::new(Gate::new(mode, settings, mrg_clock::now())),
            status: Mutex::new(status),
            last_failure: Mutex::default(),
            successes: Counter::default(),
            failures: Counter::default(),
            excluded: Counter::default(),
            refused: Counter::default(),
            opened: Counter::default(),
            changes,
        }
    }

    /// Takes note of what a failure was, for the sentence that says why the breaker opened. Called
    /// before the permit is given back.
    pub(crate) fn note_failure(&self, what: String) {
        *lock(&self.last_failure) = Some(shortened(what));
    }

    /// Does something with the breaker. A change of its state is logged and announced.
    fn with<T>(&self, act: impl FnOnce(&mut Gate, Moment) -> T) -> T {
        let now = mrg_clock::now();
        let mut gate = lock(&self.gate);
        let before = gate.breaker().last_state();
        let result = act(&mut gate, now);
        let after = gate.breaker().last_state();
        if before != after {
            let trip = gate.breaker().trip();
            // Logs and the receivers of changes do not run under the lock.
            drop(gate);
            self.announce(before, after, trip);
        }
        result
    }

    fn announce(&self, before: State, after: State, trip: Option<Counts>) {
        let last = lock(&self.last_failure).clone().unwrap_or_default();
        let last = |before: &str| {
            if last.is_empty() {
                String::new()
            } else {
                format!("{before}{last}")
            }
        };
        let why = match (before, after, trip) {
            (State::Closed, State::Open, Some(counts)) => format!(
                "{} of {} failed{}",
                counts.failures,
                counts.valid_requests(),
                last("; last: ")
            ),
            (State::HalfOpen, State::Open, _) => format!("a probe failed{}", last(": ")),
            (_, State::HalfOpen, _) => {
                "its time open is over; a few requests are let through".to_owned()
            }
            (_, State::Closed, _) => "the probes succeeded".to_owned(),
            (_, State::Open, _) => "failures".to_owned(),
        };
        if after == State::Open {
            self.opened.add();
        }
        tracing::info!(
            provider = self.label,
            from = before.name(),
            to = after.name(),
            why,
            "breaker"
        );
        *lock(&self.status) = BreakerStatus {
            state: after,
            since: Timestamp::now(),
            why,
        };
        self.changes.send_modify(|count| *count += 1);
    }

    /// Lets a request through, or not.
    ///
    /// # Errors
    /// If the breaker is open, or half-open with all its probes under way, or forced open. Where
    /// the policy only observes (mode `Shadow`), never.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Permit, Refusal> {
        match self.with(Gate::admit) {
            Ok(admission) => Ok(Permit {
                provider: self.clone(),
                admission: Some(admission),
            }),
            Err(refusal) => {
                self.refused.add();
                Err(refusal)
            }
        }
    }

    /// Takes new settings; the state survives unless the breaker's own changed.
    pub(crate) fn configure(&self, mode: Mode, settings: Settings, forced: Option<Override>) {
        self.with(|gate, now| gate.configure(mode, settings, forced, now));
        self.changes.send_modify(|count| *count += 1);
    }

    /// What clients feel, its story, and what is forced.
    pub(crate) fn status(&self) -> (State, BreakerStatus, Option<Override>, Counts) {
        let (felt, forced, counts) =
            self.with(|gate, now| (gate.state(now), gate.forced(now), gate.counts()));
        (felt, lock(&self.status).clone(), forced, counts)
    }

    /// How long an open breaker stays so.
    pub(crate) fn open_for(&self) -> Option<Millis> {
        self.with(
            |gate, now| match (gate.forced(now), gate.breaker().opens_until()) {
                (Some(forced), _) if forced.open => Some(forced.until.since(now)),
                (Some(_), _) | (None, None) => None,
                (None, Some(until)) => Some(until.since(now)),
            },
        )
    }

    /// How often a shadowed breaker would have refused.
    pub(crate) fn shadow_refusals(&self) -> u64 {
        lock(&self.gate).shadow_refusals()
    }
}

/// What fits into a status and a log line.
fn shortened(text: String) -> String {
    const MOST: usize = 200;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} …", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// The permit of a request that was let through. It is given back with the outcome; one that is
/// dropped counts as excluded, since the caller went away.
pub(crate) struct Permit {
    provider: Arc<Provider>,
    admission: Option<Admission>,
}

impl Permit {
    /// See [`Provider::note_failure`].
    pub(crate) fn note_failure(&self, what: &str) {
        self.provider.note_failure(what.to_owned());
    }

    /// Gives the permit back.
    pub(crate) fn end(mut self, outcome: Outcome) {
        self.give_back(outcome);
    }

    fn give_back(&mut self, outcome: Outcome) {
        let Some(admission) = self.admission.take() else {
            return;
        };
        match outcome {
            Outcome::Success => self.provider.successes.add(),
            Outcome::Failure => self.provider.failures.add(),
            Outcome::Excluded => self.provider.excluded.add(),
        }
        self.provider
            .with(|gate, now| gate.report(now, admission, outcome));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back(Outcome::Excluded);
    }
}
