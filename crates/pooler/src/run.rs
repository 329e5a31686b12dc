//! The pooler's loop: events in, effects out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bouncer::{Bouncer, Report};
use crate::config::{Mode, PoolerConfig};
use crate::http::{self, Shown};
use crate::look::{self, Canary};
use crate::register::register;
use mrg_base::{MemberName, Millis, Scope};
use mrg_clock::now;
use mrg_dcs::poolers::{PoolerRecord, Rewire, fingerprint};
use mrg_dcs::{ClusterSnapshot, Keys, Pause, Section};
use mrg_dcs_etcd::{Connection, Etcd, WatchCommand, WatchEvent, watch as follow};
use mrg_election::Revision;
use mrg_pgbouncer::{AnchorServer, Login, Pools};
use mrg_pool_core::{
    Address, Effect, Event, Finding, Gate, Leader, ReadEvent, Reads, Rewired, Setting, Why, Writes,
};
use mrg_telemetry::chain;

/// How long one probe waits for a server to leave recovery.
const PROBE_PATIENCE: Duration = Duration::from_millis(500);
/// How often a read pool looks at a server whose connection stands.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The pause before a read pool tries a server again that took no connection.
const CONNECT_AGAIN: Duration = Duration::from_millis(250);
/// The kubelet swaps a mounted Secret's directory once in a minute or so; nothing is lost by
/// looking a little later.
const LOOK_AT_SECRET_EVERY: Duration = Duration::from_secs(2);
/// New passwords that the server has not taken by then are used all the same.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(150);
const VOUCH_WITHIN: Duration = Duration::from_secs(1);

/// What reaches the loop.
enum Input {
    Patroni(WatchEvent<ClusterSnapshot>),
    Own(WatchEvent<Pause>),
    Probed {
        probe: u64,
        finding: Finding,
        canary: Option<(u64, Revision, Canary)>,
    },
    CanaryEnded(u64),
    Vouched {
        key: Revision,
        leads: bool,
    },
    Looked {
        member: MemberName,
        address: Address,
        finding: Finding,
    },
    Process(u16, Report),
}

enum Core {
    Writes(Writes),
    Reads(Reads),
}

/// A PgBouncer process, by its reports.
#[derive(Default)]
struct Process {
    /// The setting that it has reached; `None` while it does not run.
    settled: Option<u64>,
    drained: u64,
    pools: Pools,
}

struct Pooler {
    config: Arc<PoolerConfig>,
    core: Core,
    inputs: mpsc::Sender<Input>,
    commands: mpsc::Sender<WatchCommand>,
    snapshot: Arc<ClusterSnapshot>,
    pause: Option<mrg_pool_core::PauseRequest>,
    canary: Option<(u64, Revision, Canary)>,
    canaries: u64,
    lookouts: BTreeMap<MemberName, (Address, JoinHandle<()>)>,
    settings: watch::Sender<Setting>,
    processes: BTreeMap<u16, Process>,
    record: watch::Sender<PoolerRecord>,
    shown: watch::Sender<Shown>,
    http: reqwest::Client,
    logins: watch::Receiver<Vec<Login>>,
    told: Option<Why>,
}

