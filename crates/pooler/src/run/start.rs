//! How the pooler starts: everything that it needs is built, and every task but the loop runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::Pooler;
use crate::answer::Answer;
use crate::bouncer::{Bouncer, Report, Shared};
use crate::config::{Mode, PoolerConfig};
use crate::monitor::ReplicaMonitors;
use crate::processes::Processes;
use crate::publish::{Publisher, follow_etcd};
use crate::register::register;
use crate::{http, secret};
use mrg_base::Scope;
use mrg_clock::now;
use mrg_dcs::{ClusterSnapshot, Keys, Pause, Section};
use mrg_dcs_etcd::{Connection, Etcd, WatchCommand, WatchEvent, watch as follow};
use mrg_pgbouncer::{AnchorServer, Login};
use mrg_pool_core::{PoolCore, PoolTarget, ReadPool, WritePool};

/// Shorter than an agent keeps a connection without a request, so that it is not closed just when
/// the next request is sent.
const AGENT_IDLE: Duration = Duration::from_secs(10);

/// A watch of a section of the keys in etcd. Its task ends once `events` is dropped.
pub(super) struct Watch<S> {
    pub(super) events: mpsc::Receiver<WatchEvent<S>>,
    pub(super) commands: mpsc::Sender<WatchCommand>,
}

impl<S: Section> Watch<S> {
    fn of(etcd: &Arc<Etcd>) -> Self {
        let (events_in, events) = mpsc::channel(16);
        let (commands, commands_out) = mpsc::channel(16);
        tokio::spawn(follow(etcd.clone(), commands_out, events_in));
        Self { events, commands }
    }
}

/// Everything that the loop waits for.
pub(super) struct Inputs {
    /// Patroni's keys of the cluster.
    pub(super) cluster: Watch<ClusterSnapshot>,
    /// The key of the leader's pause request.
    pub(super) pause: Watch<Pause>,
    pub(super) reports: mpsc::Receiver<(u16, Report)>,
    pub(super) answers: mpsc::Receiver<Answer>,
}

/// What has to end before the process does.
pub(super) struct Tasks {
    /// Raised once, when the processes are to end.
    pub(super) stop: watch::Sender<bool>,
    pub(super) bouncers: JoinSet<()>,
    pub(super) registration: JoinHandle<()>,
}

impl Pooler {
    /// Builds everything and starts every task but the loop.
    pub(super) async fn start(config: PoolerConfig) -> anyhow::Result<(Self, Inputs, Tasks)> {
        let open_files = mrg_bounds::raise_open_files().context("the limit of open files")?;
        let config = Arc::new(within_open_files(config, open_files)?);
        let keys = Keys::new(&config.namespace, &Scope::new(&config.scope)?);
        let etcd = Arc::new(etcd(&config, keys));
        let cluster = Watch::of(&etcd);
        let pause = Watch::of(&etcd);
        let (targets, target) = watch::channel(PoolTarget::INITIAL);
        let (logins_in, logins) = watch::channel(config.logins()?);
        let (stop, stopping) = watch::channel(false);
        let (reports_in, reports) = mpsc::channel(16);
        let bouncers = start_bouncers(&Shared {
            anchor_server: anchor_server(&config)?,
            config: config.clone(),
            targets: target.clone(),
            logins: logins.clone(),
            stop: stopping,
            reports: reports_in,
        });
        let publisher = Publisher::new(&config);
        tokio::spawn(follow_etcd(etcd.health(), publisher.status().clone()));
        let record = publisher.record();
        tokio::spawn(secret::follow(
            config.clone(),
            logins_in,
            target,
            record.clone(),
        ));
        let registration = tokio::spawn(register(etcd, config.pod.clone(), record.subscribe()));
        serve_http(config.http_port, &publisher, open_files).await?;
        let (answers, answers_out) = mpsc::channel(64);
        let pooler = Self::new(
            config,
            cluster.commands.clone(),
            answers,
            targets,
            publisher,
            logins,
        )?;
        let inputs = Inputs {
            cluster,
            pause,
            reports,
            answers: answers_out,
        };
        let tasks = Tasks {
            stop,
            bouncers,
            registration,
        };
        Ok((pooler, inputs, tasks))
    }

    fn new(
        config: Arc<PoolerConfig>,
        commands: mpsc::Sender<WatchCommand>,
        answers: mpsc::Sender<Answer>,
        targets: watch::Sender<PoolTarget>,
        publisher: Publisher,
        logins: watch::Receiver<Vec<Login>>,
    ) -> anyhow::Result<Self> {
        let database = config.databases.first().map(|it| it.name.clone());
        Ok(Self {
            core: core(&config),
            commands,
            snapshot: Arc::default(),
            heartbeat: None,
            heartbeats: 0,
            monitors: ReplicaMonitors::new(
                answers.clone(),
                logins.clone(),
                database.unwrap_or_default(),
            ),
            answers,
            targets,
            processes: Processes::new(config.processes),
            publisher,
            http: http_client().context("failed to set up HTTP")?,
            logins,
            config,
        })
    }
}

/// The configuration with no more clients than the limit of open files allows; PgBouncer inherits
/// it.
fn within_open_files(config: PoolerConfig, open_files: u64) -> anyhow::Result<PoolerConfig> {
    let wanted = config.max_client_connections;
    let config = config.within_open_files(open_files)?;
    let fits = config.max_client_connections;
    if fits < wanted {
        tracing::warn!(
            max_client_connections = wanted,
            fits,
            open_files,
            "max_client_connections does not fit into the limit of open files and is lowered; raise the limit (ulimit -Hn, LimitNOFILE, or the container runtime's), or lower the number"
        );
    }
    Ok(config)
}

/// For questions to agents. An agent is where its member's key says: no answer sends us elsewhere,
/// and no proxy of the environment stands in between.
fn http_client() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .pool_idle_timeout(AGENT_IDLE)
        .no_proxy()
        .build()
}

/// Every pod begins with another endpoint.
fn etcd(config: &PoolerConfig, keys: Keys) -> Etcd {
    let first = config.pod.bytes().map(usize::from).sum::<usize>() % config.etcd.len().max(1);
    let connection = Connection {
        endpoints: config.etcd.clone(),
        user: None,
    };
    Etcd::new(connection, keys, first)
}

fn anchor_server(config: &PoolerConfig) -> anyhow::Result<Arc<AnchorServer>> {
    let socket = config.run_directory.join("anchor");
    let server = AnchorServer::listen(&socket).context("the anchor's socket")?;
    Ok(Arc::new(server))
}

fn start_bouncers(shared: &Shared) -> JoinSet<()> {
    (1..=shared.config.processes)
        .map(|number| Bouncer::new(number, shared.clone()).run())
        .collect()
}

async fn serve_http(port: u16, publisher: &Publisher, open_files: u64) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))
        .await
        .with_context(|| format!("port {port} for HTTP"))?;
    http::serve(listener, publisher.status().subscribe(), open_files).context("the thread for HTTP")
}

fn core(config: &PoolerConfig) -> Box<dyn PoolCore> {
    match config.mode {
        Mode::Write => Box::new(WritePool::new(config.max_hold_ms, now())),
        Mode::Read => Box::new(ReadPool::new(
            config.max_lag(),
            config.fallback(),
            config.max_hold_ms,
        )),
    }
}
