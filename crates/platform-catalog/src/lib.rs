//! What the analysis of the platform's single points of failure says, as data: ten services, what
//! they run on, whom they call, what may fail for how long, who is told, and what customers do with
//! all of it. Each value names the section that it stands in; those that stand nowhere are
//! estimates and say so. The analysis is in Indonesian; its own words are kept where people read
//! them.

pub mod blast_radius;
mod graph;
mod parts;
mod services;
mod types;

pub use graph::{Declared, PLATFORM, graph, needed_first};
pub use parts::{
    EXTERNALS, External, FLOWS, FlowData, INFRASTRUCTURE, Infrastructure, external, infrastructure,
};
pub use services::{SERVICES, service};
pub use types::{
    Business, Call, Cited, Fallback, Objective, Response, Section, Service, Severity, Target, Tier,
    Timeout,
};
