//! The pooler's loop: events in, effects out.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::bouncer::{Bouncer, Report, Shared};
use crate::config::{Mode, PoolerConfig};
use crate::monitor::ReplicaMonitors;
use crate::probe::{self, HeartbeatConnection};
use crate::processes::Processes;
use crate::publish::{PoolState, Publisher};
use crate::register::register;
use crate::{http, secret};
use mrg_base::Scope;
use mrg_clock::now;
use mrg_dcs::{ClusterSnapshot, Keys, Pause, Section};
use mrg_dcs_etcd::{Connection, Etcd, WatchCommand, WatchEvent, watch as follow};
use mrg_election::Revision;
use mrg_pgbouncer::{AnchorServer, Login};
use mrg_pool_core::{
    Effect, Event, Finding, Leader, PoolCore, PoolTarget, ReadPool, Retargeted, WritePool,
};
use mrg_telemetry::chain;

/// How long the agent of a leader may take to answer.
const CONFIRM_WITHIN: Duration = Duration::from_secs(1);
/// How long the removal of the pod's record may delay the end of the process.
const DEREGISTER_WITHIN: Duration = Duration::from_secs(2);

/// What a task that the pooler started has found out.
pub(crate) enum Answer {
    /// An event as it is.
    Event(Event),
    /// A probe ended.
    Probed {
        probe: u64,
        finding: Finding,
        /// The connection, if the server is the primary.
        heartbeat: Option<Heartbeat>,
    },
    /// The heartbeat connection of this number ended.
    HeartbeatEnded(u64),
}

/// The connection that shows when the leader's server is gone.
pub(crate) struct Heartbeat {
    number: u64,
    /// The leadership that it was opened for.
    key: Revision,
    _connection: HeartbeatConnection,
}

/// A watch of a section of the keys in etcd. Its task ends when the events are not received any more.
struct Watch<S> {
    events: mpsc::Receiver<WatchEvent<S>>,
    commands: mpsc::Sender<WatchCommand>,
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
struct Inputs {
    /// Patroni's keys of the cluster.
    cluster: Watch<ClusterSnapshot>,
    /// The key of the leader's pause request.
    pause: Watch<Pause>,
    reports: mpsc::Receiver<(u16, Report)>,
    answers: mpsc::Receiver<Answer>,
}

/// What has to end before the process does.
struct Tasks {
    /// Raised once, when the processes are to end.
    stop: watch::Sender<bool>,
    bouncers: JoinSet<()>,
    registration: JoinHandle<()>,
}

struct Pooler {
    config: Arc<PoolerConfig>,
    core: Box<dyn PoolCore>,
    answers: mpsc::Sender<Answer>,
    commands: mpsc::Sender<WatchCommand>,
    /// The cluster's keys as of the last event.
    snapshot: Arc<ClusterSnapshot>,
    heartbeat: Option<Heartbeat>,
    /// How many heartbeat connections were opened.
    heartbeats: u64,
    monitors: ReplicaMonitors,
    targets: watch::Sender<PoolTarget>,
    processes: Processes,
    publisher: Publisher,
    http: reqwest::Client,
    logins: watch::Receiver<Vec<Login>>,
}

/// Runs until SIGTERM or SIGINT, and then until the clients are gone.
///
/// # Errors
/// When the pooler cannot start: the passwords, the anchor's socket or the HTTP port.
pub async fn run(config: PoolerConfig) -> anyhow::Result<()> {
    let (mut pooler, mut inputs, mut tasks) = Pooler::start(config).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut ending = false;
    loop {
        tokio::select! {
            Some(event) = inputs.cluster.events.recv() => pooler.note_cluster(event),
            Some(event) = inputs.pause.events.recv() => pooler.note_pause(&event),
            Some((process, report)) = inputs.reports.recv() => pooler.note_report(process, report),
            Some(answer) = inputs.answers.recv() => pooler.note_answer(answer),
            () = pooler.due() => pooler.feed(Event::Tick),
            _ = terminate.recv() => ending = true,
            _ = interrupt.recv() => ending = true,
            Some(_) = tasks.bouncers.join_next(), if ending => if tasks.bouncers.is_empty() { break },
        }
        if ending && !tasks.stop.send_replace(true) {
            tracing::info!("asked to stop; letting clients go");
        }
    }
    // The record goes with the pod, so that no leader waits for it.
    drop((pooler, inputs));
    let _ = tokio::time::timeout(DEREGISTER_WITHIN, tasks.registration).await;
    tracing::info!("stopped");
    Ok(())
}

impl Pooler {
    /// Builds everything and starts every task but the loop.
    async fn start(config: PoolerConfig) -> anyhow::Result<(Self, Inputs, Tasks)> {
        let config = Arc::new(config);
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
        let record = publisher.record();
        tokio::spawn(secret::follow(
            config.clone(),
            logins_in,
            target,
            record.clone(),
        ));
        let registration = tokio::spawn(register(etcd, config.pod.clone(), record.subscribe()));
        serve_http(config.http_port, &publisher).await?;
        let (answers, answers_out) = mpsc::channel(64);
        let database = config.databases.first().map(|it| it.name.clone());
        let pooler = Self {
            core: core(&config),
            commands: cluster.commands.clone(),
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
            http: reqwest::Client::new(),
            logins,
            config,
        };
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

    async fn due(&self) {
        match self.core.wake_at() {
            Some(wake) => mrg_clock::sleep_until(wake).await,
            None => std::future::pending().await,
        }
    }

    /// Feeds an event to the core, performs the effects and publishes the result.
    fn feed(&mut self, event: Event) {
        let mut effects = self.core.on(now(), event);
        let number = self.processes.drained();
        effects.extend(self.core.on(now(), Event::Drained { number }));
        for effect in effects {
            self.perform(effect);
        }
        let state = PoolState::of(
            self.core.as_ref(),
            self.processes.all_settled(),
            self.processes.pools(),
            self.targets.borrow().number,
        );
        self.publisher.publish(&state);
    }

    fn note_cluster(&mut self, event: WatchEvent<ClusterSnapshot>) {
        match event {
            WatchEvent::Seen { snapshot, asked } => {
                let event = Event::Dcs {
                    snapshot: snapshot.seen(),
                    read: asked,
                };
                self.snapshot = snapshot;
                self.feed(event);
            }
            WatchEvent::Lost(error) => {
                tracing::debug!(error = chain(error.as_ref()), "etcd does not answer");
                self.feed(Event::DcsLost);
            }
        }
    }

    fn note_pause(&mut self, event: &WatchEvent<Pause>) {
        let WatchEvent::Seen { snapshot, .. } = event else {
            // The watch of the cluster's keys reports that etcd is lost.
            return;
        };
        self.feed(Event::Pause(snapshot.0));
    }

    fn note_report(&mut self, process: u16, report: Report) {
        match report {
            Report::Settled(target) => {
                self.processes.note_settled(process, target);
                self.publisher.note_running();
            }
            Report::Drained(target) => self.processes.note_drained(process, target),
            Report::Pools(pools) => self.processes.note_pools(process, pools),
            Report::Ended(why) => {
                self.processes.note_end(process);
                self.publisher.note_failure(&why);
            }
        }
        self.feed(Event::Tick);
    }

    fn note_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Event(event) => self.feed(event),
            Answer::Probed {
                probe,
                finding,
                heartbeat,
            } => {
                if heartbeat.is_some() {
                    self.heartbeat = heartbeat;
                }
                self.feed(Event::Probed { probe, finding });
            }
            Answer::HeartbeatEnded(number) => {
                let ended = self
                    .heartbeat
                    .take_if(|heartbeat| heartbeat.number == number);
                if let Some(Heartbeat { key, .. }) = ended {
                    self.feed(Event::Disconnected { key });
                }
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Retarget(target) => {
                tracing::info!(
                    admission = ?target.admission,
                    addresses = ?target.addresses,
                    "the pool's target changed"
                );
                self.targets.send_replace(target);
            }
            Effect::Probe { probe, leader } => self.probe(probe, leader),
            Effect::ConfirmLeadership(leader) => self.confirm_leadership(&leader),
            Effect::ReadDcs(number) => {
                // A full queue holds an older request; the watch's own backstop reads, too.
                let _ = self.commands.try_send(WatchCommand::Read(number));
            }
            Effect::Acknowledge { pause, drained } => self.publisher.acknowledge(pause, drained),
            Effect::Monitor(servers) => self.monitors.set(servers),
            Effect::Retargeted(retargeted) => self.report_retargeted(&retargeted),
        }
    }

