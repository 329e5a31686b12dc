//! Circuit breakers with the semantics of gobreaker v2.4 (<https://github.com/sony/gobreaker>), and
//! the two other small machines that decide about a call: the retry budget and the order of
//! providers. Pure: time comes in with every call.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod budget;
mod counts;
mod gate;
mod machine;
mod providers;
mod settings;
mod window;

pub use budget::Budget;
pub use counts::Counts;
pub use gate::{Admission, Gate, Mode, Override};
pub use machine::{Breaker, Outcome, Refusal, State, Ticket};
pub use providers::Providers;
pub use settings::{InvalidRatio, Ratio, Settings};
