//! What a client, a peer or a bug may cost a program at most: connections, bytes, time, one
//! request.
//!
//! # Guarantees
//! A panic within [`contain`] ends the work that it happened in. Where
//! [`abort_unless_contained`] was called, any other panic ends the process, so that nothing goes on
//! after a broken invariant. [`serve`] holds every bound of its [`Limits`], whatever clients send or
//! do not send.

mod body;
mod dial;
mod listener;
mod metered;
mod open_files;
mod panic;
mod places;

pub use body::{BodyError, read, with_body};
pub use dial::dial;
pub use listener::{Displaced, Limits, serve, serve_on_own_thread};
pub use metered::{Allowance, Metered};
pub use open_files::raise_open_files;
pub use panic::{Panicked, abort_unless_contained, contain, contained};
