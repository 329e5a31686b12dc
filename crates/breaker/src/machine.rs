//! The state machine. gobreaker's to the letter: everything is lazy, deadlines are strict, results
//! of an earlier generation are dropped.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::window::Window;
use super::{Counts, Settings};
use mrg_base::{Millis, Moment};

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Everything.
    Closed,
    /// `max_requests`, to see whether the upstream is back.
    HalfOpen,
    /// Nothing.
    Open,
}

impl State {
    /// As gobreaker names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// Why a request was not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Open (gobreaker's `ErrOpenState`); it lets some through after this long.
    Open {
        /// How long that is still.
        retry_after: Millis,
    },
    /// Half-open, and as many as it lets through are under way or were (gobreaker's
    /// `ErrTooManyRequests`).
    TooManyProbes,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open { retry_after } => {
                write!(f, "the breaker is open for another {retry_after}")
            }
            Self::TooManyProbes => {
                f.write_str("the breaker is half-open, and its probes are under way")
            }
        }
    }
}

/// A request that was admitted: to be given back once, with its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    generation: u64,
    age: u64,
}

/// What a request says about the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// It works.
    Success,
    /// It does not.
    Failure,
    /// Nothing: the client went away, or the request was refused on this side.
    Excluded,
}

/// One breaker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Breaker {
    settings: Settings,
    /// gobreaker's effective values: the interval is a multiple of the bucket.
    interval: Millis,
    bucket: Millis,
    timeout: Millis,
    state: State,
    generation: u64,
    window: Window,
    start: Moment,
    expiry: Option<Moment>,
    trip: Option<Counts>,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(settings: Settings, now: Moment) -> Self {
        let Settings {
            interval,
            bucket,
            timeout,
            ..
        } = settings;
        let buckets = if interval.0 > 0 && bucket.0 > 0 {
            interval.0.div_ceil(bucket.0)
        } else {
            1
        };
        let interval = if interval.0 > 0 && bucket.0 > 0 {
            Millis(buckets * bucket.0)
        } else {
            interval
        };
        let timeout = if timeout.0 == 0 {
            Millis::seconds(60)
        } else {
            timeout
        };
        let mut breaker = Self {
            settings,
            interval,
            bucket,
            timeout,
            state: State::Closed,
            generation: 0,
            window: Window::new(buckets),
            start: now,
            expiry: None,
            trip: None,
        };
        breaker.begin_generation(now);
        breaker
    }

    /// What it was made with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The state at this moment. Like every other call this may change it: an open breaker becomes
    /// half-open when it is touched.
    pub fn state(&mut self, now: Moment) -> State {
        self.refresh(now);
        self.state
    }

    /// The state when it was last touched.
    pub fn last_state(&self) -> State {
        self.state
    }

    /// What it counted in this generation, by the last touch.
    pub fn counts(&self) -> Counts {
        self.window.total()
    }

    /// What it had counted when it opened last, if it was closed before.
    pub fn trip(&self) -> Option<Counts> {
        self.trip
    }

    /// When an open breaker lets requests through again: after this moment, not at it.
    pub fn opens_until(&self) -> Option<Moment> {
        self.expiry.filter(|_| self.state == State::Open)
    }

    /// Admits a request.
    ///
    /// # Errors
    /// If the breaker is open, with the time that it stays so; or if it is half-open and
    /// `max_requests` probes were admitted.
    pub fn admit(&mut self, now: Moment) -> Result<Ticket, Refusal> {
        self.refresh(now);
        match self.state {
            State::Open => {
                return Err(Refusal::Open {
                    retry_after: self.expiry.map_or(Millis(0), |expiry| expiry.since(now)),
                });
            }
            State::HalfOpen
                if self.window.total().valid_requests() >= self.settings.max_requests.get() =>
            {
                return Err(Refusal::TooManyProbes);
            }
            State::HalfOpen | State::Closed => {}
        }
        self.window.admit();
        Ok(Ticket {
            generation: self.generation,
            age: self.window.age(),
        })
    }

    /// Takes note of how an admitted request ended.
    pub fn report(&mut self, now: Moment, ticket: Ticket, outcome: Outcome) {
        self.refresh(now);
        if ticket.generation != self.generation {
            return;
        }
        match (outcome, self.state) {
            (Outcome::Excluded, _) => self.window.book(ticket.age, Counts::exclude),
            (Outcome::Success, State::Closed) => self.window.book(ticket.age, Counts::succeed),
            (Outcome::Success, State::HalfOpen) => {
                self.window.book(ticket.age, Counts::succeed);
                if self.window.total().consecutive_successes >= self.settings.max_requests.get() {
                    self.enter(State::Closed, now);
                }
            }
            (Outcome::Failure, State::Closed) => {
                self.window.book(ticket.age, Counts::fail);
                let counts = self.window.total();
                if self.trips(counts) {
                    self.trip = Some(counts);
                    self.enter(State::Open, now);
                }
            }
            (Outcome::Failure, State::HalfOpen) => self.enter(State::Open, now),
            // No ticket is of an open generation.
            (Outcome::Success | Outcome::Failure, State::Open) => {}
        }
    }

    fn trips(&self, counts: Counts) -> bool {
        let valid = counts.valid_requests();
        valid >= self.settings.min_requests
            && self
                .settings
                .failure_ratio
                .is_reached(counts.failures, valid)
    }

    fn refresh(&mut self, now: Moment) {
        let expired = self.expiry.is_some_and(|expiry| expiry < now);
        match self.state {
            State::Closed if expired => self.begin_generation(now),
            State::Closed if self.window.is_rolling() => {
                self.window.grow(now.since(self.start).0 / self.bucket.0);
            }
            State::Open if expired => self.enter(State::HalfOpen, now),
            State::Closed | State::Open | State::HalfOpen => {}
        }
    }

    fn enter(&mut self, state: State, now: Moment) {
        self.state = state;
        self.begin_generation(now);
    }

    fn begin_generation(&mut self, now: Moment) {
        self.generation += 1;
        self.start = now;
        self.window.clear();
        self.expiry = match self.state {
            State::Closed if self.interval.0 == 0 || self.window.is_rolling() => None,
            State::Closed => Some(now + self.interval),
            State::Open => Some(now + self.timeout),
            State::HalfOpen => None,
        };
    }
}