/// Runs until SIGTERM, and until the clients are gone then.
pub async fn run(config: PoolerConfig) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let keys = Keys::new(&config.namespace, &Scope::new(&config.scope)?);
    // Every pod begins with another endpoint.
    let first = config.pod.bytes().map(usize::from).sum::<usize>() % config.etcd.len().max(1);
    let etcd = Arc::new(Etcd::new(
        Connection {
            endpoints: config.etcd.clone(),
            user: None,
        },
        keys,
        first,
    ));
    let (inputs, mut queue) = mpsc::channel(64);
    let commands = watch_keys(&etcd, &inputs);
    let anchor_server = Arc::new(
        AnchorServer::listen(&config.run_directory.join("anchor"))
            .context("the anchor's socket")?,
    );
    let initial = Setting {
        number: 0,
        gate: Gate::Hold,
        addresses: Vec::new(),
    };
    let (settings, setting) = watch::channel(initial);
    let (logins, secret) = watch::channel(config.logins()?);
    let (stopping, stop) = watch::channel(false);
    let mut bouncers = tokio::task::JoinSet::new();
    let reports = reports_into(&inputs);
    for number in 1..=config.processes {
        let (setting, secret, stop) = (setting.clone(), secret.clone(), stop.clone());
        bouncers.spawn(
            Bouncer::new(
                config.clone(),
                number,
                anchor_server.clone(),
                setting,
                secret,
                stop,
                reports.clone(),
            )
            .run(),
        );
    }
    let record = watch::Sender::new(PoolerRecord {
        pool: config.pool.clone(),
        writes: config.mode == Mode::Write,
        max_wait_ms: config.max_wait_ms.0,
        abandons: config.abandons,
        reason: Why::Starting.into(),
        ..PoolerRecord::default()
    });
    tokio::spawn(follow_secret(
        config.clone(),
        logins,
        setting,
        record.clone(),
    ));
    let registration = tokio::spawn(register(
        etcd.clone(),
        config.pod.clone(),
        record.subscribe(),
    ));
    let shown = watch::Sender::new(Shown {
        pool: config.pool.clone(),
        ..Shown::default()
    });
    let listener = TcpListener::bind(("0.0.0.0", config.http_port))
        .await
        .with_context(|| format!("port {} for HTTP", config.http_port))?;
    tokio::spawn(http::serve(listener, shown.subscribe()));
    let core = match config.mode {
        Mode::Write => Core::Writes(Writes::new(config.max_hold_ms, now())),
        Mode::Read => Core::Reads(Reads::new(
            config.max_lag(),
            config.fallback(),
            config.max_hold_ms,
        )),
    };
    let mut pooler = Pooler {
        config,
        core,
        inputs,
        commands,
        snapshot: Arc::default(),
        pause: None,
        canary: None,
        canaries: 0,
        lookouts: BTreeMap::new(),
        settings,
        processes: BTreeMap::new(),
        record,
        shown,
        http: reqwest::Client::new(),
        logins: secret,
        told: None,
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut ending = false;
    loop {
        tokio::select! {
            input = queue.recv() => if let Some(input) = input { pooler.take(input) },
            () = pooler.due() => pooler.tick(),
            _ = terminate.recv() => ending = true,
            _ = interrupt.recv() => ending = true,
            Some(_) = bouncers.join_next(), if ending => if bouncers.is_empty() { break },
        }
        if ending && !stopping.send_replace(true) {
            tracing::info!("asked to stop; letting clients go");
        }
    }
    // The record goes with the pod, so that no leader waits for it.
    drop(pooler);
    let _ = tokio::time::timeout(Duration::from_secs(2), registration).await;
    tracing::info!("stopped");
    Ok(())
}

fn watch_keys(etcd: &Arc<Etcd>, inputs: &mpsc::Sender<Input>) -> mpsc::Sender<WatchCommand> {
    let (commands, queue) = mpsc::channel(16);
    let seen = watched_into(inputs, Input::Patroni);
    tokio::spawn(follow(etcd.clone(), queue, seen));
    let (own_commands, own_queue) = mpsc::channel(1);
    let (etcd, seen) = (etcd.clone(), watched_into(inputs, Input::Own));
    tokio::spawn(async move {
        follow(etcd, own_queue, seen).await;
        drop(own_commands);
    });
    commands
}

fn watched_into<S: Section>(
    inputs: &mpsc::Sender<Input>,
    wrap: fn(WatchEvent<S>) -> Input,
) -> mpsc::Sender<WatchEvent<S>> {
    let (seen, mut events) = mpsc::channel(16);
    let inputs = inputs.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if inputs.send(wrap(event)).await.is_err() {
                return;
            }
        }
    });
    seen
}

fn reports_into(inputs: &mpsc::Sender<Input>) -> mpsc::Sender<(u16, Report)> {
    let (reports, mut queue) = mpsc::channel(16);
    let inputs = inputs.clone();
    tokio::spawn(async move {
        while let Some((process, report)) = queue.recv().await {
            if inputs.send(Input::Process(process, report)).await.is_err() {
                return;
            }
        }
    });
    reports
}

/// Follows the mounted Secret. A new password is tried on the server and used once it is taken
/// there; until then the old one is.
async fn follow_secret(
    config: Arc<PoolerConfig>,
    logins: watch::Sender<Vec<Login>>,
    settings: watch::Receiver<Setting>,
    record: watch::Sender<PoolerRecord>,
) {
    let tell = |logins: &[Login]| {
        let prints: BTreeMap<String, u16> = logins
            .iter()
            .map(|login| (login.user.clone(), fingerprint(&login.password)))
            .collect();
        record.send_if_modified(|record| {
            std::mem::replace(&mut record.passwords, prints.clone()) != prints
        });
    };
    tell(&logins.borrow());
    let mut since = Instant::now();
    let mut told = logins.borrow().clone();
    while !logins.is_closed() {
        tokio::time::sleep(LOOK_AT_SECRET_EVERY).await;
        let Ok(mounted) = config.logins() else {
            continue;
        };
        if mounted != told {
            tracing::info!(
                "the passwords in the Secret changed; they are used once the server takes them"
            );
            tell(&mounted);
            told.clone_from(&mounted);
            since = Instant::now();
        }
        if mounted == *logins.borrow() {
            continue;
        }
        let address = settings.borrow().addresses.first().cloned();
        let taken = match address {
            Some(address) => are_taken(&config, &address, &mounted).await,
            None => false,
        };
        // Whoever rotates by hand may have been at the server first, and the old ones are of no use
        // any more.
        if taken || since.elapsed() > GIVEN_UP_AFTER {
            tracing::info!(taken, "the new passwords are in use");
            logins.send_replace(mounted);
        }
    }
}

