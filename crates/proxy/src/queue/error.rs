//! Why something cannot be kept, found or changed.

/// Why something cannot be kept, found or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The log's file.
    #[error("the queue's log {action}")]
    Log {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// PostgreSQL.
    #[error("the queue's database {action}")]
    Postgres {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: tokio_postgres::Error,
    },
    /// PostgreSQL took too long.
    #[error("the queue's database did not answer in time")]
    Slow,
    /// The address of the database is none.
    #[error("the queue's database address is wrong")]
    Address(#[source] tokio_postgres::Error),
    /// Neither a database nor a directory.
    #[error(
        "the queue has neither a database nor a directory: start the proxy with --queue-dsn-file, --queue-directory, or both"
    )]
    NoPlace,
}
