//! The agent's loop: events in, [`Node`] decides, effects out. Nothing here decides anything about
//! the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::config::AgentConfig;
use crate::context::{Context, addresses};
use crate::fence::{Fence, kill_descendants};
use crate::housekeeping::Housekeeping;
use crate::incarnation::Incarnation;
use crate::peers::{FailsafeRequest, Peers, VoteAnswer, Withdrawal};
use crate::perform::{perform, write_failsafe};
use crate::promise;
use crate::rest::{self, Api, Ask};
use crate::server::Server;
use mrg_base::{MemberName, Millis, Moment};
use mrg_dcs::{ClusterSnapshot, DynamicConfig, Error as DcsError, Keys, Store, settings, wire};
use mrg_dcs_etcd::{Connection, Etcd, WatchCommand, WatchEvent, watch};
use mrg_election::{
    Effect, Event, LeaseId, Node, Outcome, Postgres, PromiseRequest, Revision, Settings, StepId,
};
use mrg_telemetry::chain;

/// What reaches the loop.
enum Input {
    Event(Event),
    Watch(WatchEvent<ClusterSnapshot>),
    Ask(Ask),
    FenceGone,
    PostmasterGone,
}

/// How often postgres is looked at when nothing happens.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs an agent to its end.
pub async fn run(config: AgentConfig) -> anyhow::Result<()> {
    // Orphans of a fence that was killed become our children, so that they can be killed, too.
    nix::sys::prctl::set_child_subreaper(true).context("failed to become a subreaper")?;
    let config = Arc::new(config);
    let listen = config.rest_listen.to_string();
    let listener = TcpListener::bind(&listen)
        .await
        .with_context(|| format!("unable to listen on {listen} (restapi.listen)"))?;
    let (inputs, queue) = mpsc::channel(256);
    let agent = Agent::start(config, inputs.clone())?;
    tokio::spawn(rest::serve(
        listener,
        Api {
            context: agent.context.clone(),
            asks: forward_asks(&inputs),
        },
    ));
    agent.clear_former_self().await;
    agent.run(queue).await
}

fn forward_asks(inputs: &mpsc::Sender<Input>) -> mpsc::Sender<Ask> {
    let (asks, mut queue) = mpsc::channel(64);
    let inputs = inputs.clone();
    tokio::spawn(async move {
        while let Some(ask) = queue.recv().await {
            if inputs.send(Input::Ask(ask)).await.is_err() {
                return;
            }
        }
    });
    asks
}

struct Agent {
    context: Arc<Context>,
    node: Node,
    fence: Fence,
    inputs: mpsc::Sender<Input>,
    commands: mpsc::Sender<WatchCommand>,
    probes: mpsc::UnboundedSender<u64>,
    snapshot: Arc<ClusterSnapshot>,
    /// The last dynamic configuration that was read and taken over, with its revision.
    dynamic: Option<(Revision, DynamicConfig)>,
    /// Whether any settings were taken over yet.
    has_settings: bool,
    reads: u64,
    read_wanted: Option<u64>,
    votes: BTreeMap<u64, oneshot::Sender<Result<VoteAnswer, String>>>,
    votes_waiting: Vec<(u64, u64)>,
    promises: BTreeMap<u64, oneshot::Sender<Result<(), String>>>,
    replies: u64,
    running: Option<(StepId, tokio::task::JoinHandle<()>)>,
    housekeeping: Housekeeping,
    started: Moment,
    promises_recorded: bool,
    exit: bool,
}

