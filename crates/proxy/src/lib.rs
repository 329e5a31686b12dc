//! `mrg-proxy`: the sidecar that makes a workload's calls cost no more than its policy allows. It
//! needs nobody: its file is enough, and what is pushed to it later only changes it.

mod admin;
mod answer;
mod attempt;
mod body;
mod convert;
mod headers;
mod health;
mod inbound;
mod listen;
mod metrics;
mod outbound;
mod pins;
mod plan;
mod provider;
mod queue;
mod run;
mod stale;
mod state;
mod upgrade;

pub use queue::{Item, Line, Replayed, Standing, replay};
pub use run::{Arguments, parse, run, validate};
