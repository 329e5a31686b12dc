//! The agent's loop: events in, [`Node`] decides, effects out. Nothing here decides anything about
//! the cluster.

mod dynamic;
mod effects;
mod etcd_health;
mod lease;
mod monitor;
mod promises;
mod pulse;
mod requests;
mod watched;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::config::{AgentConfig, Finding, Listen};
use crate::context::Context;
use crate::credentials::OwnCredentials;
use crate::dcs_record::DcsRecord;
use crate::fence::{Fence, inherited, kill_descendants};
use crate::housekeeping::Housekeeping;
use crate::peers::Peers;
use crate::promise::{self, Recorder};
use crate::receipt::Receipts;
use crate::reload;
use crate::rest::{self, Api, Ask, Core};
use crate::server::Server;
use dynamic::Dynamic;
use monitor::monitor;
use mrg_base::{Millis, Moment};
use mrg_bounds::Displaced;
use mrg_dcs::{ClusterSnapshot, Keys, Store, settings};
use mrg_dcs_etcd::{Connection, Etcd, WatchCommand, WatchEvent, watch};
use mrg_election::watch_order::WatchOrder;
use mrg_election::{Event, Node, Revision, StepId};
use requests::Replies;
use watched::forward;

/// How often postgres is probed when nothing happens.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// What an orderly stop takes besides stopping postgres.
const STOP_OVERHEAD: Duration = Duration::from_secs(5);
const REVOKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs an agent to its end: until a signal has stopped it, or until its fence is gone.
///
/// # Errors
/// If the REST API's address cannot be bound, the fence cannot be started, the bootstrap
/// configuration is invalid, or the fence ends. Nothing of postgres runs then.
pub async fn run(config: AgentConfig) -> anyhow::Result<()> {
    // Orphans of a fence that was killed become our children, so that they can be killed, too.
    nix::sys::prctl::set_child_subreaper(true).context("failed to become a subreaper")?;
    // Before the fence starts: PostgreSQL inherits it.
    let open_files = mrg_bounds::raise_open_files().context("the limit of open files")?;
    let listener = bind(&config.rest_listen).await?;
    let (asks, requests) = mpsc::channel(64);
    let (agent, inputs) = Agent::start(Arc::new(config), requests)?;
    let context = agent.context.clone();
    reload::on_hangup(context.clone(), asks.clone())?;
    let receipts = Arc::new(Receipts::new());
    tokio::spawn(look_for_receipts(receipts.clone(), context.server.clone()));
    let api = Api {
        context,
        core: Core::new(asks, receipts),
        displaced: Displaced::default(),
    };
    rest::serve(listener, api, open_files).context("failed to start the REST API")?;
    agent.clear_former_incarnation().await;
    agent.run(inputs).await
}

async fn look_for_receipts(receipts: Arc<Receipts>, server: Arc<Server>) {
    let look = || async { server.replica().await.and_then(|replica| replica.flushed) };
    receipts.look(look).await;
}

