//! What this crate writes is read by PgBouncer: `pgbouncer.ini`, the user list, commands of the
//! console. Random text over the whole alphabet; what cannot be written must have been refused.
//!
//! Needs root, the user `postgres`, and PgBouncer: the program in `PGBOUNCER`, or the one that
//! `e2e/lab/dependencies pgbouncer` makes, or the one in `PATH`. The seed of a failure is in its
//! message; `MRG_SEED` sets another.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

mod bouncer;
mod files;
mod logins;
mod server;
#[path = "../../../postgres/tests/parsers/text.rs"]
mod text;
