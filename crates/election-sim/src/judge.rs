//! What must hold, always and in the end. The judge sees everything, and nobody asks it anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::etcd::Keys;
use crate::postgres::{Server, lsn};
use crate::schedule::{Fault, Schedule};
use crate::world::{Host, World};
use mrg_base::{MemberName, Position};
use mrg_election::{Initialize, LeaderKey, LeaseId, Mode, Reason, Revision, sync};

/// After everything is mended, the cluster must be whole within so long, and so many lengths of its
/// ttl.
const WHOLE_WITHIN: u64 = 150_000;

/// An acknowledged commit.
#[derive(Clone, Copy, Debug)]
struct Commit {
    index: usize,
    id: u32,
}

/// What was seen, and what was wrong with it.
pub(super) struct Judge {
    pub events: u64,
    pub reached: BTreeSet<Reason>,
    pub acknowledged: u64,
    pub last_acknowledged: Vec<u64>,
    pub failovers: u64,
    pub rewires: u64,
    pub systems: u64,
    pub healed_at: Option<u64>,
    /// When each member's server was last seen to accept writes.
    wrote_at: Vec<u64>,
    /// The leader key's creation and its holder, if it is there.
    held: Option<(Revision, MemberName)>,
    /// The lease of a leader key that stands only because etcd went back.
    old_key: Option<LeaseId>,
    /// Who held the leader key, since when.
    leaderships: Vec<(u64, Option<usize>)>,
    violation: Option<String>,
    commits: Vec<Commit>,
    last_primary: Option<usize>,
    /// Whether commits must survive every failover: always in a synchronous mode.
    durable: bool,
    /// Whether two writers are ruled out: not where somebody deletes the leader's key from under
    /// it.
    one_writer: bool,
    /// The system identifier of the first cluster that had one. Before, what is being made may be
    /// given up.
    pub system: Option<u64>,
    /// When each agent last let the key go because its server did not respond.
    pub gave_up: BTreeMap<(usize, u32), u64>,
    /// How long after the mending the cluster must be whole.
    pub within: u64,
}

impl Judge {
    pub(crate) fn new(schedule: &Schedule) -> Self {
        let by_hand =
            |fault: &(u64, Fault)| matches!(fault.1, Fault::DeleteLeader | Fault::DeleteEverything);
        Self {
            events: 0,
            reached: BTreeSet::new(),
            acknowledged: 0,
            last_acknowledged: vec![0; 3],
            failovers: 0,
            rewires: 0,
            systems: 0,
            healed_at: None,
            held: None,
            old_key: None,
            wrote_at: vec![0; schedule.members],
            leaderships: vec![(0, None)],
            violation: None,
            commits: Vec::new(),
            last_primary: None,
            durable: schedule.settings.replication.mode != Mode::Async,
            one_writer: !schedule.faults.iter().any(by_hand),
            system: None,
            gave_up: BTreeMap::new(),
            within: WHOLE_WITHIN + 5 * schedule.settings.failover.ttl.0,
        }
    }

    /// etcd went back, and shows who led once.
    pub(crate) fn key_is_old(&mut self, keys: &Keys) {
        self.held = None;
        self.old_key = keys.cluster.leader.as_ref().map(|key| key.lease);
    }

    /// Whether the leader key is that one.
    fn is_old(&self, key: &LeaderKey) -> bool {
        self.old_key == Some(key.lease)
    }

    /// Something that must never be.
    pub(crate) fn blame(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    pub(crate) fn violation(&self) -> Option<&str> {
        self.violation.as_deref()
    }

    /// Whether every acknowledged commit is on two disks besides this one.
    pub(crate) fn survives_without(&self, member: usize, hosts: &[Host]) -> bool {
        let holds = |host: &Host, commit: &Commit| {
            host.postgres.data.as_ref().is_some_and(|data| {
                commit.index < data.flushed && data.wal[commit.index].id == commit.id
            })
        };
        let others = || {
            hosts
                .iter()
                .enumerate()
                .filter(|(other, host)| *other != member && host.up)
        };
        let sound = |host: &Host| {
            host.postgres
                .data
                .as_ref()
                .is_some_and(|data| !data.half_rewound && !data.unfinished)
        };
        // Positions grow, so the last few stand for all.
        others().any(|(_, host)| sound(host))
            && self
                .commits
                .iter()
                .rev()
                .take(4)
                .all(|commit| others().filter(|(_, host)| holds(host, commit)).count() >= 2)
    }
}

impl World {
    /// A commit returns to its session.
    pub(crate) fn judge_commit(&mut self, member: usize, index: usize, id: u32) {
        if !self.judge.durable {
            return;
        }
        // There is a cluster once it has its system identifier; one that is still being made may be
        // given up.
        let system = self.hosts[member]
            .postgres
            .data
            .as_ref()
            .map(|data| data.system);
        if self.judge.system.is_some() && self.judge.system == system {
            self.judge.commits.push(Commit { index, id });
        }
        let name = self.name(member);
        let led_by = self
            .etcd
            .keys()
            .cluster
            .leader
            .as_ref()
            .filter(|leader| !self.judge.is_old(leader))
            .map(|leader| leader.member.clone());
        if self.judge.one_writer && led_by.as_ref().is_some_and(|leader| *leader != name) {
            self.judge.blame(format!(
                "{name} acknowledged a commit while {} holds the leader key",
                led_by.expect("just seen")
            ));
        }
    }

