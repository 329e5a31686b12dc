//! What goes wrong, and how it is mended.

use crate::agent::Agent;
use crate::event::{PoolerEvent, ServerEvent, SimulationEvent};
use crate::postgres::Data;
use crate::schedule::Fault;
use crate::server::CONNECTION_TIMEOUT;
use crate::sick;
use crate::world::{Host, World};
use mrg_base::Moment;
use mrg_dcs::Key;
use mrg_election::{Event, Mode};

/// The cluster is left whole for so long at most before the next fault.
const WHOLE_FOR: u64 = 1_200;
/// Clients are busy for so long after a fault, and look now and then otherwise.
const BUSY: u64 = 4_000;
/// The system identifier of another cluster.
pub(super) const FOREIGN: u64 = 1_000_000;

impl World {
    /// The next fault, or the end of them, is to come after its time.
    pub(crate) fn expect_fault(&mut self, index: usize) {
        let wait = self
            .schedule
            .faults
            .get(index)
            .map_or(self.schedule.heal_after, |(wait, _)| *wait);
        self.plan_fault(index, self.now + wait);
    }

    fn plan_fault(&mut self, index: usize, at: u64) {
        self.plan += 1;
        self.fault_at = at;
        self.faults_done = index;
        self.at(
            at,
            SimulationEvent::Fault {
                index,
                plan: self.plan,
            },
        );
    }

    pub(crate) fn fault_due(&mut self, index: usize, plan: u32) {
        if plan != self.plan {
            return;
        }
        self.busy_until = self.now + BUSY;
        match self.schedule.faults.get(index) {
            Some((_, fault)) => {
                let fault = fault.at(self.leader_or_any());
                self.fault(fault);
                self.expect_fault(index + 1);
            }
            None => self.heal(),
        }
    }

    fn leader_or_any(&mut self) -> usize {
        let primary = self
            .hosts
            .iter()
            .position(|host| host.postgres.server == crate::postgres::Server::Primary);
        primary.unwrap_or_else(|| self.random.index(self.hosts.len()))
    }

    /// The cluster is whole: there is nothing to wait for.
    pub(crate) fn hasten_fault(&mut self) {
        let soon = self.now + self.random.between(0, WHOLE_FOR);
        if self.fault_at > soon {
            self.plan_fault(self.faults_done, soon);
        }
    }

    fn fault(&mut self, fault: Fault) {
        self.tell(|_| format!("*** {fault:?}"));
        match fault {
            Fault::KillPostmaster(member) => self.kill_server(member),
            Fault::KillAgent(member, wait) | Fault::KillContainer(member, wait) => {
                self.kill_agent(member, wait);
            }
            Fault::KillHost(member, wait) => self.kill_host(member, wait),
            Fault::PauseAgent(member, wait) => {
                self.hosts[member].agent_paused_until = self.now + wait;
            }
            Fault::PauseHost(member, wait) => self.pause_host(member, wait),
            Fault::Stop(member, wait) => self.ask_to_stop(member, wait),
            Fault::Cut(from, to, wait) => {
                self.cut_way(from, to);
                self.later(wait, SimulationEvent::Undo { fault });
            }
            Fault::Isolate(member, wait) => {
                self.isolate(member);
                self.later(wait, SimulationEvent::Undo { fault });
            }
            Fault::EtcdSilent(wait) => {
                self.etcd.fall_silent(self.now + wait);
                let until = self.etcd.silent_until();
                self.at(until, SimulationEvent::Undo { fault });
            }
            Fault::WatchLags(member, wait) => self.hosts[member].watch_lags_until = self.now + wait,
            Fault::NetworkSlow(wait) => self.slow_until = self.now + wait,
            Fault::DiskFull(member, wait) => {
                self.fill_disk(member);
                self.later(wait, SimulationEvent::Undo { fault });
            }
            Fault::Hang(member) => {
                let postgres = &mut self.hosts[member].postgres;
                postgres.hangs = postgres.server == crate::postgres::Server::Primary;
            }
            Fault::StartForever(member) => {
                self.hosts[member].postgres.starts_forever = true;
                self.kill_server(member);
            }
            Fault::LoseData(member) => {
                self.lose_data(member);
            }
            Fault::ForeignData(member) => self.put_foreign_data(member),
            Fault::Switchover(candidate) => self.request_switchover(candidate),
            Fault::Restart(member) => self.request(member, Event::RestartRequested),
            Fault::Reinitialize(member) => self.request(member, Event::ReinitializeRequested),
            Fault::Reconfigure(how) => self.reconfigure(how),
            Fault::PauseCluster(wait) => {
                self.set_paused(true);
                self.later(wait, SimulationEvent::Undo { fault });
            }
            Fault::DeleteLeader => self.delete_keys([Key::Leader]),
            Fault::DeleteInitialize => self.delete_keys([Key::Initialize]),
            Fault::DeleteFailsafe => self.delete_failsafe(),
            Fault::DeleteSync => self.delete_keys([Key::Sync]),
            Fault::DeleteConfig => self.delete_keys([Key::Config]),
            Fault::DeleteEverything => self.delete_everything(),
            Fault::BackUpEtcd => self.etcd.back_up(),
            Fault::RestoreEtcd => self.lose_etcd(true),
            Fault::LoseEtcd => self.lose_etcd(false),
            Fault::KillPooler(pooler, wait) => {
                self.stop_pooler(pooler);
                self.later(wait, PoolerEvent::Start { pooler });
            }
            Fault::PausePooler(pooler, wait) => self.pause_pooler(pooler, wait),
        }
    }