impl Agent {
    fn start(config: Arc<AgentConfig>, inputs: mpsc::Sender<Input>) -> anyhow::Result<Self> {
        let (gone, fence_gone) = oneshot::channel();
        let fence = Fence::start(gone)?;
        let (exits, mut ended) = mpsc::unbounded_channel();
        let server = Arc::new(Server::new(config.clone(), fence.clone(), exits));
        let connection = Connection {
            endpoints: config.etcd_endpoints.clone(),
            user: config.etcd_user.clone(),
        };
        // Members begin with different endpoints, so that a dead one is not everybody's first.
        let first = config.name.as_str().bytes().map(usize::from).sum();
        let keys = Keys::new(&config.namespace, &config.scope);
        let store = Arc::new(Etcd::new(connection, keys, first));
        let peers = Peers::new(config.rest_credentials.clone()).context("failed to set up HTTP")?;
        let initial = settings(&config.bootstrap).context("bootstrap.dcs")?;
        let context = Arc::new(Context::new(
            config.clone(),
            store.clone(),
            server.clone(),
            peers,
            initial,
        ));
        let past = promise::recall(&config.promise_file());
        let mut node = Node::new(
            config.name.clone(),
            initial,
            config.priority(),
            past,
            mrg_clock::now(),
        );
        if server.is_half_rewound() {
            node.remember_cluster();
        }
        if let Some(system_id) = server.recorded_system() {
            node.remember_system(system_id);
        }
        let (commands, command_queue) = mpsc::channel(64);
        let (seen, mut events) = mpsc::channel(64);
        tokio::spawn(watch(store, command_queue, seen));
        let (probes, probe_queue) = mpsc::unbounded_channel();
        tokio::spawn(look_continually(server, probe_queue, inputs.clone()));
        let to_loop = inputs.clone();
        tokio::spawn(async move {
            let mut fence_gone = fence_gone;
            loop {
                let input = tokio::select! {
                    Some(event) = events.recv() => Input::Watch(event),
                    Some(()) = ended.recv() => Input::PostmasterGone,
                    _ = &mut fence_gone => {
                        let _ = to_loop.send(Input::FenceGone).await;
                        return;
                    }
                    else => return,
                };
                if to_loop.send(input).await.is_err() {
                    return;
                }
            }
        });
        let housekeeping = Housekeeping::new(context.clone());
        Ok(Self {
            context,
            node,
            fence,
            inputs,
            commands,
            probes,
            snapshot: Arc::default(),
            dynamic: None,
            has_settings: false,
            reads: 0,
            read_wanted: None,
            votes: BTreeMap::new(),
            votes_waiting: Vec::new(),
            promises: BTreeMap::new(),
            replies: 0,
            running: None,
            housekeeping,
            started: mrg_clock::now(),
            promises_recorded: false,
            exit: false,
        })
    }

