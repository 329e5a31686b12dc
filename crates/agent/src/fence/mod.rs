//! The fence: a separate process that owns postgres and kills it when the agent cannot prove the
//! lease any more.
//!
//! The agent (`client`) sends it what to run, and until when postgres may live. The fence
//! (`process`) is the parent of postgres and the subreaper of everything postgres starts. It kills
//! all of it at the deadline, and at once when the agent's end of the pipe closes: a stopped or
//! killed agent leaves no writer behind, in a container or outside one.

mod client;
mod descendants;
mod environment;
mod output;
mod process;
mod protocol;

pub(crate) use client::{Error, Exit, Fence, Printed, Process};
pub(crate) use descendants::kill_descendants;
pub(crate) use environment::inherited;
pub use process::{become_program, run};