    fn report_retargeted(&self, retargeted: &Retargeted) {
        let Retargeted {
            cause,
            paused,
            servers,
        } = retargeted;
        tracing::info!(%cause, held_ms = paused.0, ?servers, "clients work again");
        let clients = self.processes.pools().clients;
        self.publisher.note_retargeted(retargeted, clients);
    }

    fn probe(&mut self, probe: u64, leader: Leader) {
        self.heartbeats += 1;
        let number = self.heartbeats;
        let answers = self.answers.clone();
        let login = self.logins.borrow().first().cloned();
        let database = self.config.databases.first().map(|it| it.name.clone());
        tokio::spawn(async move {
            let ended = answers.clone();
            let on_end = async move {
                let _ = ended.send(Answer::HeartbeatEnded(number)).await;
            };
            let (finding, connection) = match (login, database) {
                (Some(login), Some(database)) => {
                    probe::leader(&leader.address, &login, &database, on_end).await
                }
                _ => (Finding::Unreachable, None),
            };
            let heartbeat = connection.map(|connection| Heartbeat {
                number,
                key: leader.key,
                _connection: connection,
            });
            let answer = Answer::Probed {
                probe,
                finding,
                heartbeat,
            };
            let _ = answers.send(answer).await;
        });
    }

    /// Asks the agent whether it holds a lease or promises: `/primary` answers 200 only then.
    fn confirm_leadership(&self, leader: &Leader) {
        let member = self.snapshot.member(&leader.member);
        let base = member.and_then(|data| data.api_base());
        let (http, answers, key) = (self.http.clone(), self.answers.clone(), leader.key);
        tokio::spawn(async move {
            let leads = match base {
                Some(base) => {
                    let request = http.get(format!("{base}/primary")).timeout(CONFIRM_WITHIN);
                    let response = request.send().await;
                    response.is_ok_and(|response| response.status() == reqwest::StatusCode::OK)
                }
                None => false,
            };
            let event = Event::LeadershipAnswered { key, leads };
            let _ = answers.send(Answer::Event(event)).await;
        });
    }
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

async fn serve_http(port: u16, publisher: &Publisher) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))
        .await
        .with_context(|| format!("port {port} for HTTP"))?;
    tokio::spawn(http::serve(listener, publisher.status()));
    Ok(())
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
