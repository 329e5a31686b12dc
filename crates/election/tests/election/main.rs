//! The election, driven through the same `Node` that the agent runs: each rule that must hold to
//! the letter, and each bug that was ever found.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

mod found;
mod found_bootstrap;
mod found_failsafe;
mod leases;
mod rejoin;
mod reset;
mod rules;
mod sick;
mod story;
mod writes_fail;
