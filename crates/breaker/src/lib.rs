//! Circuit breakers with the semantics of gobreaker v2.4 (<https://github.com/sony/gobreaker>), and
//! the two other small machines that decide about a call: the [retry budget](Budget) and the
//! [order of providers](Providers). Pure: time comes in with every call.
//!
//! # Why
//!
//! A dependency that is down answers late, or not at all, and every call to it holds a connection,
//! a place under the concurrency limit and the patience of a user. A breaker notices and refuses
//! further calls at once, so that a caller can fall back while it still has time; and the
//! dependency comes back to a few probes instead of to the whole backlog. gobreaker's semantics are
//! kept to the letter because the services behind this proxy used it before: their settings mean
//! what they meant, and the machine is checked against the original
//! (`tests/gobreaker/oracle_test.go`).
//!
//! # Trip conditions
//!
//! A closed breaker counts the outcomes of one generation. It opens with the report of a failure
//! after which both hold:
//!
//! - at least `min_requests` requests were admitted that are not excluded, and
//! - the share of them that failed has reached `failure_ratio`.
//!
//! Requests under way count as admitted; an [excluded](Outcome::Excluded) one, whose caller went
//! away or which was refused on this side, counts as if it had not been. Without `bucket` the
//! window is fixed: after `interval` everything is forgotten at once and a new generation begins;
//! an interval of 0 never ends. With it the window rolls in steps of `bucket`, and a bucket that
//! leaves takes its counts along.
//!
//! # Half-open
//!
//! An open breaker refuses everything for `timeout`, and becomes half-open with the first call
//! strictly after it. Nothing happens by itself: there is no timer, and a breaker that is not
//! called does not change. Half-open it admits `max_requests` probes in all, further calls are
//! refused as [`TooManyProbes`](Refusal::TooManyProbes). As many successes in a row close it; a
//! single failure opens it for another `timeout`. An excluded probe gives its place back.
//!
//! # Permits
//!
//! Each admitted request holds a [`Ticket`] that names the generation and the bucket in which it was
//! admitted, and is reported exactly once. A report that comes after the state has changed is of
//! an older generation and is dropped: a slow failure from before the breaker opened says nothing
//! about the probes. A ticket that is never reported keeps its place: half-open, `max_requests` of
//! them would block the breaker for ever. The proxy's permit therefore reports itself as excluded
//! when it is dropped (`tests/permits.rs` explores every interleaving of a few callers).
//!
//! [`Gate`] stands above the machine: whether it is enforced, only observed, or off, and what people
//! have forced open or closed for a time.

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
