//! Calls to dependencies: one call, its attempts, connections that are upgraded, and what is sent
//! again from the queue.

pub(crate) mod attempt;
pub(crate) mod call;
pub(crate) mod resend;
pub(crate) mod upgrade;
