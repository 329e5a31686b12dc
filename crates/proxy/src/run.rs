//! The proxy's life: its file, its listeners, what is pushed to it, its end.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::admin::{self, Admin};
use crate::configuration::parse;
use crate::listeners::bind;
use crate::queue::Queue;
use crate::routes::table::TableBuilder;
use crate::running::{Running, Source};
use mrg_telemetry::chain;

/// How often the mounted file is read: the kubelet changes it within a minute or so, and what is
/// pushed does not wait for that.
const FILE_POLL_INTERVAL: Duration = Duration::from_secs(5);

/// How a proxy is started.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The configuration, JSON or YAML
    pub file: PathBuf,
    /// Where health, metrics, state and configuration are served
    #[arg(long, default_value = "0.0.0.0:15021")]
    pub admin: SocketAddr,
    /// The address at which dependencies are reached
    #[arg(long, default_value = "127.0.0.1")]
    pub outbound: IpAddr,
    /// The file with the token for changing things
    #[arg(long)]
    pub token_file: Option<PathBuf>,
    /// The file with the address of the queue's database:
    /// postgres://user:password@host:port/database
    #[arg(long)]
    pub queue_dsn_file: Option<PathBuf>,
    /// The directory of the queue's log, for the time when its database is away
    #[arg(long)]
    pub queue_directory: Option<PathBuf>,
    /// This pod
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod: String,
    /// The directory with a directory for each Secret of credentials
    #[arg(long, default_value = "/etc/mrg-proxy/secrets")]
    pub secrets: PathBuf,
}

/// Runs until SIGTERM, then lets what is under way end.
///
/// # Errors
/// If the file is refused or a port is taken: there is no last good configuration to go on with.
pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let file = &arguments.file;
    let bytes = tokio::fs::read(file)
        .await
        .with_context(|| format!("unable to read {}", file.display()))?;
    let checked = parse(&bytes).with_context(|| file.display().to_string())?;
    let workload = checked.workload.clone();
    let (changes, _) = watch::channel(1);
    let queue = open_queue(&arguments, &workload, &changes).await?;
    let builder = TableBuilder {
        secrets: arguments.secrets.clone(),
        changes,
        queue: queue.clone(),
    };
    let running = Arc::new(Running::new(builder, arguments.outbound, workload));
    running
        .start(&bytes)
        .await
        .with_context(|| file.display().to_string())?;
    let admin = bind(arguments.admin)?;
    let router = admin::router(
        Admin {
            running: running.clone(),
            token_file: arguments.token_file.clone(),
        },
        queue,
    );
    let serving = tokio::spawn(async move { axum::serve(admin, router).await });
    {
        let (table, _) = running.now();
        let (workload, hash) = (&table.config.workload, &table.hash);
        tracing::info!(workload, hash, "serving");
    }

    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = follow_file(&running, file, bytes) => {}
    }
    tracing::info!("stopping; what is under way ends first");
    running.drain().await;
    serving.abort();
    Ok(())
}

/// Opens the queue; `None` if there is no place for one.
async fn open_queue(
    arguments: &Arguments,
    workload: &str,
    changes: &watch::Sender<u64>,
) -> anyhow::Result<Option<Arc<Queue>>> {
    let dsn = match &arguments.queue_dsn_file {
        Some(file) => Some(
            tokio::fs::read_to_string(file)
                .await
                .with_context(|| format!("unable to read {}", file.display()))?,
        ),
        None => None,
    };
    let directory = arguments.queue_directory.as_deref();
    if dsn.is_none() && directory.is_none() {
        return Ok(None);
    }
    let queue = Queue::open(
        (workload, &arguments.pod),
        dsn.as_deref().map(str::trim),
        directory,
        changes.clone(),
    );
    queue.await.map(Some).context("failed to open the queue")
}

/// Takes the file whenever its content has changed, and Secrets when theirs has. A configuration that
/// was pushed stays until then.
async fn follow_file(running: &Running, file: &Path, mut known: Vec<u8>) {
    loop {
        tokio::time::sleep(FILE_POLL_INTERVAL).await;
        match tokio::fs::read(file).await {
            Ok(bytes) if bytes != known => {
                // A refusal is logged where it happens, and in the state.
                if !matches!(running.configure(&bytes, Source::File).await, Ok(None)) {
                    known = bytes;
                }
            }
            // As above.
            Ok(_) => drop(running.take_secrets().await),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "the configuration's file cannot be read; the last one goes on"
            ),
        }
    }
}
