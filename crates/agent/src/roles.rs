//! Keeps the role that standbys log in with: data that was made without the agent has none, and no
//! second member could ever join.

use std::time::Duration;

use crate::context::Context;
use crate::server::Error;
use mrg_postgres::{Credentials, quote_identifier, quote_literal};
use mrg_telemetry::chain;

const WITHIN: Duration = Duration::from_secs(5);

/// Whether the role was found, or made, since this member leads.
#[derive(Default)]
pub(crate) struct ReplicationRole {
    kept: bool,
}

impl ReplicationRole {
    /// Creates the role if this member leads and it is missing, or lets it replicate if it may not.
    /// Its password is not touched where it exists.
    pub(crate) async fn keep(&mut self, context: &Context, leads: bool) {
        self.kept &= leads;
        if !leads || self.kept {
            return;
        }
        match keep(context).await {
            Ok(()) => self.kept = true,
            Err(error) => {
                tracing::warn!(error = chain(&error), "failed to keep the replication role");
            }
        }
    }
}

/// What stands in SQL in place of a password: statements go over the wire and into logs.
pub(crate) fn verifier(password: &str) -> String {
    postgres_protocol::password::scram_sha_256(password.as_bytes())
}

/// Creates the role that standbys log in with.
pub(crate) fn create_replication_role(replication: &Credentials) -> String {
    format!(
        "CREATE ROLE {} LOGIN REPLICATION PASSWORD {}",
        quote_identifier(&replication.username),
        quote_literal(&verifier(&replication.password))
    )
}

async fn keep(context: &Context) -> Result<(), Error> {
    let replication = &context.config.authentication.replication;
    let session = context.server.session().await?;
    let found = format!(
        "SELECT (rolcanlogin AND (rolreplication OR rolsuper))::text FROM pg_catalog.pg_roles WHERE rolname = {}",
        quote_literal(&replication.username)
    );
    let sql = match session
        .texts("find the replication role", &found)
        .await?
        .first()
    {
        Some(may) if may == "true" => return Ok(()),
        Some(_) => {
            let name = quote_identifier(&replication.username);
            format!("ALTER ROLE {name} LOGIN REPLICATION")
        }
        None => create_replication_role(replication),
    };
    session
        .execute("make the replication role", &sql, WITHIN)
        .await?;
    tracing::info!(
        role = replication.username,
        "the replication role was missing, or could not replicate; it can now"
    );
    Ok(())
}