async fn are_taken(config: &PoolerConfig, address: &Address, logins: &[Login]) -> bool {
    let Some(database) = config.databases.first() else {
        return false;
    };
    let tries = logins
        .iter()
        .map(|login| look::connect(address, login, &database.name, || {}));
    futures::future::join_all(tries)
        .await
        .iter()
        .all(Option::is_some)
}

impl Pooler {
    async fn due(&self) {
        let wake = match &self.core {
            Core::Writes(pool) => pool.wake_at(),
            Core::Reads(pool) => pool.wake_at(),
        };
        match wake {
            Some(wake) => mrg_clock::sleep_until(wake).await,
            None => std::future::pending().await,
        }
    }

    fn tick(&mut self) {
        match self.core {
            Core::Writes(_) => self.write(Event::Tick),
            Core::Reads(_) => self.read(ReadEvent::Tick),
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Patroni(WatchEvent::Seen { snapshot, asked }) => {
                let seen = snapshot.seen();
                self.snapshot = snapshot;
                match self.core {
                    Core::Writes(_) => self.write(Event::Dcs { seen, read: asked }),
                    Core::Reads(_) => {
                        self.read(ReadEvent::Dcs(seen));
                        self.post_lookouts();
                    }
                }
            }
            Input::Patroni(WatchEvent::Lost(error)) => {
                tracing::debug!(error = chain(error.as_ref()), "etcd does not answer");
                self.write(Event::DcsLost);
            }
            Input::Own(WatchEvent::Seen { snapshot, .. }) => {
                self.pause = snapshot.0;
                self.write(Event::Pause(self.pause));
            }
            Input::Own(WatchEvent::Lost(_)) => {}
            Input::Probed {
                probe,
                finding,
                canary,
            } => {
                if canary.is_some() {
                    self.canary = canary;
                }
                self.write(Event::Probed { probe, finding });
            }
            Input::CanaryEnded(number) => {
                if let Some((_, key, _)) = self.canary.take_if(|(current, ..)| *current == number) {
                    self.write(Event::Disconnected { key });
                }
            }
            Input::Vouched { key, leads } => self.write(Event::Vouched { key, leads }),
            Input::Looked {
                member,
                address,
                finding,
            } => self.read(ReadEvent::Looked {
                member,
                address,
                finding,
            }),
            Input::Process(process, report) => self.note_process(process, report),
        }
    }

    fn note_process(&mut self, process: u16, report: Report) {
        let entry = self.processes.entry(process).or_default();
        match report {
            Report::Settled(number) => {
                entry.settled = Some(number);
                self.record
                    .send_if_modified(|record| record.failure.take().is_some());
            }
            Report::Drained(number) => entry.drained = number,
            Report::Pools(pools) => entry.pools = pools,
            Report::Ended(why) => {
                *entry = Process::default();
                self.shown.send_modify(|shown| shown.restarts += 1);
                let failure = Some(format!("PgBouncer: {why}"));
                self.record.send_if_modified(|record| {
                    std::mem::replace(&mut record.failure, failure.clone()) != failure
                });
            }
        }
        self.write(Event::Tick);
    }

    /// The newest setting under which no process has a transaction under way; one that does not run
    /// has none.
    fn drained(&self) -> u64 {
        let drained = |process: &Process| {
            if process.settled.is_some() {
                process.drained
            } else {
                u64::MAX
            }
        };
        self.processes
            .values()
            .map(drained)
            .min()
            .unwrap_or(u64::MAX)
    }

    fn write(&mut self, event: Event) {
        let Core::Writes(pool) = &mut self.core else {
            return;
        };
        let mut effects = pool.on(now(), event);
        let drained = Event::Drained {
            number: self.drained(),
        };
        if let Core::Writes(pool) = &mut self.core {
            effects.extend(pool.on(now(), drained));
        }
        for effect in effects {
            self.perform(effect);
        }
        self.show();
    }

