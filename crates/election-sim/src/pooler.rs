//! Poolers: the production [`WritePool`] before a model of PgBouncer.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::etcd::Keys;
use crate::event::{Answer, Ask, Message, PoolerEvent, SimulationEvent};
use crate::watch::Watch;
use crate::world::World;
use mrg_base::{MemberName, Millis, Moment};
use mrg_dcs::Transaction;
use mrg_dcs::poolers::PoolerRecord;
use mrg_election::{LeaseId, Revision};
use mrg_pool_core::{
    Address, Admission, Effect, Event, PauseRequest, PoolCore, PoolTarget, Retargeted, WritePool,
};

/// Clients are held so long.
const MAX_HOLD: Millis = Millis(15_000);
/// How long a leader waits for the last transactions of a pooler.
const MAX_WAIT: Millis = Millis(2_000);
/// Longer than any day.
const FOR_EVER: u64 = u64::MAX / 4;
/// A read of etcd may take so long.
const READ_WITHIN: u64 = 3_000;

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
    pub applied: PoolTarget,
    pub waiting: Vec<u64>,
    pub active: BTreeMap<u64, usize>,
    pub heartbeat: Option<(usize, u32, Revision)>,
    pub probing: Option<(u64, Revision)>,
    core: WritePool,
    /// The lease that its record hangs off, while it runs.
    lease: Option<LeaseId>,
    /// For a read: how many were asked for, and the revision that was known.
    calls: BTreeMap<u64, Option<(u64, i64)>>,
    seen: i64,
    /// Which etcd answered the last read.
    era: u32,
    pause: Option<PauseRequest>,
    wanted: PoolTarget,
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
            lease: None,
            calls: BTreeMap::new(),
            seen: 0,
            era: 0,
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

/// Where a member's postgres is.
pub(super) fn address(member: usize) -> Address {
    Address {
        host: format!("10.0.0.{member}"),
        port: 5432,
    }
}

/// Whose postgres is there.
pub(super) fn member_at(address: &Address) -> Option<usize> {
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
            // Neither granted nor kept over the network: it lives as long as its pooler.
            lease: Some(self.etcd.grant(FOR_EVER)),
            ..Pooler::new(name)
        };
        self.pooler_says(pooler, None, false);
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
        // The record goes with its lease; here it goes at once, which makes it not waited for.
        if let Some(lease) = self.poolers[pooler].lease.take() {
            self.etcd.revoke(lease);
            self.etcd_changed();
        }
    }

    /// Publishes its record. It gives a switchover up rather than have transactions cut.
    fn pooler_says(&mut self, pooler: usize, pause: Option<Revision>, drained: bool) {
        let state = &self.poolers[pooler];
        let Some(lease) = state.lease else { return };
        let record = PoolerRecord {
            writes: true,
            max_wait_ms: MAX_WAIT.0,
            abandons: true,
            pause,
            drained,
            ..PoolerRecord::default()
        };
        let pod = format!("pooler-{}", state.name);
        let ask = Ask::Transact(Transaction::publish_pooler(&pod, record, lease));
        let number = state.number;
        let end = self.pooler_end(pooler);
        let call = self.ask_etcd(end, number, READ_WITHIN, ask);
        self.poolers[pooler].calls.insert(call, None);
    }

    fn pooler_reads(&mut self, pooler: usize, asked: u64) {
        let number = self.poolers[pooler].number;
        self.poolers[pooler].watch.reading = Some(asked);
        let end = self.pooler_end(pooler);
        let call = self.ask_etcd(end, number, READ_WITHIN, Ask::Read);
        let known = self.poolers[pooler].seen;
        self.poolers[pooler]
            .calls
            .insert(call, Some((asked, known)));
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
        let Some(Some((asked, known))) = state.calls.remove(&call) else {
            return;
        };
        state.watch.reading = None;
        state.watch.reads += 1;
        let reads = state.watch.reads;
        let end = self.pooler_end(pooler);
        if let Some(Answer::Keys(keys)) = answer {
            let state = &mut self.poolers[pooler];
            state.watch.open = true;
            if keys.cluster.revision.0 < known.min(state.seen) {
                state.seen = 0;
                self.pooler_registers_again(pooler);
                self.pooler_feed(pooler, Event::DcsReset);
            }
            self.poolers[pooler].era = keys.era;
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

    /// Its record went with an etcd that is gone.
    fn pooler_registers_again(&mut self, pooler: usize) {
        self.poolers[pooler].lease = Some(self.etcd.grant(FOR_EVER));
        self.pooler_says(pooler, None, false);
    }

    /// The connection that its watch goes over has ended.
    pub(crate) fn pooler_watch_breaks(&mut self, pooler: usize) {
        let end = self.pooler_end(pooler);
        let state = &mut self.poolers[pooler];
        state.watch.open = false;
        let (number, reads) = (state.number, state.watch.reads);
        self.later(1, SimulationEvent::Backstop { end, number, reads });
    }

    pub(crate) fn pooler_news(&mut self, pooler: usize, number: u32, keys: Rc<Keys>, read: u64) {
        let state = &mut self.poolers[pooler];
        if !state.up || state.number != number || state.era != keys.era {
            return;
        }
        // Two watches: the request to pause may come earlier or later than the rest.
        if state.pause != keys.pause.0 && keys.cluster.revision.0 >= state.seen {
            let wait = self.random.between(0, 3);
            self.later(
                wait,
                PoolerEvent::Pause {
                    pooler,
                    number,
                    pause: keys.pause.0,
                },
            );
        }
        let state = &mut self.poolers[pooler];
        state.seen = state.seen.max(keys.cluster.revision.0);
        let snapshot = keys.snapshot.seen();
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
            self.at(at, PoolerEvent::Tick { pooler, number });
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
                    PoolerEvent::Set {
                        pooler,
                        number,
                        setting: count,
                    },
                );
            }
            Effect::Probe { probe, leader } => self.pooler_probes(pooler, probe, &leader),
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
            Effect::Acknowledge { pause, drained } => {
                self.pooler_says(pooler, Some(pause), drained);
            }
            // A write pool monitors nothing.
            Effect::Monitor(_) => {}
            Effect::Retargeted(retargeted) => self.pooler_retargeted(pooler, &retargeted),
        }
    }

    fn pooler_retargeted(&mut self, pooler: usize, retargeted: &Retargeted) {
        self.judge.rewires += 1;
        if let Some(server) = retargeted.servers.values().find_map(member_at) {
            self.judge_rewired(pooler, server, retargeted.paused.0);
        }
        self.tell(|_| {
            let names: Vec<&str> = retargeted.servers.keys().map(MemberName::as_str).collect();
            format!(
                "pooler {pooler}: clients work again, on {}, after {} ({})",
                names.join(", "),
                retargeted.paused,
                retargeted.cause.name()
            )
        });
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
}
