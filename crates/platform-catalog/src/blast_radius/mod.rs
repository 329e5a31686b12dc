//! How much of the platform goes with a part that fails: computed from what depends on what, and
//! from what customers do with it.
//!
//! A *part* is a service, something of the infrastructure, or somebody else's system. A *link* says
//! what becomes of a service when a part that it uses is gone. A *flow* is something that customers
//! do, with its share of all that they do, and the parts that it needs. What holds a failure up (a
//! failover, a queue, a second provider) stands at the part or at the link, with the share of the
//! loss that remains.

mod graph;
mod impact;
mod mermaid;

pub use graph::{Containment, Coupling, Flow, Graph, Kind, Link, Need, Part};
pub use impact::{FlowImpact, Impact, impact, table};
pub use mermaid::mermaid;
