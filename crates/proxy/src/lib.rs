//! `mrg-proxy`: the sidecar that makes a workload's calls cost no more than its policy allows. It
//! needs nobody: its file is enough, and what is pushed to it later only changes it.

mod admin;
mod answer;
mod body;
mod cache;
mod client;
mod counters;
mod digest;
mod headers;
mod queue;
mod routes;
mod run;
mod server;

pub use queue::{Item, Line, Replayed, Status, replay};
pub use run::{Arguments, parse, run, validate};
