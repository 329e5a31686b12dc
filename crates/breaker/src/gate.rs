//! What overrules a breaker: whether it is enforced at all, and what people have forced.

use serde::{Deserialize, Serialize};

use super::{Breaker, Counts, Outcome, Refusal, Settings, State, Ticket};
use mrg_base::Moment;

/// Whether a breaker's word counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Mode {
    /// It refuses requests.
    #[default]
    Enforce,
    /// It counts, and says when it would have refused; nothing is refused.
    Shadow,
    /// It does not even count.
    Off,
}

/// What a person has forced, until a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Override {
    /// [`State::Open`] refuses everything, [`State::Closed`] nothing.
    pub open: bool,
    /// It ends then.
    pub until: Moment,
}

/// What an admitted request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// The breaker counts it.
    Counted(Ticket),
    /// It does not: off, forced closed, or let through although a shadowed breaker refused.
    Uncounted,
}

/// A breaker with its mode and what is forced upon it. While something is forced the breaker below
/// is not touched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gate {
    mode: Mode,
    forced: Option<Override>,
    breaker: Breaker,
    shadow_refusals: u64,
}

impl Gate {
    /// A gate with a closed breaker.
    pub fn new(mode: Mode, settings: Settings, now: Moment) -> Self {
        Self {
            mode,
            forced: None,
            breaker: Breaker::new(settings, now),
            shadow_refusals: 0,
        }
    }

    /// Takes new settings. The state survives unless the breaker's own settings changed.
    pub fn configure(
        &mut self,
        mode: Mode,
        settings: Settings,
        forced: Option<Override>,
        now: Moment,
    ) {
        if *self.breaker.settings() != settings {
            self.breaker = Breaker::new(settings, now);
        }
        self.mode = mode;
        self.forced = forced;
    }

    /// What is forced now.
    pub fn forced(&self, now: Moment) -> Option<Override> {
        self.forced.filter(|forced| now < forced.until)
    }

    /// Admits a request.
    ///
    /// # Errors
    /// If it is forced open, or the breaker is enforced and refuses; with the time after which
    /// another attempt makes sense.
    pub fn admit(&mut self, now: Moment) -> Result<Admission, Refusal> {
        match (self.forced(now), self.mode) {
            (Some(forced), _) if forced.open => Err(Refusal::Open {
                retry_after: forced.until.since(now),
            }),
            (Some(_), _) | (None, Mode::Off) => Ok(Admission::Uncounted),
            (None, Mode::Enforce) => self.breaker.admit(now).map(Admission::Counted),
            (None, Mode::Shadow) => Ok(self.breaker.admit(now).map_or_else(
                |_| {
                    self.shadow_refusals += 1;
                    Admission::Uncounted
                },
                Admission::Counted,
            )),
        }
    }

    /// Takes note of how an admitted request ended.
    pub fn report(&mut self, now: Moment, admission: Admission, outcome: Outcome) {
        if let Admission::Counted(ticket) = admission {
            self.breaker.report(now, ticket, outcome);
        }
    }

    /// What clients feel: the breaker's state, or what is forced.
    pub fn state(&mut self, now: Moment) -> State {
        match self.forced(now) {
            Some(forced) if forced.open => State::Open,
            Some(_) => State::Closed,
            None => self.breaker.state(now),
        }
    }

    /// The breaker, whatever is forced upon it. Its state is that of the last call with a time.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// How often a shadowed breaker would have refused.
    pub fn shadow_refusals(&self) -> u64 {
        self.shadow_refusals
    }

    /// What it counts.
    pub fn counts(&self) -> Counts {
        self.breaker.counts()
    }

    /// Its mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_base::Millis;

    fn trip(gate: &mut Gate, now: Moment) {
        for _ in 0..10 {
            let admission = gate.admit(now).unwrap();
            gate.report(now, admission, Outcome::Failure);
        }
    }

    #[test]
    fn a_shadowed_breaker_counts_and_refuses_nothing() {
        let now = Moment(0);
        let mut gate = Gate::new(Mode::Shadow, Settings::default(), now);
        trip(&mut gate, now);
        assert_eq!(gate.state(now), State::Open);
        assert_eq!(gate.admit(now), Ok(Admission::Uncounted));
        assert_eq!(gate.shadow_refusals(), 1);
    }

    #[test]
    fn what_is_forced_ends_at_its_moment_and_leaves_the_breaker_as_it_was() {
        let now = Moment(0);
        let settings = Settings::default();
        let mut gate = Gate::new(Mode::Enforce, settings, now);
        trip(&mut gate, now);
        gate.configure(
            Mode::Enforce,
            settings,
            Some(Override {
                open: false,
                until: Moment(10_000),
            }),
            now,
        );
        assert_eq!(gate.admit(Moment(9_999)), Ok(Admission::Uncounted));
        assert_eq!(
            gate.admit(Moment(10_000)),
            Err(Refusal::Open {
                retry_after: Millis(20_000)
            })
        );
    }

    #[test]
    fn forced_open_tells_when_it_ends() {
        let mut gate = Gate::new(Mode::Off, Settings::default(), Moment(0));
        gate.configure(
            Mode::Off,
            Settings::default(),
            Some(Override {
                open: true,
                until: Moment(5_000),
            }),
            Moment(0),
        );
        assert_eq!(
            gate.admit(Moment(1_000)),
            Err(Refusal::Open {
                retry_after: Millis(4_000)
            })
        );
        assert_eq!(gate.admit(Moment(5_000)), Ok(Admission::Uncounted));
    }

    #[test]
    fn a_push_with_the_same_settings_keeps_the_state() {
        let now = Moment(0);
        let mut gate = Gate::new(Mode::Enforce, Settings::default(), now);
        trip(&mut gate, now);
        gate.configure(Mode::Enforce, Settings::default(), None, now);
        assert_eq!(gate.state(now), State::Open);
        gate.configure(
            Mode::Enforce,
            Settings {
                min_requests: 11,
                ..Settings::default()
            },
            None,
            now,
        );
        assert_eq!(gate.state(now), State::Closed);
    }
}