    /// etcd goes back to its backup, or to nothing. Not in Async mode, and not while a member would
    /// have nothing left that tells it of the cluster (see [`Self::delete_everything`]); nor where
    /// docs/ha.md says that no member can notice: while the last time is not settled, or to a backup
    /// that is newer than what some member knows.
    fn lose_etcd(&mut self, to_backup: bool) {
        let backup = self.etcd.backup_revision().filter(|_| to_backup);
        let unaware = |host: &Host| {
            let agent = host.agent.as_ref();
            let doubts = |agent: &Agent| agent.node.view(Moment(0)).memory.reset.is_some();
            let known = agent.map(|agent| agent.known).max(host.dcs_record);
            agent.is_some_and(doubts) || known <= backup
        };
        if self.hosts.iter().any(unaware) {
            return;
        }
        let asynchronous = self.schedule.settings.replication.mode == Mode::Async;
        if self.has_blank_member() || asynchronous {
            return;
        }
        self.etcd_time_passes();
        self.etcd.go_back(to_backup, self.now);
        self.judge.key_is_old(self.etcd.keys());
        self.etcd_told = self.etcd.keys().cluster.revision;
        for member in 0..self.hosts.len() {
            let Some(agent) = &mut self.hosts[member].agent else {
                continue;
            };
            agent.watch.open = false;
            let (number, reads) = (agent.number, agent.watch.reads);
            let again = SimulationEvent::Backstop {
                end: member,
                number,
                reads,
            };
            self.later(1, again);
        }
        for pooler in 0..self.poolers.len() {
            self.pooler_watch_breaks(pooler);
        }
    }

    fn pause_host(&mut self, member: usize, wait: u64) {
        let host = &mut self.hosts[member];
        host.frozen_until = host.frozen_until.max(self.now + wait);
        let until = host.frozen_until;
        self.at(until, SimulationEvent::Thaw { member });
    }

    fn isolate(&mut self, member: usize) {
        for other in (0..self.cut.len()).filter(|other| *other != member) {
            self.cut_way(member, other);
            self.cut_way(other, member);
        }
    }

    fn fill_disk(&mut self, member: usize) {
        self.hosts[member].postgres.disk_full = true;
        if self.random.chance(500) {
            // WAL cannot be written: PANIC.
            self.kill_server(member);
        }
    }

    fn put_foreign_data(&mut self, member: usize) {
        if self.lose_data(member) {
            let foreign = Data {
                unfinished: false,
                ..Data::new(FOREIGN)
            };
            self.hosts[member].postgres.data = Some(foreign);
        }
    }

    fn pause_pooler(&mut self, pooler: usize, wait: u64) {
        let until = self.now + wait;
        let pooler = &mut self.poolers[pooler];
        (pooler.paused_until, pooler.catches_up_at) = (until, pooler.catches_up_at.max(until));
    }

    pub(crate) fn undo(&mut self, fault: Fault) {
        if self.healed {
            return;
        }
        match fault {
            Fault::Cut(from, to, _) => self.mend_way(from, to),
            Fault::Isolate(member, _) => {
                for other in (0..self.cut.len()).filter(|other| *other != member) {
                    self.mend_way(member, other);
                    self.mend_way(other, member);
                }
            }
            Fault::EtcdSilent(_) => self.etcd_time_passes(),
            Fault::DiskFull(member, _) => self.hosts[member].postgres.disk_full = false,
            Fault::PauseCluster(_) => self.set_paused(false),
            _ => {}
        }
    }

