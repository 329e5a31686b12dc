//! Poolers and their clients: the production [`WritePool`] before a model of PgBouncer.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::agent::Watch;
use crate::etcd::{Keys, PoolerKey};
use crate::event::{Answer, Ask, Message, SimulationEvent};
use crate::postgres::Server;
use crate::server::end_of;
use crate::world::World;
use mrg_base::{MemberName, Millis, Moment};
use mrg_election::Revision;
use mrg_pool_core::{
    Address, Admission, Effect, Event, Finding, Leader, Member, PauseRequest, PoolCore, PoolTarget,
    Snapshot, WritePool,
};

/// How long one probe waits for a server to leave recovery.
const PROBE_PATIENCE: u64 = 500;
/// Clients are held so long.
const MAX_HOLD: Millis = Millis(15_000);
/// A client gives a transaction up after so long.
const PATIENCE: u64 = 8_000;
/// A read of etcd may take so long.
const READ_WITHIN: u64 = 3_000;

/// A client's transaction: one write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transaction {
    /// The end of the network where its answer is awaited.
    pub end: usize,
    pub client: usize,
    pub pooler: Option<usize>,
}

/// A pooler's process and its PgBouncer.
pub(super) struct Pooler {
    pub name: usize,
    pub number: u32,
    pub up: bool,
    pub paused_until: u64,
    /// What was on its way to it while it stood still arrives at this time, also when the pause is
    /// cut short.
    pub catches_up_at: u64,
    pub watch: Watch,
    core: WritePool,
    calls: BTreeMap<u64, Option<u64>>,
    seen: i64,
    pause: Option<PauseRequest>,
    wanted: PoolTarget,
    applied: PoolTarget,
    waiting: Vec<u64>,
    active: BTreeMap<u64, usize>,
    heartbeat: Option<(usize, u32, Revision)>,
    probing: Option<(u64, Revision)>,
    wake: u64,
}

impl Pooler {
    pub(crate) fn new(name: usize) -> Self {
        Self {
            name,
            number: 0,
            up: false,
            paused_until: 0,
            catches_up_at: 0,
            watch: Watch::default(),
            core: WritePool::new(MAX_HOLD, Moment(0)),
            calls: BTreeMap::new(),
            seen: 0,
            pause: None,
            wanted: PoolTarget::INITIAL,
            applied: PoolTarget::INITIAL,
            waiting: Vec::new(),
            active: BTreeMap::new(),
            heartbeat: None,
            probing: None,
            wake: 0,
        }
    }

    /// Whether its clients reach a server.
    pub(crate) fn flows(&self) -> bool {
        self.up && self.applied.admission == Admission::Open
    }

    /// Why its clients wait.
    pub(crate) fn reason(&self) -> &'static str {
        self.core.reason().name()
    }
}

fn address(member: usize) -> Address {
    Address {
        host: format!("10.0.0.{member}"),
        port: 5432,
    }
}

fn member_at(address: &Address) -> Option<usize> {
    address.host.rsplit('.').next()?.parse().ok()
}

impl World {
    pub(crate) fn start_pooler(&mut self, pooler: usize) {
        if self.poolers[pooler].up {
            return;
        }
        let (number, name, now) = (
            self.poolers[pooler].number + 1,
            self.poolers[pooler].name,
            Moment(self.now),
        );
        self.poolers[pooler] = Pooler {
            number,
            up: true,
            core: WritePool::new(MAX_HOLD, now),
            ..Pooler::new(name)
        };
        self.pooler_says(pooler, PoolerKey::default());
        self.pooler_reads(pooler, 0);
        self.pooler_feed(pooler, Event::Tick);
    }

    pub(crate) fn stop_pooler(&mut self, pooler: usize) {
        let ended: Vec<u64> = {
            let pooler = &mut self.poolers[pooler];
            pooler.up = false;
            pooler.number += 1;
            pooler
                .waiting
                .drain(..)
                .chain(std::mem::take(&mut pooler.active).into_keys())
                .collect()
        };
        for transaction in ended {
            self.transaction_ends(transaction, false);
        }
        // The key goes with its lease; here it goes at once, which makes it not waited for.
        self.etcd.change(|keys, _| keys.poolers.remove(&pooler));
        self.etcd_changed();
    }

