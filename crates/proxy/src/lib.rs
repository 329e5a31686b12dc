//! `mrg-proxy`: the sidecar that makes a workload's calls cost no more than its policy allows. Its
//! file is enough for it to serve; what is pushed to it later only changes what it serves.

mod admin;
mod answer;
mod body;
mod cache;
mod client;
mod configuration;
mod counters;
mod current;
mod digest;
mod head;
mod headers;
mod listeners;
mod phase;
mod provider;
mod queue;
mod retry_after;
mod routes;
mod run;
mod running;
mod server;

pub use configuration::{parse, validate};
pub use queue::{Item, Line, Replayed, Status, replay};
pub use run::{Arguments, run};
