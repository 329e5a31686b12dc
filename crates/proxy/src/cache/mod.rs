//! Good responses, for the time when no provider answers.

pub(crate) mod recorder;