    fn pooler_says(&mut self, pooler: usize, key: PoolerKey) {
        let number = self.poolers[pooler].number;
        let end = self.pooler_end(pooler);
        let call = self.ask_etcd(end, number, READ_WITHIN, Ask::Pooler(key));
        self.poolers[pooler].calls.insert(call, None);
    }

    fn pooler_reads(&mut self, pooler: usize, asked: u64) {
        let number = self.poolers[pooler].number;
        self.poolers[pooler].watch.reading = Some(asked);
        let end = self.pooler_end(pooler);
        let call = self.ask_etcd(end, number, READ_WITHIN, Ask::Read);
        self.poolers[pooler].calls.insert(call, Some(asked));
    }

    pub(crate) fn pooler_backstop(&mut self, pooler: usize, number: u32, reads: u64) {
        let state = &self.poolers[pooler];
        if state.up
            && state.number == number
            && state.watch.reads == reads
            && state.watch.reading.is_none()
        {
            let asked = state.watch.asked;
            self.pooler_reads(pooler, asked);
        }
    }

    pub(crate) fn pooler_answered(
        &mut self,
        pooler: usize,
        number: u32,
        call: u64,
        answer: Option<Answer>,
    ) {
        let state = &mut self.poolers[pooler];
        if !state.up || state.number != number {
            return;
        }
        let Some(Some(asked)) = state.calls.remove(&call) else {
            return;
        };
        state.watch.reading = None;
        state.watch.reads += 1;
        let reads = state.watch.reads;
        let end = self.pooler_end(pooler);
        if let Some(Answer::Keys(keys)) = answer {
            self.poolers[pooler].watch.open = true;
            self.later(10_000, SimulationEvent::Backstop { end, number, reads });
            self.pooler_news(pooler, number, keys, asked);
            let state = &self.poolers[pooler];
            if state.watch.asked > asked && state.watch.reading.is_none() {
                let asked = state.watch.asked;
                self.pooler_reads(pooler, asked);
            }
        } else {
            self.poolers[pooler].watch.open = false;
            self.later(100, SimulationEvent::Backstop { end, number, reads });
            self.pooler_feed(pooler, Event::DcsLost);
        }
    }

    pub(crate) fn pooler_news(&mut self, pooler: usize, number: u32, keys: Rc<Keys>, read: u64) {
        let state = &mut self.poolers[pooler];
        if !state.up || state.number != number {
            return;
        }
        // Two watches: the request to pause may come earlier or later than the rest.
        if state.pause != keys.pause && keys.cluster.revision.0 >= state.seen {
            let wait = self.random.between(0, 3);
            self.later(
                wait,
                SimulationEvent::PoolerPause {
                    pooler,
                    number,
                    pause: keys.pause,
                },
            );
        }
        let state = &mut self.poolers[pooler];
        state.seen = state.seen.max(keys.cluster.revision.0);
        let numbered = |name: &MemberName| self.hosts.iter().position(|host| host.name == *name);
        let leader = keys.cluster.leader.as_ref().and_then(|key| {
            let number = numbered(&key.member)?;
            Some(Leader {
                key: key.created,
                member: key.member.clone(),
                address: address(number),
            })
        });
        let members = keys.cluster.members.keys().filter_map(|name| {
            Some((
                name.clone(),
                Member {
                    address: address(numbered(name)?),
                },
            ))
        });
        let system_id = match keys.cluster.initialize {
            Some(mrg_election::Initialize::Done(id)) => Some(id),
            _ => None,
        };
        let snapshot = Snapshot {
            revision: keys.cluster.revision.0,
            system_id,
            leader,
            members: members.collect(),
        };
        self.pooler_feed(pooler, Event::Dcs { snapshot, read });
    }

    pub(crate) fn pooler_paused(
        &mut self,
        pooler: usize,
        number: u32,
        pause: Option<PauseRequest>,
    ) {
        let state = &mut self.poolers[pooler];
        if state.up && state.number == number {
            state.pause = pause;
            self.pooler_feed(pooler, Event::Pause(pause));
        }
    }

    pub(crate) fn pooler_tick(&mut self, pooler: usize, number: u32) {
        let state = &self.poolers[pooler];
        if state.up && state.number == number && state.wake <= self.now {
            self.pooler_feed(pooler, Event::Tick);
        }
    }

