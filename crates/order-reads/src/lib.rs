//! `mrg-orders`, the order query service of the analysis: orders under way from the leader, those
//! that have ended from copies, standbys and the archive, so that the leader is left to writers.

mod archive;
mod archiver;
mod cache;
mod changes;
mod database;
mod flight;
mod http;
mod https;
mod lag;
mod metrics;
mod options;
mod order;
mod read;
mod schema;

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::{Semaphore, watch};

pub use archive::Archive;
pub use archiver::Moved;
pub use http::Role;
pub use options::{ArchiveOptions, Passwords, SchemaOptions, ServeOptions};
pub use schema::{Error as SchemaError, apply_schema, schema_text};

/// On connections that lead to the server itself, names mean what PostgreSQL means by them: the
/// database's owner can set a default search path, and put functions of the same names before
/// PostgreSQL's. `pg_temp` is named because it would be searched first.
const PINNED: &str = "-c search_path=pg_catalog,pg_temp";

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// If an option cannot be used or the address is taken.
pub async fn serve(options: ServeOptions) -> anyhow::Result<()> {
    let (received, received_since) = watch::channel(None);
    let reader = Arc::new(reader(&options, received_since)?);
    let listener = tokio::net::TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("failed to listen on {}", options.listen))?;
    tracing::info!(role = ?options.role, address = %options.listen, "serving");
    if let Some(dsn) = &options.changes_dsn {
        let mut config: tokio_postgres::Config = dsn
            .parse()
            .context("ORDERS_CHANGES_DSN is not a connection string")?;
        config
            .application_name("mrg-orders changes")
            .options(PINNED)
            .connect_timeout(std::time::Duration::from_secs(1));
        let reader = reader.clone();
        tokio::spawn(async move { changes::receive(config, &reader, &received).await });
    }
    // The first questions must not wait for connections.
    let warm = reader.clone();
    tokio::spawn(async move { warm.warm().await });
    let sampled = reader.clone();
    tokio::spawn(async move { database::sample(&sampled.primary, &sampled.written).await });
    http::serve(listener, reader, options.role, termination())
        .await
        .context("failed to serve")
}

/// The places to read from, as the options name them.
fn reader(
    options: &ServeOptions,
    received_since: watch::Receiver<Option<order::Micros>>,
) -> anyhow::Result<read::Reader> {
    let connections = options
        .primary_connections
        .unwrap_or(if options.role == Role::History { 2 } else { 20 });
    let lives = cache::Lives {
        active: options.active_ttl,
        stale: options.stale_ttl,
        history: options.history_ttl,
    };
    Ok(read::Reader {
        cache: options
            .cache_url
            .as_deref()
            .map(|url| cache::Cache::new(url, lives, options.cache_budget))
            .transpose()?
            .map(Arc::new),
        // One place less than connections: the sampler has its own.
        primary: database::Database::new(
            "ORDERS_PRIMARY_DSN",
            &options.primary_dsn,
            connections + 1,
        )?,
        bulkhead: Semaphore::new(connections),
        replica: options
            .replica_dsn
            .as_deref()
            .map(|dsn| {
                database::Database::new("ORDERS_REPLICA_DSN", dsn, options.replica_connections)
            })
            .transpose()?,
        archive: options
            .archive_url
            .as_deref()
            .map(Archive::open)
            .transpose()?,
        written: std::sync::Mutex::default(),
        received_since,
        budgets: read::Budgets {
            active: options.active_budget,
            replica: options.replica_budget,
            archive: options.archive_budget,
            maximum_lag: options.maximum_lag,
            archived_after: options.archived_after,
        },
        metrics: Arc::default(),
        flights: flight::Flights::default(),
    })
}

async fn termination() {
    use tokio::signal::unix::{SignalKind, signal};
    match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        _ => std::future::pending().await,
    }
}

/// Moves old orders to the archive.
///
/// # Errors
/// If the database or the archive fails.
pub async fn archive(options: &ArchiveOptions) -> anyhow::Result<Moved> {
    let archive = Archive::open(&options.archive_url)?;
    let mut config: tokio_postgres::Config = options
        .dsn
        .parse()
        .context("ORDERS_ARCHIVER_DSN is not a connection string")?;
    config.options(PINNED);
    Ok(archiver::run(&config, &archive, options.archived_after, options.batch).await?)
}