    /// Somebody accepts writes.
    pub(crate) fn judge_writers(&mut self, member: usize) {
        let writes =
            |host: &Host| host.postgres.server == Server::Primary && self.now >= host.frozen_until;
        let writers: Vec<String> = self
            .hosts
            .iter()
            .filter(|host| writes(host))
            .map(|host| host.name.to_string())
            .collect();
        if writers.len() > 1 && self.judge.one_writer {
            self.judge
                .blame(format!("two accept writes: {}", writers.join(" and ")));
        }
        if self.judge.last_primary != Some(member) {
            self.judge.failovers += u64::from(self.judge.last_primary.is_some());
            self.judge.last_primary = Some(member);
        }
    }

    /// A new primary must have everything that was acknowledged.
    pub(crate) fn judge_promotion(&mut self, member: usize) {
        if !self.judge.durable {
            return;
        }
        let Some(data) = &self.hosts[member].postgres.data else {
            return;
        };
        let lost: Vec<u32> = self
            .judge
            .commits
            .iter()
            .filter(|commit| {
                data.wal
                    .get(commit.index)
                    .is_none_or(|record| record.id != commit.id)
            })
            .map(|commit| commit.id)
            .collect();
        if !lost.is_empty() {
            let name = self.name(member);
            self.judge.blame(format!(
                "{name} was promoted without {} acknowledged commits: records {lost:?}",
                lost.len()
            ));
        }
    }

    /// A pool lets its clients through to a server: one that accepts writes, of a leadership that
    /// was there after the hold began.
    pub(crate) fn judge_rewired(&mut self, pooler: usize, server: usize, held: u64) {
        // One that stood still may act on what was true before.
        if self.now < self.poolers[pooler].catches_up_at + 2_000 {
            return;
        }
        let begun = self.now.saturating_sub(held);
        // Whoever leads by promises may have lost the key meanwhile; it is deposed when another has
        // it.
        let led: Vec<(u64, usize)> = self
            .judge
            .leaderships
            .iter()
            .filter_map(|(at, leader)| Some((*at, (*leader)?)))
            .collect();
        let ends = led.iter().skip(1).map(|(at, _)| *at).chain([u64::MAX]);
        let current = led
            .iter()
            .zip(ends)
            .any(|((_, leader), end)| *leader == server && end >= begun);
        if !current {
            let name = self.name(server);
            self.judge.blame(format!("pooler {pooler} lets its clients through to {name}, which was deposed before they began to wait"));
        }
        let writes = self.hosts[server].postgres.server == Server::Primary
            || self.now < self.judge.wrote_at[server] + 2_000;
        if !writes {
            self.judge.blame(format!(
                "pooler {pooler} lets its clients through to {}, which accepts no writes",
                self.name(server)
            ));
        }
    }

    /// A server goes.
    pub(crate) fn judge_gone(&mut self, member: usize) {
        if self.hosts[member].postgres.server == Server::Primary {
            self.judge.wrote_at[member] = self.now;
        }
    }

    /// `/sync` and the names in force must never permit an election that could miss a commit.
    pub(crate) fn judge_keys(&mut self) {
        let leader = self.etcd.keys().cluster.leader.as_ref();
        let held = leader.map(|leader| (leader.created, leader.member.clone()));
        if held.is_some() && self.judge.held.is_some() && held != self.judge.held {
            self.judge
                .blame("the leader key was taken from whoever held it".to_owned());
        }
        self.judge.held = held;
        if let Some(Initialize::Done(system)) = self.etcd.keys().cluster.initialize {
            self.judge.system.get_or_insert(system);
        }
        let leadership = self
            .etcd
            .keys()
            .cluster
            .leader
            .as_ref()
            .and_then(|leader| self.number_of(&leader.member));
        if self
            .judge
            .leaderships
            .last()
            .is_some_and(|(_, last)| *last != leadership)
        {
            self.judge.leaderships.push((self.now, leadership));
        }
        if !self.judge.durable {
            return;
        }
        let cluster = &self.etcd.keys().cluster;
        let (Some(leader), Some((_, stored))) = (&cluster.leader, &cluster.sync) else {
            return;
        };
        if self.judge.is_old(leader) {
            return;
        }
        let Some(number) = self.number_of(&leader.member) else {
            return;
        };
        let postgres = &self.hosts[number].postgres;
        if postgres.server == Server::Primary
            && stored.leader == leader.member
            && !sync::is_safe(stored, &postgres.names)
        {
            let (stored, names) = (format!("{stored:?}"), postgres.names.to_string());
            self.judge.blame(format!(
                "/sync {stored} permits elections that miss what \"{names}\" acknowledges"
            ));
        }
    }

    /// The leader key is released only when nothing of that server runs.
    pub(crate) fn judge_release(&mut self, by: usize, before: &Keys) {
        let Some(leader) = &before.cluster.leader else {
            return;
        };
        if self.etcd.keys().cluster.leader.is_some() || self.judge.is_old(leader) {
            return;
        }
        let server = |member: usize| self.hosts[member].postgres.server;
        let runs = self
            .number_of(&leader.member)
            .is_some_and(|member| matches!(server(member), Server::Primary | Server::Stopping));
        if runs {
            let (name, by) = (&leader.member, self.name(by));
            self.judge.blame(format!(
                "{by} released the leader key while the postgres of {name} runs"
            ));
        }
    }

    /// Whoever votes has stopped its receiver, and has what it says.
    pub(crate) fn judge_vote(&mut self, member: usize, position: Position) {
        let postgres = &self.hosts[member].postgres;
        let name = self.name(member);
        if postgres.receiver.is_some() {
            self.judge
                .blame(format!("{name} votes while its WAL receiver runs"));
        }
        let has = postgres.data.as_ref().map(|data| lsn(data.flushed));
        if has.is_some_and(|has| has != position.flushed) && postgres.runs() {
            self.judge.blame(format!(
                "{name} votes with {}, and has {}",
                position.flushed,
                has.expect("just seen")
            ));
        }
    }
}