    pub(crate) fn pooler_feed(&mut self, pooler: usize, event: Event) {
        let now = Moment(self.now);
        let mut effects = self.poolers[pooler].core.on(now, event);
        let state = &mut self.poolers[pooler];
        let drained = if state.applied.admission == Admission::Paused && state.active.is_empty() {
            state.applied.number
        } else {
            0
        };
        effects.extend(state.core.on(now, Event::Drained { number: drained }));
        for effect in effects {
            self.pooler_effect(pooler, effect);
        }
        let state = &mut self.poolers[pooler];
        if let Some(wake) = state.core.wake_at()
            && (state.wake <= self.now || wake.0 < state.wake)
        {
            state.wake = wake.0.max(self.now + 1);
            let (at, number) = (state.wake, state.number);
            self.at(at, SimulationEvent::Pooler { pooler, number });
        }
    }

    fn pooler_effect(&mut self, pooler: usize, effect: Effect) {
        let number = self.poolers[pooler].number;
        let end = self.pooler_end(pooler);
        match effect {
            Effect::Retarget(target) => {
                let wait = self.random.between(1, 6);
                let count = target.number;
                self.poolers[pooler].wanted = target;
                self.later(
                    wait,
                    SimulationEvent::PoolerSet {
                        pooler,
                        number,
                        setting: count,
                    },
                );
            }
            Effect::Probe { probe, leader } => {
                let Some(to) = member_at(&leader.address) else {
                    return;
                };
                let until = self.now + PROBE_PATIENCE;
                self.poolers[pooler].probing = Some((probe, leader.key));
                self.send(
                    end,
                    to,
                    Message::Probe {
                        pooler,
                        number,
                        probe,
                        until,
                    },
                );
                let silent = Message::Found {
                    pooler,
                    number,
                    probe,
                    finding: Finding::Unreachable,
                    server: (to, 0),
                };
                self.later(
                    PROBE_PATIENCE + 300,
                    SimulationEvent::Arrives {
                        from: to,
                        to: end,
                        message: Box::new(silent),
                    },
                );
            }
            Effect::ConfirmLeadership(leader) => {
                if let Some(to) = member_at(&leader.address) {
                    self.send(
                        end,
                        to,
                        Message::Vouch {
                            pooler,
                            number,
                            key: leader.key,
                        },
                    );
                }
            }
            Effect::ReadDcs(read) => {
                self.poolers[pooler].watch.asked = read;
                if self.poolers[pooler].watch.reading.is_none() {
                    self.pooler_reads(pooler, read);
                }
            }
            Effect::Acknowledge { pause, drained } => self.pooler_says(
                pooler,
                PoolerKey {
                    pause: Some(pause),
                    drained,
                },
            ),
            // A write pool monitors nothing.
            Effect::Monitor(_) => {}
            Effect::Retargeted(retargeted) => {
                self.judge.rewires += 1;
                if let Some(server) = retargeted.servers.values().find_map(member_at) {
                    self.judge_rewired(pooler, server, retargeted.paused.0);
                }
                self.tell(|_| {
                    let names: Vec<&str> =
                        retargeted.servers.keys().map(MemberName::as_str).collect();
                    format!(
                        "pooler {pooler}: clients work again, on {}, after {} ({})",
                        names.join(", "),
                        retargeted.paused,
                        retargeted.cause.name()
                    )
                });
            }
        }
    }

    /// PgBouncer is where it was to be brought.
    pub(crate) fn pooler_set(&mut self, pooler: usize, number: u32, target: u64) {
        let state = &mut self.poolers[pooler];
        if !state.up
            || state.number != number
            || state.wanted.number < target
            || state.applied.number >= target
        {
            return;
        }
        state.applied = state.wanted.clone();
        let applied = state.applied.clone();
        let waiting = if applied.admission == Admission::Paused {
            Vec::new()
        } else {
            std::mem::take(&mut state.waiting)
        };
        for transaction in waiting {
            match applied.admission {
                Admission::Open => self.route(pooler, transaction),
                _ => self.transaction_ends(transaction, false),
            }
        }
        self.pooler_feed(pooler, Event::Tick);
    }

    // ---- clients ----

