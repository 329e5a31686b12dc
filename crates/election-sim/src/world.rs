//! The world that members live in: its time, its network, its machines, and everything that is
//! about to happen.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BinaryHeap};

use crate::agent::Agent;
use crate::etcd::Etcd;
use crate::event::{PoolerEvent, SimulationEvent};
use crate::faults::FOREIGN;
use crate::judge::Judge;
use crate::pooler::Pooler;
use crate::postgres::Postgres;
use crate::random::Random;
use crate::schedule::Schedule;
use mrg_base::{MemberName, Moment};
use mrg_election::{LeaseId, Promise, Revision};

struct Entry {
    at: u64,
    order: u64,
    what: SimulationEvent,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The fence of a member: a process of its own.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fence {
    pub deadline: Option<Moment>,
    pub fired: bool,
    pub generation: u32,
}

/// A machine, and the pod on it.
pub(super) struct Host {
    pub name: MemberName,
    pub skew: i64,
    pub up: bool,
    pub boot: u32,
    pub frozen_until: u64,
    pub agent: Option<Agent>,
    pub agents: u32,
    pub agent_paused_until: u64,
    pub postgres: Postgres,
    pub fence: Fence,
    pub lease_record: Option<LeaseId>,
    pub promise_record: Option<(u32, Option<Promise>)>,
    /// Which cluster the data is of, as the volume tells.
    pub system_record: Option<u64>,
    /// How far etcd had come, as the volume tells.
    pub dcs_record: Option<Revision>,
    pub watch_lags_until: u64,
}

impl Host {
    /// Whether there are no files here that tell of a cluster.
    pub(crate) fn has_nothing(&self) -> bool {
        self.postgres
            .data
            .as_ref()
            .is_none_or(|data| data.unfinished)
    }

