//! What callers of the proxy meet: listeners, and what admits calls to the workload.

pub(crate) mod health;
pub(crate) mod inbound;
pub(crate) mod listen;
