//! What can be set, by flag or environment. Bounds are the analysis'.

use std::net::SocketAddr;
use std::time::Duration;

use super::http::Role;

/// Options of the service.
#[derive(Clone, Debug, clap::Args)]
pub struct ServeOptions {
    /// Which addresses are answered.
    #[arg(long, env = "ORDERS_ROLE", value_enum, default_value = "all")]
    pub role: Role,
    /// Where to listen
    #[arg(long, env = "ORDERS_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// The write pool, for active orders: <postgresql://user:password@host:6432/mrg>
    #[arg(long, env = "ORDERS_PRIMARY_DSN", hide_env_values = true)]
    pub primary_dsn: String,
    /// The read pool, for history
    #[arg(long, env = "ORDERS_REPLICA_DSN", hide_env_values = true)]
    pub replica_dsn: Option<String>,
    /// The leader itself, past any pooler: where changes of orders are heard
    #[arg(long, env = "ORDERS_CHANGES_DSN", hide_env_values = true)]
    pub changes_dsn: Option<String>,
    /// Redis or Valkey: <redis://host:6379>
    #[arg(long, env = "ORDERS_CACHE_URL", hide_env_values = true)]
    pub cache_url: Option<String>,
    /// The archive: <file:///PATH> or <s3://BUCKET/PREFIX>
    #[arg(long, env = "ORDERS_ARCHIVE_URL")]
    pub archive_url: Option<String>,
    /// How long a copy of an active order counts as fresh; 10s to 30s
    #[arg(long, env = "ORDERS_ACTIVE_TTL", default_value = "30s", value_parser = between::<10_000, 30_000>)]
    pub active_ttl: Duration,
    /// How long it is kept for when no database answers; 30s to 1h
    #[arg(long, env = "ORDERS_STALE_TTL", default_value = "10m", value_parser = between::<30_000, 3_600_000>)]
    pub stale_ttl: Duration,
    /// How long a copy of an ended order is kept; 1h to 24h
    #[arg(long, env = "ORDERS_HISTORY_TTL", default_value = "24h", value_parser = between::<3_600_000, 86_400_000>)]
    pub history_ttl: Duration,
    /// What an active order may cost at the primary; 10ms to 2s
    #[arg(long, env = "ORDERS_ACTIVE_BUDGET", default_value = "200ms", value_parser = between::<10, 2_000>)]
    pub active_budget: Duration,
    /// What a question to a standby may cost; 10ms to 2s
    #[arg(long, env = "ORDERS_REPLICA_BUDGET", default_value = "300ms", value_parser = between::<10, 2_000>)]
    pub replica_budget: Duration,
    /// What a question to the archive may cost; 100ms to 10s
    #[arg(long, env = "ORDERS_ARCHIVE_BUDGET", default_value = "2s", value_parser = between::<100, 10_000>)]
    pub archive_budget: Duration,
    /// What a question to the cache may cost; 1ms to 500ms
    #[arg(long, env = "ORDERS_CACHE_BUDGET", default_value = "50ms", value_parser = between::<1, 500>)]
    pub cache_budget: Duration,
    /// A standby's answer that may be older than this is not a good one; 1s to 5s
    #[arg(long, env = "ORDERS_MAXIMUM_LAG", default_value = "5s", value_parser = between::<1_000, 5_000>)]
    pub maximum_lag: Duration,
    /// Orders older than this may be in the archive
    #[arg(long, env = "ORDERS_ARCHIVED_AFTER", default_value = "720h", value_parser = between::<1_000, 315_360_000_000>)]
    pub archived_after: Duration,
    /// Connections to the primary; 20, and for history 2
    #[arg(long, env = "ORDERS_PRIMARY_CONNECTIONS")]
    pub primary_connections: Option<usize>,
    /// Connections to standbys
    #[arg(long, env = "ORDERS_REPLICA_CONNECTIONS", default_value_t = 20)]
    pub replica_connections: usize,
}

/// Options of the job that archives.
#[derive(Clone, Debug, clap::Args)]
pub struct ArchiveOptions {
    /// The write pool or the leader, as `mrg_orders_archiver`
    #[arg(long, env = "ORDERS_ARCHIVER_DSN", hide_env_values = true)]
    pub dsn: String,
    /// The archive: <file:///PATH> or <s3://BUCKET/PREFIX>
    #[arg(long, env = "ORDERS_ARCHIVE_URL")]
    pub archive_url: String,
    /// Orders that ended longer ago are moved
    #[arg(long, env = "ORDERS_ARCHIVED_AFTER", default_value = "720h", value_parser = between::<1_000, 315_360_000_000>)]
    pub archived_after: Duration,
    /// Orders that are read at a time
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    pub batch: i64,
}

/// Options of what prepares the database.
#[derive(Clone, Debug, clap::Args)]
pub struct SchemaOptions {
    /// Apply it, instead of printing it
    #[arg(long, requires = "owner_dsn")]
    pub apply: bool,
    /// The database, past any pooler, as the role that owns it; not as a superuser
    #[arg(long, env = "ORDERS_OWNER_DSN", hide_env_values = true)]
    pub owner_dsn: Option<String>,
    /// Another database of the same server, such as `postgres`, as a role that may create roles
    ///
    /// Creates the three roles and sets the passwords that are given. A superuser also hands over to the owner what an
    /// earlier version made as a superuser. Left out: the roles must exist.
    #[arg(long, env = "ORDERS_ROLES_DSN", hide_env_values = true)]
    pub roles_dsn: Option<String>,
    /// Passwords of the three roles
    #[command(flatten)]
    pub passwords: Passwords,
}

/// Passwords that the three roles get; those that are not given stay as they are.
/// The owner of the database may not set them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Passwords {
    /// Of `mrg_orders_active`
    #[arg(
        long,
        env = "ORDERS_ACTIVE_PASSWORD",
        hide_env_values = true,
        requires = "roles_dsn"
    )]
    pub active_password: Option<String>,
    /// Of `mrg_orders_history`
    #[arg(
        long,
        env = "ORDERS_HISTORY_PASSWORD",
        hide_env_values = true,
        requires = "roles_dsn"
    )]
    pub history_password: Option<String>,
    /// Of `mrg_orders_archiver`
    #[arg(
        long,
        env = "ORDERS_ARCHIVER_PASSWORD",
        hide_env_values = true,
        requires = "roles_dsn"
    )]
    pub archiver_password: Option<String>,
}

/// A duration within bounds, in milliseconds.
fn between<const LEAST: u64, const MOST: u64>(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "write a duration like 30s, 200ms or 24h".to_owned())?;
    let duration = Duration::try_from(parsed).map_err(|_| "it is negative".to_owned())?;
    let bounds = Duration::from_millis(LEAST)..=Duration::from_millis(MOST);
    if bounds.contains(&duration) {
        Ok(duration)
    } else {
        Err(format!(
            "it is not between {:?} and {:?}",
            bounds.start(),
            bounds.end()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_of_copies_keep_to_the_analysis() {
        let active = between::<10_000, 30_000>;
        assert_eq!(active("10s"), Ok(Duration::from_secs(10)));
        for wrong in ["9s", "31s", "-10s", "30", "soon", ""] {
            assert!(active(wrong).is_err(), "{wrong}");
        }
    }
}
