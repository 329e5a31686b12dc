//! `mrg-orders` against real PostgreSQL and real Redis: where answers come from, and what happens
//! when those places fail, lag or lie.
//!
//! Needs root (PostgreSQL runs as the user `postgres`), PostgreSQL 15 and Redis from Debian; `./dev
//! test` brings both.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends with the first surprise"
)]

mod archive;
mod harness;
mod outages;
mod questions;
mod schema;
mod sources;

use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);
