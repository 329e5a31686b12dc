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
        match (event, self) {
            (HandOverEvent::Pause, No | Pausing)
            | (HandOverEvent::Primary, Pausing | Stopped { pausing: true })
            | (
                HandOverEvent::Stopped {
                    to_hand_over: false,
                },
                Pausing | Stopped { pausing: true },
            ) => Pausing,
            (HandOverEvent::Pause, Stopped { .. }) => Stopped { pausing: true },
            (HandOverEvent::Resumed, Stopped { .. }) => Stopped { pausing: false },
            (HandOverEvent::Stopped { to_hand_over: true }, phase) => Stopped {
                pausing: phase.pauses_poolers(),
            },
            (
                HandOverEvent::Stopped {
                    to_hand_over: false,
                }
                | HandOverEvent::Primary,
                No | Stopped { pausing: false },
            )
            | (HandOverEvent::Resumed, No | Pausing)
            | (HandOverEvent::Released, _) => No,
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