    pub(crate) fn think(&mut self, client: usize) {
        self.transactions += 1;
        let transaction = self.transactions;
        let poolers = self.poolers.len();
        // The last client knows nothing of pools: it writes to whoever lets it.
        let pooler = if poolers > 0 && client < 2 {
            Some(client % poolers)
        } else {
            None
        };
        let target = self.random.index(self.hosts.len());
        let end = pooler.map_or(target, |pooler| self.pooler_end(pooler));
        self.open.insert(
            transaction,
            Transaction {
                end,
                client,
                pooler,
            },
        );
        self.later(PATIENCE, SimulationEvent::Forget { transaction });
        match pooler {
            None => self.send(
                end,
                target,
                Message::Write {
                    transaction,
                    from: end,
                },
            ),
            Some(pooler) => {
                let state = &mut self.poolers[pooler];
                match state.applied.admission {
                    _ if !state.up => self.transaction_ends(transaction, false),
                    Admission::Paused => state.waiting.push(transaction),
                    Admission::Open => self.route(pooler, transaction),
                    Admission::Rejecting => self.transaction_ends(transaction, false),
                }
            }
        }
    }

    fn route(&mut self, pooler: usize, transaction: u64) {
        let Some(to) = self.poolers[pooler]
            .applied
            .addresses
            .first()
            .and_then(member_at)
        else {
            return;
        };
        let end = self.pooler_end(pooler);
        self.poolers[pooler].active.insert(transaction, to);
        self.send(
            end,
            to,
            Message::Write {
                transaction,
                from: end,
            },
        );
    }

    /// A transaction ended, well or not: its client thinks, and writes again.
    pub(crate) fn transaction_ends(&mut self, transaction: u64, done: bool) {
        let Some(Transaction { client, pooler, .. }) = self.open.remove(&transaction) else {
            return;
        };
        if done {
            self.judge.acknowledged += 1;
            self.judge.last_acknowledged[client] = self.now;
        }
        if let Some(pooler) = pooler {
            let state = &mut self.poolers[pooler];
            state.waiting.retain(|waiting| *waiting != transaction);
            if state.active.remove(&transaction).is_some() && state.up {
                self.pooler_feed(pooler, Event::Tick);
            }
        }
        let think = if self.now < self.busy_until {
            self.schedule.think
        } else {
            5 * self.schedule.think
        };
        let wait = self.random.between(think / 2, think * 2);
        self.later(wait, SimulationEvent::Think { client });
    }

