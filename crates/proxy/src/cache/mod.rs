//! Good responses, for the time when no provider answers.

mod kept;
pub(crate) mod recorder;
pub(crate) mod rules;