    fn read(&mut self, event: ReadEvent) {
        let Core::Reads(pool) = &mut self.core else {
            return;
        };
        let held = pool.held_since();
        if let Some(setting) = pool.on(now(), event) {
            tracing::info!(gate = ?setting.gate, members = ?pool.serving(), "the pool's servers changed");
            if let (Some(since), Gate::Flow) = (held, setting.gate) {
                self.note_rewired(Why::NoReplica, now().since(since));
            }
            self.settings.send_replace(setting);
        }
        self.show();
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Set(setting) => {
                self.settings.send_replace(setting);
            }
            Effect::Probe { probe, leader } => self.probe(probe, leader),
            Effect::AskAgent(leader) => self.ask_agent(leader),
            Effect::ReadDcs(number) => {
                // A full queue holds an older request; the watch's own backstop reads, too.
                let _ = self.commands.try_send(WatchCommand::Read(number));
            }
            Effect::Acknowledge { pause, drained } => {
                self.record.send_modify(|record| {
                    record.pause = Some(pause);
                    record.drained = drained;
                });
            }
            Effect::Rewired(Rewired {
                cause,
                held,
                leader,
            }) => {
                tracing::info!(%cause, held_ms = held.0, member = %leader.member, address = %leader.address, "clients work again");
                self.note_rewired(cause, held);
            }
        }
    }

    fn note_rewired(&mut self, cause: Why, held: Millis) {
        let clients = self
            .processes
            .values()
            .map(|process| process.pools.clients)
            .sum();
        let at_ms = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        self.shown.send_modify(|shown| {
            let (count, total) = shown.rewires.entry(cause.name().to_owned()).or_default();
            *count += 1;
            *total += held.0;
        });
        // A pod that has just started had nobody to hold.
        if cause == Why::Starting {
            return;
        }
        self.record.send_modify(|record| {
            record.rewire = Some(Rewire {
                cause: cause.into(),
                held_ms: held.0,
                clients,
                at_ms,
            });
        });
    }

    /// The user and the database that servers are asked with.
    fn login(&self) -> Option<(Login, String)> {
        Some((
            self.logins.borrow().first()?.clone(),
            self.config.databases.first()?.name.clone(),
        ))
    }

    fn probe(&mut self, probe: u64, leader: Leader) {
        let inputs = self.inputs.clone();
        let login = self.login();
        self.canaries += 1;
        let number = self.canaries;
        tokio::spawn(async move {
            let told = inputs.clone();
            let ended = move || {
                tokio::spawn(async move { told.send(Input::CanaryEnded(number)).await });
            };
            let canary = match login {
                Some((login, database)) => {
                    look::connect(&leader.address, &login, &database, ended).await
                }
                None => None,
            };
            let finding = match &canary {
                Some(canary) => canary.look_for_primary(PROBE_PATIENCE).await,
                None => Finding::Unreachable,
            };
            let canary = canary
                .filter(|_| matches!(finding, Finding::Primary { .. }))
                .map(|canary| (number, leader.key, canary));
            let _ = inputs
                .send(Input::Probed {
                    probe,
                    finding,
                    canary,
                })
                .await;
        });
    }

    /// The agent's own word that it holds a lease or promises: `/primary` answers 200 only then.
    fn ask_agent(&self, leader: Leader) {
        let member = self.snapshot.member(&leader.member);
        let base = member.and_then(|data| data.api_base());
        let (http, inputs) = (self.http.clone(), self.inputs.clone());
        tokio::spawn(async move {
            let leads = match base {
                Some(base) => {
                    let answer = http
                        .get(format!("{base}/primary"))
                        .timeout(VOUCH_WITHIN)
                        .send()
                        .await;
                    answer.is_ok_and(|answer| answer.status() == reqwest::StatusCode::OK)
                }
                None => false,
            };
            let _ = inputs
                .send(Input::Vouched {
                    key: leader.key,
                    leads,
                })
                .await;
        });
    }

    /// One lookout for each server of a read pool.
    fn post_lookouts(&mut self) {
        let Core::Reads(pool) = &self.core else {
            return;
        };
        let followed = pool.followed();
        let Some(database) = self
            .config
            .databases
            .first()
            .map(|database| database.name.clone())
        else {
            return;
        };
        self.lookouts.retain(|member, (address, task)| {
            let stays = followed.get(member) == Some(address) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for (member, address) in followed {
            let task = || {
                tokio::spawn(look_out(
                    self.inputs.clone(),
                    member.clone(),
                    address.clone(),
                    self.logins.clone(),
                    database.clone(),
                ))
            };
            self.lookouts
                .entry(member.clone())
                .or_insert_with(|| (address.clone(), task()));
        }
    }

    /// Brings what people and the operator see up to date.
    fn show(&mut self) {
        let (why, held, members, addresses) = match &self.core {
            Core::Writes(pool) => {
                let target = pool.target().into_iter();
                (
                    pool.why(),
                    pool.held_since(),
                    target
                        .clone()
                        .map(|leader| leader.member.to_string())
                        .collect(),
                    target.map(|leader| leader.address.to_string()).collect(),
                )
            }
            Core::Reads(pool) => {
                let members: Vec<String> = pool.serving().iter().map(ToString::to_string).collect();
                let followed = pool.followed();
                (
                    pool.why(),
                    pool.held_since(),
                    members,
                    pool.serving()
                        .iter()
                        .filter_map(|name| followed.get(name))
                        .map(ToString::to_string)
                        .collect(),
                )
            }
        };
        if self.told != Some(why) {
            tracing::info!(why = why.name(), "{why}");
            self.told = Some(why);
        }
        let sum = |of: fn(&Pools) -> u64| {
            self.processes
                .values()
                .map(|process| of(&process.pools))
                .sum::<u64>()
        };
        let pools = Pools {
            clients: sum(|pools| pools.clients),
            waiting: sum(|pools| pools.waiting),
            servers_active: sum(|pools| pools.servers_active),
            servers_idle: sum(|pools| pools.servers_idle),
            longest_wait_us: self
                .processes
                .values()
                .map(|process| process.pools.longest_wait_us)
                .max()
                .unwrap_or(0),
        };
        let generation = self.settings.borrow().number;
        let started = self
            .processes
            .values()
            .filter(|process| process.settled.is_some())
            .count()
            == usize::from(self.config.processes);
        let held_ms = held
            .filter(|_| started)
            .map_or(0, |since| now().since(since).0);
        self.shown.send_if_modified(|shown| {
            shown.serving = started;
            shown.why = why.name().to_owned();
            shown.because = why.to_string();
            shown.held_ms = held_ms;
            shown.members.clone_from(&members);
            shown.addresses.clone_from(&addresses);
            shown.pools = pools;
            true
        });
        // Clients wait for a moment all the time; those who wait long, or are held, are worth a
        // word.
        let waiting = if held.is_some() || pools.longest_wait_us >= 1_000_000 {
            pools.waiting
        } else {
            0
        };
        self.record.send_if_modified(|record| {
            let new = PoolerRecord {
                reason: why.into(),
                members,
                addresses,
                generation,
                clients: pools.clients,
                waiting,
                ..record.clone()
            };
            // Numbers that change all the time are not worth a write by themselves: about one in
            // ten is.
            let near = |a: u64, b: u64| a.abs_diff(b) <= a.max(b) / 10;
            let same = PoolerRecord {
                clients: record.clients,
                waiting: record.waiting,
                ..new.clone()
            } == *record;
            let changed = !same
                || !near(new.clients, record.clients)
                || (new.waiting == 0) != (record.waiting == 0);
            if changed {
                *record = new;
            }
            changed
        });
    }
}

/// Looks at one server of a read pool for ever.
async fn look_out(
    inputs: mpsc::Sender<Input>,
    member: MemberName,
    address: Address,
    logins: watch::Receiver<Vec<Login>>,
    database: String,
) {
    loop {
        // They may have been rotated since the last time.
        let Some(login) = logins.borrow().first().cloned() else {
            return;
        };
        let (end, mut ended) = watch::channel(false);
        let canary = look::connect(&address, &login, &database, move || {
            end.send_replace(true);
        })
        .await;
        while let Some(canary) = &canary {
            let finding = canary.look().await;
            let lost = finding == Finding::Unreachable;
            if inputs
                .send(Input::Looked {
                    member: member.clone(),
                    address: address.clone(),
                    finding,
                })
                .await
                .is_err()
            {
                return;
            }
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => break,
                () = tokio::time::sleep(LOOK_EVERY) => if lost { break },
            }
        }
        let finding = Finding::Unreachable;
        if inputs
            .send(Input::Looked {
                member: member.clone(),
                address: address.clone(),
                finding,
            })
            .await
            .is_err()
        {
            return;
        }
        tokio::time::sleep(CONNECT_AGAIN).await;
    }
}
