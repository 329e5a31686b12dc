//! What callers of the proxy meet: listeners, the inbound side, and health checks of providers.

pub(crate) mod health;
pub(crate) mod inbound;
pub(crate) mod listen;
mod message;
