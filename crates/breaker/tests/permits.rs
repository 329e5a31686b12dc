//! A breaker's permits under concurrency: five callers share one breaker that lets three through
//! when it is half-open. Each decision is one step (the proxy holds a lock for it); answers,
//! cancellations and time come in every order in between. What is expected is counted here, not
//! asked of the breaker.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

use std::num::NonZeroU32;

use mrg_base::{Millis, Moment};
use mrg_breaker::{Breaker, Outcome, Ratio, Settings, State as Stands, Ticket};
use stateright::{Checker, Model, Property};

const CALLERS: usize = 5;
const PERMITS: u32 = 3;
const TIMEOUT: Millis = Millis(1_000);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Caller {
    Idle,
    /// Its request is under way: with its ticket, and the half-open spell in which it was let
    /// through, if it was one.
    Asks(Ticket, Option<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "which states were reached, each for an assertion of its own"
)]
struct Shared {
    breaker: Breaker,
    now: Moment,
    opened: Moment,
    callers: Vec<Caller>,
    /// Requests that each may still make.
    left: Vec<u8>,
    stands: Stands,
    /// Which half-open spell this is or was the last, and what became of its permits: given, given
    /// back unused, succeeded.
    spell: u8,
    given: u32,
    unused: u32,
    succeeded: u32,
    /// The first thing that must not be.
    wrong: Option<&'static str>,
    closed_again: bool,
    opened_again: bool,
    reused: bool,
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happens {
    Asks(usize),
    Ends(usize, Outcome),
    TimePasses,
}

struct Permits;

impl Shared {
    /// Takes note of where the breaker stands, after each step.
    fn look(&mut self) {
        let stands = self.breaker.last_state();
        let before = std::mem::replace(&mut self.stands, stands);
        match (before, stands) {
            (Stands::Open, Stands::HalfOpen) => {
                if self.now <= self.opened + TIMEOUT {
                    self.wrong.get_or_insert("half-open before its time");
                }
                self.spell += 1;
                (self.given, self.unused, self.succeeded) = (0, 0, 0);
            }
            (Stands::HalfOpen, Stands::Closed) => {
                self.closed_again = true;
                if self.succeeded != PERMITS {
                    self.wrong
                        .get_or_insert("closed without three successes of one spell");
                }
            }
            (_, Stands::Open) if before != Stands::Open => {
                self.opened = self.now;
                self.opened_again |= before == Stands::HalfOpen;
            }
            (Stands::Open, Stands::Closed) | (Stands::Closed, Stands::HalfOpen) => {
                self.wrong.get_or_insert("a way that no breaker goes");
            }
            _ => {}
        }
    }

    fn asks(&mut self, caller: usize) {
        self.left[caller] -= 1;
        let admitted = self.breaker.admit(self.now);
        self.look();
        match (admitted, self.stands) {
            (Ok(_), Stands::Open) => {
                self.wrong.get_or_insert("let through by an open breaker");
            }
            (Ok(ticket), Stands::Closed) => self.callers[caller] = Caller::Asks(ticket, None),
            (Ok(ticket), Stands::HalfOpen) => {
                self.given += 1;
                self.reused |= self.given > PERMITS;
                if self.given - self.unused > PERMITS {
                    self.wrong
                        .get_or_insert("more than three permits at once or answered");
                }
                self.callers[caller] = Caller::Asks(ticket, Some(self.spell));
            }
            (Err(_), Stands::Closed) => {
                self.wrong.get_or_insert("refused by a closed breaker");
            }
            (Err(_), Stands::HalfOpen) => {
                self.refused = true;
                if self.given - self.unused < PERMITS {
                    self.wrong.get_or_insert("a permit is lost");
                }
            }
            (Err(_), Stands::Open) => {}
        }
    }

    fn ends(&mut self, caller: usize, outcome: Outcome) {
        let Caller::Asks(ticket, spell) =
            std::mem::replace(&mut self.callers[caller], Caller::Idle)
        else {
            return;
        };
        if spell == Some(self.spell) && self.stands == Stands::HalfOpen {
            self.unused += u32::from(outcome == Outcome::Excluded);
            self.succeeded += u32::from(outcome == Outcome::Success);
        }
        self.breaker.report(self.now, ticket, outcome);
        self.look();
    }
}

impl Model for Permits {
    type State = Shared;
    type Action = Happens;

    fn init_states(&self) -> Vec<Shared> {
        let now = Moment(1_000);
        let permits = NonZeroU32::new(PERMITS).unwrap();
        let settings = Settings {
            max_requests: permits,
            interval: Millis(0),
            bucket: Millis(0),
            timeout: TIMEOUT,
            min_requests: 1,
            failure_ratio: Ratio::HALF,
        };
        vec![Shared {
            breaker: Breaker::new(settings, now),
            now,
            opened: now,
            callers: vec![Caller::Idle; CALLERS],
            left: vec![2; CALLERS],
            stands: Stands::Closed,
            spell: 0,
            given: 0,
            unused: 0,
            succeeded: 0,
            wrong: None,
            closed_again: false,
            opened_again: false,
            reused: false,
            refused: false,
        }]
    }

    fn actions(&self, state: &Shared, actions: &mut Vec<Happens>) {
        if state.wrong.is_some() {
            return;
        }
        for (caller, does) in state.callers.iter().enumerate() {
            match does {
                Caller::Idle if state.left[caller] > 0 => actions.push(Happens::Asks(caller)),
                Caller::Idle => {}
                Caller::Asks(..) => {
                    actions.extend(
                        [Outcome::Success, Outcome::Failure, Outcome::Excluded]
                            .map(|outcome| Happens::Ends(caller, outcome)),
                    );
                }
            }
        }
        if state.now < Moment(1_000) + Millis(3 * TIMEOUT.0) {
            actions.push(Happens::TimePasses);
        }
    }

    fn next_state(&self, state: &Shared, happens: Happens) -> Option<Shared> {
        let mut next = state.clone();
        match happens {
            Happens::Asks(caller) => next.asks(caller),
            Happens::Ends(caller, outcome) => next.ends(caller, outcome),
            Happens::TimePasses => next.now = next.now + Millis(TIMEOUT.0 / 2 + 1),
        }
        // Callers are alike: one order of them stands for all.
        let mut pairs: Vec<_> = next.callers.drain(..).zip(next.left.drain(..)).collect();
        pairs.sort_by_key(|(caller, left)| (*left, format!("{caller:?}")));
        (next.callers, next.left) = pairs.into_iter().unzip();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("the permits are kept", |_, state: &Shared| {
                state.wrong.is_none()
            }),
            Property::sometimes("it closes again", |_, state: &Shared| state.closed_again),
            Property::sometimes("it opens again", |_, state: &Shared| state.opened_again),
            Property::sometimes(
                "a permit that was given back is used",
                |_, state: &Shared| state.reused,
            ),
            Property::sometimes("a fourth is refused", |_, state: &Shared| state.refused),
        ]
    }
}

#[test]
fn three_of_five_are_let_through_in_every_order() {
    let began = std::time::Instant::now();
    let checker = Permits.checker().threads(2).spawn_bfs().join();
    println!(
        "five callers, three permits: {} different states{}, depth {}, in {:.0?}",
        checker.unique_state_count(),
        if checker.is_done() { "" } else { " of more" },
        checker.max_depth(),
        began.elapsed()
    );
    checker.assert_properties();
}
