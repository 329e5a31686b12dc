//! What this crate writes is read by the parsers that it is written for: a running PostgreSQL's,
//! and libpq's. Each grammar gets random text over its whole alphabet; what cannot be written must
//! have been refused.
//!
//! Needs root, Debian's packages `postgresql-15` and `python3`, and the user `postgres`. The seed of
//! a failure is in its message; `MRG_SEED` sets another.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

mod configuration;
mod hba;
mod libpq;
mod roles;
mod server;
mod sql;
mod text;