/// Listens on the first address that this machine has.
async fn bind(listen: &Listen) -> anyhow::Result<TcpListener> {
    let addresses = listen.to_bind();
    let mut failure = anyhow::anyhow!("restapi.listen names no address");
    for address in addresses {
        match TcpListener::bind((address.host.as_str(), address.port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => {
                failure = anyhow::Error::new(error)
                    .context(format!("unable to listen on {address} (restapi.listen)"));
            }
        }
    }
    Err(failure)
}

/// Everything that the loop reacts to besides time and signals.
struct Inputs {
    /// Results of probes, of steps and of requests.
    events: mpsc::Receiver<Event>,
    watch: mpsc::Receiver<WatchEvent<ClusterSnapshot>>,
    requests: mpsc::Receiver<Ask>,
    /// A message for every postmaster that has ended.
    exits: mpsc::UnboundedReceiver<()>,
    fence_gone: oneshot::Receiver<()>,
}

struct Agent {
    context: Arc<Context>,
    node: Node,
    fence: Fence,
    /// For the tasks that perform something.
    events: mpsc::Sender<Event>,
    /// To the watch.
    commands: mpsc::UnboundedSender<WatchCommand>,
    probes: mpsc::UnboundedSender<u64>,
    /// The last one that was taken to the node.
    snapshot: Arc<ClusterSnapshot>,
    order: WatchOrder,
    dynamic: Dynamic,
    /// The revision of the dynamic configuration that was audited last.
    audited: Option<Revision>,
    /// Settings of the file that have no effect.
    ignored: Vec<Finding>,
    replies: Replies,
    step: Option<(StepId, JoinHandle<()>)>,
    housekeeping: Housekeeping,
    started: Moment,
    recorder: Recorder,
    has_promise_record: bool,
    exit: bool,
}

impl Agent {
    /// Builds the agent and starts what runs beside its loop: the fence, the watch, the monitor and
    /// the housekeeping.
    fn start(
        config: Arc<AgentConfig>,
        requests: mpsc::Receiver<Ask>,
    ) -> anyhow::Result<(Self, Inputs)> {
        let (gone, fence_gone) = oneshot::channel();
        let environment = inherited(std::env::vars_os(), &config.own.environment);
        let fence = Fence::start(environment, gone)?;
        let (exit_sender, exits) = mpsc::unbounded_channel();
        let credentials = Arc::new(OwnCredentials::new(&config));
        let server = Arc::new(Server::new(
            config.clone(),
            credentials.clone(),
            fence.clone(),
            exit_sender,
        ));
        let context = Arc::new(build_context(config, server.clone(), credentials)?);
        let node = build_node(&context);
        let (commands, command_queue) = mpsc::unbounded_channel();
        let (watch_commands, watched_commands) = mpsc::channel(1);
        let (watch_sender, watch_events) = mpsc::channel(256);
        let (events, event_queue) = mpsc::channel(256);
        let (probes, probe_queue) = mpsc::unbounded_channel();
        tokio::spawn(forward(command_queue, watch_commands));
        tokio::spawn(watch(context.store.clone(), watched_commands, watch_sender));
        tokio::spawn(monitor(server, probe_queue, events.clone()));
        tokio::spawn(pulse::pulse(context.clone(), events.clone()));
        tokio::spawn(etcd_health::follow(context.clone(), events.clone()));
        let inputs = Inputs {
            events: event_queue,
            watch: watch_events,
            requests,
            exits,
            fence_gone,
        };
        let recorder = Recorder::new(context.config.promise_file());
        let agent = Self {
            housekeeping: Housekeeping::new(context.clone()),
            ignored: context.config.ignored.clone(),
            context,
            node,
            fence,
            events,
            commands,
            probes,
            snapshot: Arc::default(),
            order: WatchOrder::default(),
            dynamic: Dynamic::default(),
            audited: None,
            replies: Replies::default(),
            step: None,
            started: mrg_clock::now(),
            recorder,
            has_promise_record: false,
            exit: false,
        };
        Ok((agent, inputs))
    }

    async fn run(mut self, mut inputs: Inputs) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut child = signal(SignalKind::child())?;
        let mut stop_by = None;
        while !self.exit {
            let wake = self.node.wake_at(mrg_clock::now());
            tokio::select! {
                Some(event) = inputs.events.recv() => self.event(event).await,
                Some(event) = inputs.watch.recv() => self.watched(event).await,
                Some(ask) = inputs.requests.recv() => self.requested(ask).await,
                Some(()) = inputs.exits.recv() => {
                    self.context.server.note_exit();
                    self.event(Event::PostmasterGone).await;
                }
                _ = &mut inputs.fence_gone => return kill_orphans().await,
                () = mrg_clock::sleep_until(wake) => self.event(Event::Tick).await,
                () = either(&mut terminate, &mut interrupt) => {
                    stop_by = stop_by.or_else(|| Some(self.begin_stop()));
                    self.event(Event::Stop).await;
                }
                _ = child.recv() => self.reap(),
            }
            if stop_by.is_some_and(|by| mrg_clock::now() > by) {
                tracing::warn!("stopping took too long; killing postgres");
                break;
            }
        }
        self.end().await;
        Ok(())
    }

    /// The moment by which an orderly stop must be done.
    fn begin_stop(&self) -> Moment {
        tracing::info!("asked to stop");
        let takes = self.context.stop_within() + STOP_OVERHEAD;
        mrg_clock::now() + Millis(u64::try_from(takes.as_millis()).unwrap_or(u64::MAX))
    }

    /// Ends what is left: postgres first, then the lease, so that no member waits for it.
    async fn end(&mut self) {
        let killed = self.fence.kill().await;
        if let (Some(lease), Ok(())) = (self.node.lease(), killed) {
            let _ = self.context.store.revoke(lease.id, REVOKE_TIMEOUT).await;
        }
        tracing::info!("stopped");
    }

    /// As PID 1 or subreaper: waits for orphans, which are neither the fence nor anything that
    /// another part of the agent waits for.
    fn reap(&self) {
        let fence = i32::try_from(self.fence.pid).ok();
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Ok(status) = waitid(Id::All, flags) {
            let Some(pid) = status.pid().filter(|_| status != WaitStatus::StillAlive) else {
                return;
            };
            if Some(pid.as_raw()) == fence {
                return;
            }
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }

    /// Feeds the node and performs what it decides.
    async fn event(&mut self, event: Event) {
        if let Event::Postgres { postgres, .. } = &event {
            let seen = postgres.clone();
            self.context.update(|status| status.postgres = seen);
        }
        let effects = self.node.on(mrg_clock::now(), event);
        for effect in effects {
            self.effect(effect).await;
        }
        let now = mrg_clock::now();
        self.publish(now);
        self.housekeeping.tend();
        self.begin_promise_record(now);
    }

    /// Brings the status that the other parts see up to date.
    fn publish(&self, now: Moment) {
        let view = self.node.view(now);
        let (holds_key, may_write) = (view.holds_key(), view.may_write());
        let promises = view.memory.held_promises.filter(|_| view.holds_promises());
        let promised_until = promises.max(view.held_until());
        let just_started = view.may_have_promised();
        let dcs_reset = view.memory.reset.is_some();
        let lease = self.node.lease().copied();
        let former_lease = self.node.former_lease();
        let why = self.node.reason();
        let creates_replica = self.node.is_creating_replica();
        self.context.update(|status| {
            status.creates_replica = creates_replica;
            status.holds_key = holds_key;
            status.leads_until = lease.filter(|_| holds_key).map(|lease| lease.valid_until);
            status.promised_until = promised_until;
            status.may_write = may_write;
            status.just_started = just_started;
            status.dcs_reset = dcs_reset;
            status.lease = lease.map(|lease| lease.id);
            status.former_lease = former_lease;
            status.why = why;
            status.loop_ran = now.0;
        });
    }
}

fn build_context(
    config: Arc<AgentConfig>,
    server: Arc<Server>,
    credentials: Arc<OwnCredentials>,
) -> anyhow::Result<Context> {
    let connection = Connection {
        endpoints: config.etcd_endpoints.clone(),
        user: config
            .etcd_user
            .clone()
            .map(|user| (user.username, user.password)),
    };
    // Members begin with different endpoints, so that a dead one is not the first of all of them.
    let first = config.name.as_str().bytes().map(usize::from).sum();
    let keys = Keys::new(&config.namespace, &config.scope);
    let store = Arc::new(Etcd::new(connection, keys, first));
    if let Some(mark) = DcsRecord::new(config.dcs_file()).load() {
        store.resume(mark);
    }
    let peers = Peers::new(credentials.clone()).context("failed to set up HTTP")?;
    let initial = settings(&config.bootstrap).context("bootstrap.dcs")?;
    let shared = Context::new(config, store, server, credentials, peers, initial);
    Ok(shared)
}

/// A node that knows what the files beside the data directory say.
fn build_node(context: &Context) -> Node {
    let config = &context.config;
    let mut node = Node::new(
        config.name.clone(),
        context.status().settings,
        config.priority(),
        promise::recall(&config.promise_file()),
        mrg_clock::now(),
    );
    if context.server.is_half_rewound() {
        node.remember_cluster();
    }
    if let Some(system_id) = context.server.recorded_system() {
        node.remember_system(system_id);
    }
    node
}

async fn either(first: &mut Signal, second: &mut Signal) {
    tokio::select! {
        _ = first.recv() => {}
        _ = second.recv() => {}
    }
}

/// The fence is gone, and its children are ours now. Without a fence nothing may run.
async fn kill_orphans() -> anyhow::Result<()> {
    let none = BTreeSet::new();
    tokio::task::spawn_blocking(move || kill_descendants(&none, &none, |_| {})).await?;
    anyhow::bail!("the fence is gone; every process of postgres was killed")
}