    /// Revokes the lease of the incarnation before this one, if that is surely dead: its leader key
    /// goes at once.
    async fn clear_former_self(&self) {
        let config = &self.context.config;
        let Some(record) = Incarnation::load(&config.incarnation_file()) else {
            return;
        };
        if !record.is_dead(config.own.container) {
            tracing::warn!(
                "an earlier incarnation of this agent may still run; waiting for its lease to end"
            );
            return;
        }
        match self
            .context
            .store
            .revoke(record.lease, self.context.dcs_within())
            .await
        {
            Ok(()) => tracing::info!(
                lease = record.lease.0,
                "cleared the keys of this agent's earlier incarnation"
            ),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "unable to clear the keys of this agent's earlier incarnation"
            ),
        }
    }

    async fn run(mut self, mut queue: mpsc::Receiver<Input>) -> anyhow::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut child = signal(SignalKind::child())?;
        let mut stop_by = None;
        while !self.exit {
            let wake = self.node.wake_at(mrg_clock::now());
            let input = tokio::select! {
                input = queue.recv() => input,
                () = mrg_clock::sleep_until(wake) => Some(Input::Event(Event::Tick)),
                _ = terminate.recv() => Some(Input::Event(Event::Stop)),
                _ = interrupt.recv() => Some(Input::Event(Event::Stop)),
                _ = child.recv() => {
                    self.reap();
                    continue;
                }
            };
            let Some(input) = input else { break };
            if matches!(input, Input::Event(Event::Stop)) && stop_by.is_none() {
                tracing::info!("asked to stop");
                stop_by = Some(
                    mrg_clock::now()
                        + Millis(self.context.stop_within().as_millis() as u64 + 5_000),
                );
            }
            self.take(input).await?;
            if stop_by.is_some_and(|by| mrg_clock::now() > by) {
                tracing::warn!("stopping took too long; killing postgres");
                break;
            }
        }
        self.end().await;
        Ok(())
    }

    /// Ends what is left: postgres first, then the lease, so that nobody waits for it.
    async fn end(&mut self) {
        let killed = self.fence.kill().await;
        if let (Some(lease), Ok(())) = (self.node.lease(), killed) {
            let _ = self
                .context
                .store
                .revoke(lease.id, Duration::from_secs(2))
                .await;
        }
        tracing::info!("stopped");
    }

    /// As PID 1 or subreaper: waits for orphans that are neither the fence nor anything that
    /// somebody else waits for.
    fn reap(&self) {
        use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
        let fence = i32::try_from(self.fence.pid).ok();
        while let Ok(status) = waitid(
            Id::All,
            WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT,
        ) {
            let Some(pid) = status.pid().filter(|_| status != WaitStatus::StillAlive) else {
                return;
            };
            if Some(pid.as_raw()) == fence {
                return;
            }
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }

    async fn take(&mut self, input: Input) -> anyhow::Result<()> {
        match input {
            Input::Event(event) => self.event(event).await,
            Input::Watch(event) => self.seen(event).await,
            Input::Ask(ask) => self.asked(ask).await,
            Input::PostmasterGone => {
                self.context.server.note_exit();
                self.event(Event::PostmasterGone).await;
            }
            Input::FenceGone => {
                // Its children are ours now. Without a fence nothing may run.
                tokio::task::spawn_blocking(|| {
                    kill_descendants(&std::collections::BTreeSet::new(), |_| {});
                })
                .await?;
                anyhow::bail!("the fence is gone; every process of postgres was killed");
            }
        }
        Ok(())
    }

    /// Feeds the node and performs what it says.
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
        let view = self.node.view(now);
        let (holds_key, may_write) = (view.holds_key(), view.may_write());
        let lease = self.node.lease().copied();
        let former_lease = self.node.former_lease();
        let why = self.node.why();
        self.context.update(|status| {
            status.holds_key = holds_key;
            status.leads_until = lease.filter(|_| holds_key).map(|lease| lease.valid_until);
            status.may_write = may_write;
            status.lease = lease.map(|lease| lease.id);
            status.former_lease = former_lease;
            status.why = why;
            status.loop_ran = now.0;
        });
        self.housekeeping.tend();
        self.begin_promise_record(now);
    }

    /// Without a record this member kept quiet for one ttl after its start; from then on there is
    /// one, and a restart costs no wait.
    fn begin_promise_record(&mut self, now: Moment) {
        if self.promises_recorded
            || now.since(self.started) < self.context.status().settings.failover.ttl
        {
            return;
        }
        self.promises_recorded = true;
        let path = self.context.config.promise_file();
        if !path.exists()
            && let Err(error) = promise::record(&path, None)
        {
            tracing::warn!(%error, "the record of promises cannot be written; after a restart this member keeps quiet for one ttl");
        }
    }

    async fn seen(&mut self, event: WatchEvent<ClusterSnapshot>) {
        match event {
            WatchEvent::Lost(error) => {
                if self.context.status().dcs_reachable {
                    tracing::warn!(error = chain(error.as_ref()), "etcd does not answer");
                }
                self.context.update(|status| status.dcs_reachable = false);
                self.event(Event::DcsLost).await;
            }
            WatchEvent::Seen { snapshot, asked } => {
                if snapshot.revision() < self.snapshot.revision() {
                    return;
                }
                self.snapshot = snapshot.clone();
                let seen = epoch_ms();
                let cluster = snapshot.cluster();
                self.context.update(|status| {
                    status.snapshot = snapshot.clone();
                    status.cluster = Arc::new(cluster.clone());
                    status.dcs_last_seen = seen;
                    status.dcs_reachable = true;
                });
                let listed = snapshot.failsafe().into_iter().flatten();
                self.context.peers.learn(
                    listed
                        .filter_map(|(name, url)| Some((name.clone(), wire::base_of(url)?)))
                        .collect(),
                );
                let bases = snapshot
                    .members()
                    .filter_map(|(name, data)| Some((name.clone(), data.api_base()?)));
                self.context.peers.learn(bases.collect());
                self.configure(&snapshot).await;
                let linearizable = self.read_wanted.is_some_and(|wanted| asked >= wanted);
                if linearizable {
                    self.read_wanted = None;
                }
                self.event(Event::Dcs {
                    cluster,
                    linearizable,
                })
                .await;
                self.release_votes(asked).await;
            }
        }
    }

    /// Takes over the dynamic configuration, if it is another and a good one; else the last good
    /// one stays in force.
    async fn configure(&mut self, snapshot: &ClusterSnapshot) {
        let known = self.dynamic.as_ref().map(|(revision, _)| *revision);
        let mut refused = None;
        let key = snapshot.config();
        if let Some(entry) = key.filter(|key| Some(key.modified) != known) {
            let dynamic = entry.value.clone();
            match dynamic.and_then(|dynamic| Ok((settings(&dynamic)?, dynamic))) {
                Ok((settings, dynamic)) => {
                    self.take_settings(settings).await;
                    self.dynamic = Some((entry.modified, dynamic));
                }
                Err(error) => refused = Some(error),
            }
        }
        // Without the key: to fall back to what the cluster began with could turn synchronous
        // replication off.
        let (revision, in_force) = match &self.dynamic {
            Some((revision, dynamic)) => (Some(*revision), dynamic.clone()),
            None => (
                None,
                snapshot.config_without_key(&self.context.config.bootstrap),
            ),
        };
        if revision.is_none() {
            match settings(&in_force) {
                Ok(settings)
                    if !self.has_settings || settings != self.context.status().settings =>
                {
                    self.take_settings(settings).await;
                }
                Ok(_) => {}
                Err(error) => refused = Some(error),
            }
        }
        if let Some(error) = refused {
            self.refuse_config(&error);
        }
        self.housekeeping
            .configure(revision, in_force, addresses(snapshot));
    }

    async fn take_settings(&mut self, settings: Settings) {
        self.has_settings = true;
        let timers = WatchCommand::Timers {
            every: settings.failover.loop_wait.duration(),
            within: settings.failover.retry_timeout.duration(),
        };
        let _ = self.commands.send(timers).await;
        self.context.update(|status| {
            status.settings = settings;
            status.config_error = None;
        });
        self.event(Event::Settings(settings)).await;
    }

    fn refuse_config(&self, error: &mrg_dcs::InvalidConfig) {
        let text = error.to_string();
        if self.context.status().config_error.as_deref() != Some(&text) {
            tracing::error!(
                error = text,
                "the dynamic configuration is refused; the last good one stays in force"
            );
        }
        self.context
            .update(|status| status.config_error = Some(text));
    }

    async fn asked(&mut self, ask: Ask) {
        self.replies += 1;
        let reply = self.replies;
        match ask {
            Ask::Restart => self.event(Event::RestartRequested).await,
            Ask::Vote(answer) => {
                self.votes.insert(reply, answer);
                // What the watch has told may be older than what the candidate knows.
                self.reads += 1;
                self.votes_waiting.push((self.reads, reply));
                let _ = self.commands.send(WatchCommand::Read(self.reads)).await;
                let leaderless = self.snapshot.leader_key().is_none();
                if leaderless {
                    self.release_votes(u64::MAX).await;
                }
            }
            Ask::Withdraw(Withdrawal { lease, round }) => {
                self.event(Event::PromiseWithdrawn { lease, round }).await;
            }
            Ask::Promise(request, answer) => {
                let FailsafeRequest {
                    name,
                    ttl_ms,
                    lease,
                    round,
                    ..
                } = request;
                let Ok(leader) = MemberName::new(&name) else {
                    let _ = answer.send(Err("the request names no member".to_owned()));
                    return;
                };
                self.promises.insert(reply, answer);
                let ttl = ttl_ms.unwrap_or(self.context.status().settings.failover.ttl);
                self.event(Event::PromiseAsked(PromiseRequest {
                    reply,
                    leader,
                    lease,
                    ttl,
                    round,
                }))
                .await;
            }
        }
    }

    /// Lets the node hear of the votes that were asked for before a read that is done now.
    async fn release_votes(&mut self, asked: u64) {
        let (ready, waiting) = std::mem::take(&mut self.votes_waiting)
            .into_iter()
            .partition(|(read, _)| *read <= asked);
        self.votes_waiting = waiting;
        let ready: Vec<(u64, u64)> = ready;
        for (_, reply) in ready {
            self.event(Event::VoteAsked { reply }).await;
        }
    }

    async fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::GrantLease(ttl) => self.grant(ttl),
            Effect::KeepAlive(lease) => self.keep_alive(lease),
            Effect::Fence(by) => {
                if let Err(error) = self.fence.arm(by).await {
                    tracing::error!(error = chain(&error), "the fence cannot be armed");
                }
            }
            Effect::Perform(step, action) => {
                tracing::info!(?action, "step");
                let (context, inputs) = (self.context.clone(), self.inputs.clone());
                let lease = self.node.lease().map(|lease| lease.id);
                let task = tokio::spawn(async move {
                    let outcome = perform(context, action.clone(), lease).await;
                    if !matches!(outcome, Outcome::Done) {
                        tracing::info!(?action, ?outcome, "step ended");
                    }
                    let _ = inputs
                        .send(Input::Event(Event::Finished { step, outcome }))
                        .await;
                });
                self.running = Some((step, task));
            }
            Effect::Abort(step) => {
                if let Some((_, task)) = self.running.take_if(|(running, _)| *running == step) {
                    task.abort();
                    if !self.context.server.is_running() {
                        // A program that was run for the step must not go on by itself.
                        let _ = self.fence.kill().await;
                    }
                }
            }
            Effect::Probe(number) => {
                let _ = self.probes.send(number);
            }
            Effect::ReadDcs => {
                self.reads += 1;
                self.read_wanted = Some(self.reads);
                let _ = self.commands.send(WatchCommand::Read(self.reads)).await;
            }
            Effect::AskPromises {
                round,
                members,
                within,
            } => self.ask_promises(round, members, within),
            Effect::WithdrawPromises { members, round } => self.withdraw_promises(members, round),
            Effect::WriteFailsafe { over, members } => self.write_failsafe(over, members),
            Effect::AnswerPromise(reply, answer) => {
                let answer = answer.and_then(|promise| {
                    let recorded =
                        promise::record(&self.context.config.promise_file(), Some(promise));
                    recorded.map_err(|error| format!("the promise cannot be recorded: {error}"))
                });
                if let Some(waiting) = self.promises.remove(&reply) {
                    let _ = waiting.send(answer);
                }
            }
            Effect::AnswerVote(reply, answer) => {
                if let Some(waiting) = self.votes.remove(&reply) {
                    let _ = waiting
                        .send(answer.map(|(position, priority)| VoteAnswer { position, priority }));
                }
            }
            Effect::Explain(why) => {
                tracing::info!(why = why.label(), "{}", why.sentence());
                self.context
                    .update(|status| *status.reasons.entry(why).or_insert(0) += 1);
            }
            Effect::Exit => self.exit = true,
        }
    }

    fn grant(&self, ttl: Millis) {
        let (context, inputs) = (self.context.clone(), self.inputs.clone());
        let pids = [std::process::id(), self.fence.pid];
        tokio::spawn(async move {
            let sent = mrg_clock::now();
            let event = match context.store.grant(ttl, context.dcs_within()).await {
                Ok(granted) => match record_lease(&context, granted.id, &pids) {
                    Ok(()) => Event::LeaseGranted {
                        id: granted.id,
                        granted: granted.ttl,
                        sent,
                    },
                    Err(error) => {
                        tracing::error!(%error, path = %context.config.incarnation_file().display(), "failed to record the lease");
                        let _ = context.store.revoke(granted.id, context.dcs_within()).await;
                        Event::LeaseUnanswered
                    }
                },
                Err(error) => {
                    tracing::warn!(error = chain(&error), "no lease");
                    Event::LeaseUnanswered
                }
            };
            let _ = inputs.send(Input::Event(event)).await;
        });
    }

    fn keep_alive(&self, lease: LeaseId) {
        let (context, inputs) = (self.context.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let sent = mrg_clock::now();
            let event = match context.store.keep_alive(lease, context.dcs_within()).await {
                Ok(()) => Event::LeaseKept { id: lease, sent },
                Err(DcsError::LeaseGone(_)) => Event::LeaseGone(lease),
                Err(error) => {
                    tracing::warn!(error = chain(&error), "the keepalive was not answered");
                    Event::LeaseUnanswered
                }
            };
            let _ = inputs.send(Input::Event(event)).await;
        });
    }

    fn ask_promises(&self, round: u64, members: Vec<MemberName>, within: Millis) {
        let (context, inputs) = (self.context.clone(), self.inputs.clone());
        let lease = self.node.lease().map(|lease| lease.id);
        tokio::spawn(async move {
            let asked = mrg_clock::now();
            let ttl = context.status().settings.failover.ttl;
            let config = &context.config;
            let request = FailsafeRequest {
                name: config.name.to_string(),
                conn_url: format!("postgres://{}/postgres", config.connect),
                api_url: config.api_url(),
                ttl_ms: Some(ttl),
                lease,
                round,
            };
            let asks = members
                .iter()
                .map(|member| context.peers.failsafe(member, &request, within.duration()));
            let answers = futures::future::join_all(asks).await;
            let refusals: Vec<String> = answers
                .iter()
                .filter_map(|answer| answer.as_ref().err().map(|error| chain(error)))
                .collect();
            if refusals.is_empty() {
                tracing::warn!(
                    members = members.len(),
                    "etcd does not answer; all members promised to wait, so this leader goes on"
                );
            } else {
                tracing::warn!(
                    ?refusals,
                    "etcd does not answer and not all members promised to wait; the fence stands"
                );
            }
            let all = refusals.is_empty();
            let _ = inputs
                .send(Input::Event(Event::Promises { round, asked, all }))
                .await;
        });
    }

    fn write_failsafe(&self, over: Option<Revision>, listed: Option<BTreeSet<MemberName>>) {
        let (context, inputs) = (self.context.clone(), self.inputs.clone());
        let Some(lease) = self.node.lease().map(|lease| lease.id) else {
            return;
        };
        let snapshot = self.snapshot.clone();
        tokio::spawn(async move {
            let written = write_failsafe(&context, &snapshot, lease, over, listed).await;
            let _ = inputs
                .send(Input::Event(Event::FailsafeWritten(written)))
                .await;
        });
    }

    fn withdraw_promises(&self, members: Vec<MemberName>, round: u64) {
        let Some(lease) = self.node.lease().map(|lease| lease.id) else {
            return;
        };
        let context = self.context.clone();
        tokio::spawn(async move {
            let withdrawal = Withdrawal { lease, round };
            let within = context.dcs_within();
            futures::future::join_all(
                members
                    .iter()
                    .map(|member| context.peers.withdraw(member, &withdrawal, within)),
            )
            .await;
        });
    }
}

