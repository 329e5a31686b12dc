//! Answers that were good once, for the time when no provider answers.

pub(crate) mod recorder;
