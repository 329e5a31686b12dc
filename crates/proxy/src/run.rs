//! The proxy's life: its file, its listeners, what is pushed to it, its end.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::admin::{self, Admin};
use crate::client::{call, resend};
use crate::digest::short_digest;
use crate::queue::Queue;
use crate::routes::table::{CurrentRoute, RouteTable, TableBuilder};
use crate::server::inbound::Admission;
use crate::server::listen::Phase;
use crate::server::{health, listen};
use mrg_base::lock;
use mrg_policy::{Checked, Config};
use mrg_telemetry::chain;

/// How often the mounted file is looked at: the kubelet changes it within a minute or so, and what
/// is pushed does not wait for that.
const LOOK_AT_FILE_EVERY: Duration = Duration::from_secs(5);

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

/// A listener and what it serves.
struct Listening<T> {
    place: T,
    phase: watch::Sender<Phase>,
    task: JoinHandle<()>,
    worker: Option<JoinHandle<()>>,
}

impl<T> Listening<T> {
    /// It takes no more connections; those that stand are served to their end.
    fn end(self) -> impl Iterator<Item = JoinHandle<()>> {
        // Nobody listens to it if the task has ended by itself.
        let _ = self.phase.send(Phase::Stopping);
        std::iter::once(self.task).chain(self.worker)
    }
}

#[derive(Default)]
struct Listeners {
    dependencies: BTreeMap<u16, Listening<CurrentRoute>>,
    inbound: Option<Listening<Arc<RwLock<Arc<Admission>>>>>,
    checks: JoinSet<()>,
    refused: Option<String>,
    draining: bool,
}

/// What runs.
pub(crate) struct Running {
    builder: TableBuilder,
    outbound: IpAddr,
    table: RwLock<Arc<RouteTable>>,
    listeners: Mutex<Listeners>,
    /// One change at a time.
    changing: tokio::sync::Mutex<()>,
}

/// Reads a configuration, JSON or YAML.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8]) -> anyhow::Result<Checked> {
    let text = std::str::from_utf8(bytes).context("the configuration is no UTF-8 text")?;
    // YAML reads JSON, too.
    let config: Config =
        serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(Checked::try_from(config)?)
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bind = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(1024)
    };
    bind().with_context(|| format!("failed to listen at {address}"))
}

impl Running {
    /// What serves now.
    pub(crate) fn now(&self) -> (Arc<RouteTable>, Option<Arc<Admission>>) {
        let inbound = lock(&self.listeners)
            .inbound
            .as_ref()
            .map(|listening| read(&listening.place));
        (read(&self.table), inbound)
    }

