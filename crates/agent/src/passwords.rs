//! Keeps the passwords of the databases' owners in step with a mounted Secret.
//!
//! A change of the Secret changes what applications will log in with. The kubelets bring the
//! change into pods within a minute or two of each other; a password that the server takes before
//! the poolers have it, or the other way round, would keep them from new server connections. So the
//! leader sets it once every pooler says that it has it too, and each pooler goes on with the old
//! one until the server takes the new one.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::context::Context;
use mrg_dcs::poolers::{PoolerRecord, fingerprint};
use mrg_dcs::{Poolers, Store};
use mrg_postgres::{accepts, quote_identifier, quote_literal, verifier};
use mrg_telemetry::chain;

const READ_INTERVAL: Duration = Duration::from_secs(2);
/// So long a kubelet may take to bring a change into every pod.
pub(crate) const SETTLED_AFTER: Duration = Duration::from_secs(120);
const WITHIN: Duration = Duration::from_secs(5);

struct Known {
    password: String,
    since: Instant,
    /// It was another before, in this process's time.
    rotated: bool,
    /// The server takes it.
    right: bool,
}

/// The owners' passwords, as they stand in the Secret.
#[derive(Default)]
pub(crate) struct Passwords {
    known: BTreeMap<String, Known>,
    looked: Option<Instant>,
}

impl Passwords {
    /// Reads them, and brings the server in line if this member leads.
    pub(crate) async fn keep(&mut self, context: &Context, leads: bool) {
        if self.looked.is_some_and(|at| at.elapsed() < READ_INTERVAL) || !self.read(context) {
            return;
        }
        self.looked = Some(Instant::now());
        if !leads {
            return;
        }
        for (owner, known) in self.known.iter_mut().filter(|(_, known)| !known.right) {
            let settled = known.since.elapsed() >= SETTLED_AFTER;
            // One that this process found at its start may be older than what the server has, for a
            // while.
            if settled || known.rotated && poolers_have(context, owner, &known.password).await {
                known.right = match takes(context, owner, &known.password).await {
                    // Without the role there is nothing to keep.
                    Some(true) | None => true,
                    Some(false) => set(context, owner, &known.password).await,
                };
            }
        }
    }

    fn read(&mut self, context: &Context) -> bool {
        let mounted = context.config.mounted();
        for database in &context.config.own.databases {
            let Some(password) = mounted.password(&database.owner) else {
                continue;
            };
            let before = self.known.get(&database.owner);
            if before.is_none_or(|before| before.password != password) {
                let known = Known {
                    password,
                    since: Instant::now(),
                    rotated: before.is_some(),
                    right: false,
                };
                self.known.insert(database.owner.clone(), known);
            }
        }
        mounted.is_there()
    }
}

async fn poolers_have(context: &Context, owner: &str, password: &str) -> bool {
    let Ok(poolers) = context.store.read::<Poolers>(context.dcs_within()).await else {
        return false;
    };
    let print = fingerprint(context.config.scope.as_str(), owner, password);
    let has = |record: &PoolerRecord| {
        let theirs = record.passwords.get(owner);
        theirs.is_none_or(|theirs| *theirs == print)
    };
    poolers.0.values().all(has)
}

/// Whether the server takes a password; `None` without such a role. What cannot be found out counts
/// as a wrong password, to be tried again.
async fn takes(context: &Context, owner: &str, password: &str) -> Option<bool> {
    let sql = format!(
        "SELECT coalesce(rolpassword, '') FROM pg_catalog.pg_authid WHERE rolname = {}",
        quote_literal(owner)
    );
    let found = match context.server.roles_session().await {
        Ok(session) => session.texts("find an owner's role", &sql).await,
        Err(_) => return Some(false),
    };
    match found {
        Ok(rows) => rows.first().map(|stored| accepts(stored, owner, password)),
        Err(_) => Some(false),
    }
}

/// Sets a password; whether it is set now.
async fn set(context: &Context, owner: &str, password: &str) -> bool {
    let Ok(session) = context.server.roles_session().await else {
        return false;
    };
    let sql = format!(
        "ALTER ROLE {} PASSWORD {}",
        quote_identifier(owner),
        quote_literal(&verifier(password))
    );
    match session.execute("set a password", &sql, WITHIN).await {
        Ok(()) => {
            tracing::info!(
                owner,
                "the password in the Secret changed; the server has the new one"
            );
            true
        }
        Err(error) => {
            tracing::warn!(
                owner,
                error = chain(&error),
                "the new password could not be set; trying again"
            );
            false
        }
    }
}