    /// Whether the files here are of another cluster, and only `initialize` says so.
    pub(crate) fn may_pass_for_another(&self) -> bool {
        let knows = |agent: &Agent| agent.node.view(Moment(0)).memory.system_id.is_some();
        self.postgres
            .data
            .as_ref()
            .is_some_and(|data| data.system == FOREIGN)
            && !self.agent.as_ref().is_some_and(knows)
    }
}

/// Everything.
pub(super) struct World {
    pub now: u64,
    pub schedule: Schedule,
    pub random: Random,
    pub etcd: Etcd,
    /// The revision that watchers were told of last.
    pub etcd_told: Revision,
    pub hosts: Vec<Host>,
    pub poolers: Vec<Pooler>,
    pub cut: Vec<Vec<u32>>,
    pub slow_until: u64,
    pub healed: bool,
    pub fault_at: u64,
    pub faults_done: usize,
    pub plan: u32,
    pub busy_until: u64,
    pub judge: Judge,
    pub connections: u32,
    pub records: u32,
    pub transactions: u64,
    pub open: BTreeMap<u64, crate::clients::Transaction>,
    pub news_at: Vec<u64>,
    queue: BinaryHeap<Reverse<Entry>>,
    order: u64,
    calls: u64,
    story: Option<Vec<(u64, String)>>,
}

/// Members' clocks begin here, so that nothing is ever before their beginning.
const EPOCH: u64 = 1_000_000;

impl World {
    pub(crate) fn new(schedule: Schedule, tell: bool) -> Self {
        let names: Vec<MemberName> = (1..=schedule.members)
            .map(|number| MemberName::new(&format!("m{number}")).expect("a legal name"))
            .collect();
        let ends = schedule.members + 1 + schedule.poolers;
        let host = |(index, name): (usize, MemberName)| Host {
            name,
            skew: schedule.skew[index],
            up: true,
            boot: 0,
            frozen_until: 0,
            agent: None,
            agents: 0,
            agent_paused_until: 0,
            postgres: Postgres::absent(),
            fence: Fence::default(),
            lease_record: None,
            promise_record: None,
            system_record: None,
            dcs_record: None,
            watch_lags_until: 0,
        };
        let mut world = Self {
            now: 0,
            random: Random::fork(schedule.seed, 2),
            etcd: Etcd::new(&schedule.settings),
            etcd_told: Revision(0),
            hosts: names.into_iter().enumerate().map(host).collect(),
            poolers: Vec::new(),
            cut: vec![vec![0; ends]; ends],
            slow_until: 0,
            healed: false,
            fault_at: 0,
            faults_done: 0,
            plan: 0,
            busy_until: 0,
            judge: Judge::new(&schedule),
            connections: 0,
            records: 0,
            transactions: 0,
            open: BTreeMap::new(),
            news_at: vec![0; ends],
            queue: BinaryHeap::new(),
            order: 0,
            calls: 0,
            story: tell.then(Vec::new),
            schedule,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for member in 0..self.hosts.len() {
            let wait = self.random.between(0, 400);
            self.later(wait, SimulationEvent::StartAgent { member, boot: 0 });
        }
        for pooler in 0..self.schedule.poolers {
            self.poolers.push(Pooler::new(pooler));
            self.later(500, PoolerEvent::Start { pooler });
        }
        self.expect_fault(0);
        for client in 0..3 {
            self.at(
                1_000 + client,
                SimulationEvent::Think {
                    client: usize::try_from(client).unwrap_or(0),
                },
            );
        }
    }

    /// The number of etcd among the ends of the network.
    pub(crate) fn etcd_end(&self) -> usize {
        self.hosts.len()
    }

    /// The number of a pooler among the ends of the network.
    pub(crate) fn pooler_end(&self, pooler: usize) -> usize {
        self.hosts.len() + 1 + pooler
    }

    pub(crate) fn at(&mut self, at: u64, what: impl Into<SimulationEvent>) {
        self.order += 1;
        self.queue.push(Reverse(Entry {
            at: at.max(self.now),
            order: self.order,
            what: what.into(),
        }));
    }

    pub(crate) fn later(&mut self, wait: u64, what: impl Into<SimulationEvent>) {
        self.at(self.now + wait, what);
    }

    /// A number for a question.
    pub(crate) fn call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// The next thing happens; false if there is nothing more.
    pub(crate) fn advance(&mut self) -> bool {
        let Some(Reverse(entry)) = self.queue.pop() else {
            return false;
        };
        self.now = entry.at;
        self.judge.events += 1;
        self.happen(entry.what);
        true
    }

    /// A member's clock.
    pub(crate) fn clock(&self, member: usize) -> Moment {
        let skewed = i128::from(self.now)
            + i128::from(self.now) * i128::from(self.hosts[member].skew) / 1_000_000;
        Moment(EPOCH + u64::try_from(skewed).unwrap_or(0))
    }

    /// When a member's clock will show this.
    pub(crate) fn when(&self, member: usize, moment: Moment) -> u64 {
        let shown = i128::from(moment.0.saturating_sub(EPOCH));
        let skew = i128::from(self.hosts[member].skew);
        let at = (shown * 1_000_000 + (1_000_000 + skew) - 1) / (1_000_000 + skew);
        u64::try_from(at).unwrap_or(u64::MAX).max(self.now)
    }

    /// A length of etcd's time in the world's.
    pub(crate) fn etcd_time(&self, length: u64) -> u64 {
        let skew = self.schedule.skew[self.hosts.len()];
        u64::try_from(i128::from(length) * 1_000_000 / i128::from(1_000_000 + skew))
            .unwrap_or(length)
    }

    /// How long something takes.
    pub(crate) fn takes(&mut self, (usual, most): (u64, u64)) -> u64 {
        self.random
            .skewed(usual, if self.healed { usual } else { most })
    }

    /// Whether a member's machine runs and is not standing still; if it stands, until when.
    pub(crate) fn standing(&self, member: usize) -> Option<u64> {
        (self.now < self.hosts[member].frozen_until).then_some(self.hosts[member].frozen_until)
    }

    /// Whether a member's agent stands still, and until when.
    pub(crate) fn agent_standing(&self, member: usize) -> Option<u64> {
        let host = &self.hosts[member];
        let until = host.frozen_until.max(host.agent_paused_until);
        (self.now < until).then_some(until)
    }

    pub(crate) fn name(&self, member: usize) -> MemberName {
        self.hosts[member].name.clone()
    }

    pub(crate) fn number_of(&self, name: &MemberName) -> Option<usize> {
        self.hosts.iter().position(|host| host.name == *name)
    }

    /// Adds a line to the story, if one is told.
    pub(crate) fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.story.is_some() {
            let line = line(self);
            let now = self.now;
            self.story
                .iter_mut()
                .for_each(|story| story.push((now, line.clone())));
        }
    }

    pub(crate) fn take_story(&mut self) -> Vec<(u64, String)> {
        self.story.take().unwrap_or_default()
    }
}
