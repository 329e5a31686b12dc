//! The proxy's own program between a client and upstreams.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

#[path = "../../../../e2e/examples/stand-in/server.rs"]
#[allow(dead_code, unused_imports, reason = "the lab's program uses the rest")]
mod server;

mod breaker;
mod calls;
mod canary;
mod configuration;
mod harness;
mod hostile;
mod http2;
mod inbound;
mod messages;
mod outages;
mod providers;
mod queue;
mod retries;