    /// Counts changes.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.builder.changes.subscribe()
    }

    /// Why the newest configuration was refused.
    pub(crate) fn refused(&self) -> Option<String> {
        lock(&self.listeners).refused.clone()
    }

    /// Whether it is about to end.
    pub(crate) fn is_draining(&self) -> bool {
        lock(&self.listeners).draining
    }

    /// Takes a new configuration, and answers with its hash.
    ///
    /// # Errors
    /// Why it was refused; the last one goes on.
    pub(crate) async fn configure(&self, bytes: &[u8]) -> Result<String, String> {
        let _one = self.changing.lock().await;
        let hash = short_digest(bytes, 8);
        if read(&self.table).hash == hash {
            return Ok(hash);
        }
        let applied = self.apply(bytes, hash.clone());
        let refused = applied.err().map(|error| format!("{error:#}"));
        if let Some(refused) = &refused {
            tracing::warn!(
                hash,
                why = refused,
                "configuration refused; the last one goes on"
            );
        } else {
            tracing::info!(hash, "configuration taken");
        }
        lock(&self.listeners).refused.clone_from(&refused);
        self.builder.changes.send_modify(|count| *count += 1);
        refused.map_or(Ok(hash), Err)
    }

    fn apply(&self, bytes: &[u8], hash: String) -> anyhow::Result<()> {
        let checked = parse(bytes)?;
        // What can fail comes first: ports, then secrets and headers. Until then nothing has
        // changed.
        let ports = self.bind_new(&checked)?;
        let table = Arc::new(
            self.builder
                .build(checked, hash, Some(&read(&self.table)))?,
        );
        self.serve(table, ports);
        Ok(())
    }

    fn bind_new(&self, config: &Config) -> anyhow::Result<BTreeMap<u16, TcpListener>> {
        let (dependencies, inbound) = {
            let listeners = lock(&self.listeners);
            let inbound = listeners
                .inbound
                .as_ref()
                .map(|listening| read(&listening.place).limits().port);
            (
                listeners.dependencies.keys().copied().collect::<Vec<u16>>(),
                inbound,
            )
        };
        let mut bound = BTreeMap::new();
        for port in config
            .dependencies
            .iter()
            .map(|dependency| dependency.port)
            .filter(|port| !dependencies.contains(port))
        {
            bound.insert(port, bind(SocketAddr::new(self.outbound, port))?);
        }
        if let Some(wanted) = config
            .inbound
            .as_ref()
            .map(|inbound| inbound.port)
            .filter(|port| Some(*port) != inbound)
        {
            bound.insert(
                wanted,
                bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), wanted))?,
            );
        }
        Ok(bound)
    }

    /// From here nothing fails.
    fn serve(&self, table: Arc<RouteTable>, mut ports: BTreeMap<u16, TcpListener>) {
        let mut listeners = lock(&self.listeners);
        let wanted: Vec<u16> = table.routes.iter().map(|route| route.spec.port).collect();
        let gone: Vec<u16> = listeners
            .dependencies
            .keys()
            .copied()
            .filter(|port| !wanted.contains(port))
            .collect();
        for listening in gone
            .iter()
            .filter_map(|port| listeners.dependencies.remove(port))
            .collect::<Vec<_>>()
        {
            // They end by themselves.
            drop(listening.end());
        }
        for route in &table.routes {
            let port = route.spec.port;
            if let Some(listening) = listeners.dependencies.get(&port) {
                *listening
                    .place
                    .write()
                    .unwrap_or_else(PoisonError::into_inner) = route.clone();
            } else if let Some(listener) = ports.remove(&port) {
                let place: CurrentRoute = Arc::new(RwLock::new(route.clone()));
                let (phase, phases) = watch::channel(Phase::Serving);
                let served = place.clone();
                let serve = move |request| call::serve(read(&served), request);
                let task = tokio::spawn(listen::listen(listener, serve, phases.clone()));
                let worker = Some(tokio::spawn(resend::work(
                    place.clone(),
                    self.changes(),
                    phases,
                )));
                listeners.dependencies.insert(
                    port,
                    Listening {
                        place,
                        phase,
                        task,
                        worker,
                    },
                );
            }
        }
        serve_inbound(&mut listeners, &table, ports, &self.builder.changes);
        // Dropping the old checks ends them.
        listeners.checks = health::check(&table, &self.builder.changes);
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
    }

    /// The pod is about to stop: callers are served, and sent elsewhere for their next request. The
    /// workload's own calls go on.
    pub(crate) fn leave(&self) {
        let mut listeners = lock(&self.listeners);
        listeners.draining = true;
        if let Some(inbound) = &listeners.inbound {
            // Nobody listens to it if the task has ended by itself.
            let _ = inbound.phase.send(Phase::Leaving);
        }
        self.builder.changes.send_modify(|count| *count += 1);
    }

    /// No new connections; what is under way ends.
    async fn drain(&self) {
        let ending: Vec<JoinHandle<()>> = {
            let mut listeners = lock(&self.listeners);
            listeners.draining = true;
            let inbound = listeners
                .inbound
                .take()
                .into_iter()
                .flat_map(Listening::end);
            std::mem::take(&mut listeners.dependencies)
                .into_values()
                .flat_map(Listening::end)
                .chain(inbound)
                .collect()
        };
        for task in ending {
            // A task that panicked has nothing under way.
            let _ = task.await;
        }
    }
}