    fn cut_way(&mut self, from: usize, to: usize) {
        if from == to {
            return;
        }
        self.cut[from][to] += 1;
        if from < self.hosts.len() && to < self.hosts.len() {
            self.later(
                CONNECTION_TIMEOUT,
                ServerEvent::ConnectionTimeout { from, to },
            );
        }
    }

    fn mend_way(&mut self, from: usize, to: usize) {
        if from != to {
            self.cut[from][to] = self.cut[from][to].saturating_sub(1);
        }
    }

    fn kill_agent(&mut self, member: usize, wait: u64) {
        if self.hosts[member].agent.take().is_none() {
            return;
        }
        // Its fence sees the pipe close, or is killed with it.
        self.kill_server(member);
        let boot = self.hosts[member].boot;
        self.later(wait, SimulationEvent::StartAgent { member, boot });
    }

    fn kill_host(&mut self, member: usize, wait: u64) {
        self.hosts[member].agent = None;
        self.hosts[member].up = false;
        self.hosts[member].boot += 1;
        self.hosts[member].frozen_until = 0;
        self.hosts[member].agent_paused_until = 0;
        self.lose_power(member);
        self.later(
            wait,
            SimulationEvent::Boot {
                member,
                boot: self.hosts[member].boot,
            },
        );
    }

    pub(crate) fn boot(&mut self, member: usize, boot: u32) {
        let host = &mut self.hosts[member];
        if host.up || host.boot != boot {
            return;
        }
        host.up = true;
        self.start_agent(member, boot);
    }

    /// One volume at a time: what was acknowledged must be on two others, or the loss is beyond
    /// what one standby can make good. So it is where the one that is lost is the only one, at that
    /// moment, that may lead: whoever was just elected, or may be.
    fn lose_data(&mut self, member: usize) -> bool {
        let safe = self.judge.survives_without(member, &self.hosts);
        let cluster = &self.etcd.keys().cluster;
        let me = &self.hosts[member].name;
        let leads = cluster
            .leader
            .as_ref()
            .is_some_and(|leader| leader.member == *me);
        let may_lead = match (&cluster.sync, &cluster.failsafe) {
            (Some((_, sync)), _) => {
                sync.leader == *me || (cluster.leader.is_none() && sync.voters.contains(me))
            }
            (None, Some(failsafe)) => cluster.leader.is_none() && failsafe.members.contains(me),
            (None, None) => cluster.leader.is_none(),
        };
        // In Async mode a timeline that was reserved, and may have been begun, is known only to
        // whoever reserved it.
        let reserved = cluster.sync.is_none() && cluster.timeline_of.as_ref() == Some(me);
        if !safe || leads || may_lead || reserved || self.is_forgotten() {
            return false;
        }
        self.kill_server(member);
        self.hosts[member].postgres.data = None;
        self.hosts[member].promise_record = None;
        self.hosts[member].system_record = None;
        self.hosts[member].dcs_record = None;
        true
    }

    /// Everything is mended. From here on the cluster must come back by itself.
    fn heal(&mut self) {
        self.tell(|_| "*** everything is mended".to_owned());
        for row in &mut self.cut {
            row.fill(0);
        }
        self.slow_until = 0;
        self.etcd.mend();
        self.etcd_time_passes();
        for member in 0..self.hosts.len() {
            let now = self.now;
            let host = &mut self.hosts[member];
            host.postgres.disk_full = false;
            host.watch_lags_until = 0;
            host.agent_paused_until = host.agent_paused_until.min(now);
            let boot = host.boot;
            if !host.up {
                self.later(100, SimulationEvent::Boot { member, boot });
            }
        }
        for pooler in 0..self.poolers.len() {
            self.poolers[pooler].paused_until = self.now;
            self.start_pooler(pooler);
        }
        self.later(sick::LET_GO_WITHIN, SimulationEvent::Cure);
        self.healed = true;
        self.judge.healed_at = Some(self.now);
        self.help();
    }

    /// A connection over a way that has been cut for long.
    pub(crate) fn connection_times_out(&mut self, from: usize, to: usize) {
        if self.cut[from][to] == 0 {
            return;
        }
        for (primary, standby) in [(from, to), (to, from)] {
            let Some(sender) = self.hosts[primary].postgres.senders.get(&standby) else {
                continue;
            };
            self.break_connection(primary, standby, sender.connection);
        }
    }
}