    /// A server is gone: its clients' connections close.
    pub(crate) fn connections_close(&mut self, server: (usize, u32)) {
        for pooler in 0..self.poolers.len() {
            let end = self.pooler_end(pooler);
            if !self.poolers[pooler].up || self.cut[server.0][end] > 0 {
                continue;
            }
            let number = self.poolers[pooler].number;
            self.later(
                2,
                SimulationEvent::Arrives {
                    from: server.0,
                    to: end,
                    message: Box::new(Message::Closed {
                        pooler,
                        number,
                        server,
                    }),
                },
            );
        }
        let direct: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| open.pooler.is_none() && open.end == server.0)
            .map(|(transaction, _)| *transaction)
            .collect();
        for transaction in direct {
            self.transaction_ends(transaction, false);
        }
    }

    fn server_closed(&mut self, pooler: usize, server: (usize, u32)) {
        let broken: Vec<u64> = self.poolers[pooler]
            .active
            .iter()
            .filter(|(_, to)| **to == server.0)
            .map(|(transaction, _)| *transaction)
            .collect();
        for transaction in broken {
            self.transaction_ends(transaction, false);
        }
        let heartbeat = self.poolers[pooler].heartbeat;
        if let Some((_, _, key)) =
            heartbeat.filter(|(member, incarnation, _)| (*member, *incarnation) == server)
        {
            self.poolers[pooler].heartbeat = None;
            self.pooler_feed(pooler, Event::Disconnected { key });
        }
    }

    // ---- messages ----

    fn probed(&mut self, to: usize, message: Message) {
        let Message::Probe {
            pooler,
            number,
            probe,
            until,
        } = message
        else {
            return;
        };
        let postgres = &self.hosts[to].postgres;
        let server = (to, postgres.incarnation);
        let finding = match (postgres.server, &postgres.data) {
            (Server::Primary, Some(data)) => Finding::Primary {
                system_id: data.system,
                timeline: mrg_base::Timeline(data.newest_timeline()),
                written: end_of(data),
            },
            (Server::Standby { .. }, Some(data)) if self.now >= until => Finding::Standby {
                system_id: data.system,
                replayed: end_of(data),
                behind: Millis(0),
            },
            (Server::Standby { .. }, Some(_)) => {
                let end = self.pooler_end(pooler);
                self.later(
                    5,
                    SimulationEvent::Arrives {
                        from: end,
                        to,
                        message: Box::new(Message::Probe {
                            pooler,
                            number,
                            probe,
                            until,
                        }),
                    },
                );
                return;
            }
            _ => Finding::Unreachable,
        };
        let end = self.pooler_end(pooler);
        self.send(
            to,
            end,
            Message::Found {
                pooler,
                number,
                probe,
                finding,
                server,
            },
        );
    }

    fn found(&mut self, pooler: usize, probe: u64, finding: Finding, server: (usize, u32)) {
        let state = &mut self.poolers[pooler];
        if state.probing.is_none_or(|(running, _)| running != probe) {
            return;
        }
        let key = state.probing.take().map(|(_, key)| key);
        if let (Finding::Primary { .. }, Some(key)) = (finding, key) {
            state.heartbeat = Some((server.0, server.1, key));
            if self.hosts[server.0].postgres.incarnation != server.1 {
                let (number, end) = (self.poolers[pooler].number, self.pooler_end(pooler));
                self.later(
                    2,
                    SimulationEvent::Arrives {
                        from: server.0,
                        to: end,
                        message: Box::new(Message::Closed {
                            pooler,
                            number,
                            server,
                        }),
                    },
                );
            }
        }
        self.pooler_feed(pooler, Event::Probed { probe, finding });
    }

    pub(crate) fn arrives(&mut self, from: usize, to: usize, message: Message) {
        let here = to < self.hosts.len();
        if here && !self.hosts[to].up {
            return;
        }
        let pooler = |world: &Self, pooler: usize, number: u32| {
            world.poolers[pooler].up && world.poolers[pooler].number == number
        };
        match message {
            Message::Vote { from, agent, step } => {
                self.vote_asked(to, crate::votes::Asker::Vote { from, agent, step });
            }
            Message::Voted { agent, step, vote } => self.voted(to, from, agent, step, vote),
            Message::Receipt { .. } => self.receipt_asked(to, message),
            Message::Received { agent, step } => self.received(to, agent, step),
            Message::Promise {
                from,
                agent,
                lease,
                ttl,
                round,
            } => self.promise_asked(to, from, agent, lease, ttl, round),
            Message::Promised {
                agent,
                round,
                from,
                given,
            } => self.promised_by(to, agent, round, from, given),
            Message::Withdraw { lease, round } => self.withdrawn(to, lease, round),
            Message::Connect {
                from,
                incarnation,
                connection,
            } => self.connect(to, from, incarnation, connection),
            Message::Wal {
                connection,
                after,
                records,
            } => self.wal_arrives(to, connection, after, &records),
            Message::Flushed {
                from,
                connection,
                upto,
            } => self.standby_flushed(to, from, connection, upto),
            Message::Probe { .. } => self.probed(to, message),
            Message::Found {
                pooler: to,
                number,
                probe,
                finding,
                server,
            } if pooler(self, to, number) => self.found(to, probe, finding, server),
            Message::Vouch {
                pooler,
                number,
                key,
            } => self.vouch(to, pooler, number, key),
            Message::Vouched {
                pooler: to,
                number,
                key,
                leads,
            } if pooler(self, to, number) => {
                self.pooler_feed(to, Event::LeadershipAnswered { key, leads });
            }
            Message::Closed {
                pooler: to,
                number,
                server,
            } if pooler(self, to, number) => self.server_closed(to, server),
            Message::Write { transaction, from } => self.write_arrives(to, from, transaction),
            Message::Written { transaction, done } => self.transaction_ends(transaction, done),
            Message::Found { .. } | Message::Vouched { .. } | Message::Closed { .. } => {}
        }
    }

    /// The agent's word on whether it leads.
    fn vouch(&mut self, member: usize, pooler: usize, number: u32, key: Revision) {
        let now = self.clock(member);
        let leads = self.hosts[member].agent.as_ref().is_some_and(|agent| {
            matches!(agent.postgres, mrg_election::Postgres::Primary(_))
                && agent.node.view(now).may_write()
        });
        let end = self.pooler_end(pooler);
        self.send(
            member,
            end,
            Message::Vouched {
                pooler,
                number,
                key,
                leads,
            },
        );
    }
}