fn serve_inbound(
    listeners: &mut Listeners,
    table: &RouteTable,
    mut ports: BTreeMap<u16, TcpListener>,
    changes: &watch::Sender<u64>,
) {
    let wanted = table
        .config
        .inbound
        .clone()
        .zip(table.config.checked_inbound());
    match (wanted, &listeners.inbound) {
        (Some((wanted, parsed)), Some(listening))
            if read(&listening.place).limits().port == wanted.port =>
        {
            let before = read(&listening.place);
            if *before.limits() != wanted {
                *listening
                    .place
                    .write()
                    .unwrap_or_else(PoisonError::into_inner) =
                    Arc::new(Admission::after(&before, wanted, parsed, changes));
            }
        }
        (wanted, _) => {
            if let Some(listening) = listeners.inbound.take() {
                drop(listening.end());
            }
            if let Some((wanted, parsed)) = wanted
                && let Some(listener) = ports.remove(&wanted.port)
            {
                let admission = Admission::new(wanted, parsed, changes);
                let place = Arc::new(RwLock::new(Arc::new(admission)));
                let (phase, phases) = watch::channel(Phase::Serving);
                let served = place.clone();
                let serve = move |request| read(&served).serve(request);
                let task = tokio::spawn(listen::listen(listener, serve, phases));
                listeners.inbound = Some(Listening {
                    place,
                    phase,
                    task,
                    worker: None,
                });
            }
        }
    }
}

/// What stands there now.
pub(super) fn read<T>(place: &RwLock<Arc<T>>) -> Arc<T> {
    place.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Whether a file would be taken: for `--validate-config`.
///
/// # Errors
/// Why not.
pub fn validate(file: &std::path::Path) -> anyhow::Result<String> {
    let bytes =
        std::fs::read(file).with_context(|| format!("unable to read {}", file.display()))?;
    let checked = parse(&bytes).with_context(|| file.display().to_string())?;
    Ok(checked.workload.clone())
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
    let dsn = match &arguments.queue_dsn_file {
        Some(file) => Some(
            tokio::fs::read_to_string(file)
                .await
                .with_context(|| format!("unable to read {}", file.display()))?,
        ),
        None => None,
    };
    let queue = if dsn.is_some() || arguments.queue_directory.is_some() {
        let directory = arguments.queue_directory.as_deref();
        Some(
            Queue::open(
                (&workload, &arguments.pod),
                dsn.as_deref().map(str::trim),
                directory,
                changes.clone(),
            )
            .await
            .context("failed to open the queue")?,
        )
    } else {
        None
    };
    let builder = TableBuilder {
        secrets: arguments.secrets.clone(),
        changes,
        queue: queue.clone(),
    };
    let empty = RouteTable {
        config: Arc::new(Checked::empty(workload)),
        hash: String::new(),
        routes: Vec::new(),
    };
    let running = Arc::new(Running {
        builder,
        outbound: arguments.outbound,
        table: RwLock::new(Arc::new(empty)),
        listeners: Mutex::default(),
        changing: tokio::sync::Mutex::default(),
    });
    running
        .apply(&bytes, short_digest(&bytes, 8))
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
    tracing::info!(
        workload = read(&running.table).config.workload,
        hash = read(&running.table).hash,
        "serving"
    );

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

/// Takes the file whenever it is another than before. What was pushed since stays, unless the file
/// changed after it.
async fn follow_file(running: &Running, file: &std::path::Path, mut known: Vec<u8>) {
    loop {
        tokio::time::sleep(LOOK_AT_FILE_EVERY).await;
        match tokio::fs::read(file).await {
            Ok(bytes) if bytes != known => {
                // A refusal is logged and told where it happens.
                let _ = running.configure(&bytes).await;
                known = bytes;
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(
                error = chain(&error),
                "the configuration's file cannot be read; the last one goes on"
            ),
        }
    }
}