/// Writes the lease down for the incarnation after this one, and for the kubelet, before the lease
/// is used for anything.
fn record_lease(context: &Context, lease: LeaseId, pids: &[u32]) -> std::io::Result<()> {
    Incarnation::of(lease, pids).store(&context.config.incarnation_file())?;
    if let Some(path) = &context.config.own.termination_message {
        std::fs::write(path, wire::compact(&serde_json::json!({ "lease": lease })))?;
    }
    Ok(())
}

fn epoch_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

/// Looks at postgres when asked, and now and then.
async fn look_continually(
    server: Arc<Server>,
    mut asked: mpsc::UnboundedReceiver<u64>,
    inputs: mpsc::Sender<Input>,
) {
    let mut newest = 0;
    loop {
        tokio::select! {
            number = asked.recv() => match number {
                Some(number) => newest = number.max(newest),
                None => return,
            },
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let mut pause = Duration::from_millis(25);
        loop {
            while let Ok(number) = asked.try_recv() {
                newest = number.max(newest);
            }
            let postgres = server.look().await;
            let settling = matches!(postgres, Postgres::Starting);
            if inputs
                .send(Input::Event(Event::Postgres {
                    probe: newest,
                    postgres,
                }))
                .await
                .is_err()
            {
                return;
            }
            if !settling {
                break;
            }
            // Nothing announces that postgres accepts connections. One that has not for long is
            // asked less often.
            tokio::time::sleep(pause).await;
            pause = (pause * 11 / 10).min(LOOK_EVERY);
        }
    }
}
