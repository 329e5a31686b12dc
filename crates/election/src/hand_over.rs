//! How far a hand-over has come.

/// A leader that hands over asks the poolers to pause, stops postgres, and releases the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HandOver {
    /// None is under way.
    #[default]
    No,
    /// The poolers may be pausing at our request; postgres has not been stopped, or not to hand
    /// over.
    Pausing,
    /// Postgres is down because we hand over.
    Stopped {
        /// Whether the poolers may be pausing at our request.
        pausing: bool,
    },
}

/// What happens to a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandOverEvent {
    /// The poolers are about to be asked to pause. Whether it is known what came of that makes no
    /// difference.
    Pause,
    /// The request to the poolers was taken back.
    Resumed,
    /// Postgres was stopped in order.
    Stopped {
        /// Whether to hand over; else to start it again.
        to_hand_over: bool,
    },
    /// Postgres was seen to be the primary.
    Primary,
    /// The leader key was released, and with it the request to the poolers.
    Released,
}

impl HandOver {
    /// Every transition.
    #[must_use]
    pub fn on(self, event: HandOverEvent) -> Self {
        use HandOver::{No, Pausing, Stopped};
        match event {
            HandOverEvent::Pause => match self {
                No | Pausing => Pausing,
                Stopped { .. } => Stopped { pausing: true },
            },
            HandOverEvent::Resumed => match self {
                No | Pausing => No,
                Stopped { .. } => Stopped { pausing: false },
            },
            HandOverEvent::Stopped { to_hand_over: true } => Stopped {
                pausing: self.pauses_poolers(),
            },
            HandOverEvent::Stopped {
                to_hand_over: false,
            }
            | HandOverEvent::Primary => {
                if self.pauses_poolers() {
                    Pausing
                } else {
                    No
                }
            }
            HandOverEvent::Released => No,
        }
    }

    /// Whether the poolers may be pausing at our request.
    pub fn pauses_poolers(self) -> bool {
        matches!(
            self,
            HandOver::Pausing | HandOver::Stopped { pausing: true }
        )
    }

    /// Whether postgres is down because we hand over.
    pub fn has_stopped(self) -> bool {
        matches!(self, HandOver::Stopped { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::HandOver::{self, No, Pausing, Stopped};
    use super::HandOverEvent;

    const WITHOUT: HandOver = Stopped { pausing: false };
    const WITH: HandOver = Stopped { pausing: true };

    #[test]
    fn every_transition() {
        let phases = [No, Pausing, WITHOUT, WITH];
        let stop = |to_hand_over| HandOverEvent::Stopped { to_hand_over };
        for (event, after) in [
            (HandOverEvent::Pause, [Pausing, Pausing, WITH, WITH]),
            (HandOverEvent::Resumed, [No, No, WITHOUT, WITHOUT]),
            (stop(true), [WITHOUT, WITH, WITHOUT, WITH]),
            (stop(false), [No, Pausing, No, Pausing]),
            (HandOverEvent::Primary, [No, Pausing, No, Pausing]),
            (HandOverEvent::Released, [No; 4]),
        ] {
            assert_eq!(phases.map(|phase| phase.on(event)), after, "{event:?}");
        }
    }
}
