//! What goes wrong, and how it is mended.

use crate::etcd::config;
use crate::event::SimulationEvent;
use crate::postgres::Data;
use crate::random::Random;
use crate::schedule::{Fault, settings};
use crate::server::CONNECTION_TIMEOUT;
use crate::world::{Host, World};
use mrg_base::MemberName;
use mrg_dcs::wire::FailoverData;
use mrg_dcs::{DynamicConfig, Key, Transaction, Value, Write};
use mrg_election::sync::Stored;
use mrg_election::{Mode, Postgres};

/// The cluster is left whole for so long at most before the next fault.
const WHOLE_FOR: u64 = 1_200;
/// Clients are busy for so long after a fault, and look now and then otherwise.
const BUSY: u64 = 4_000;
/// Whoever is on call looks so often.
const HELP_EVERY: u64 = 1_000;
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
            Fault::PauseHost(member, wait) => {
                self.hosts[member].frozen_until =
                    self.hosts[member].frozen_until.max(self.now + wait);
                let until = self.hosts[member].frozen_until;
                self.at(until, SimulationEvent::Thaw { member });
            }
            Fault::Stop(member, wait) => self.ask_to_stop(member, wait),
            Fault::Cut(from, to, wait) => {
                self.cut_way(from, to);
                self.later(wait, SimulationEvent::Undo { fault });
            }
            Fault::Isolate(member, wait) => {
                for other in (0..self.cut.len()).filter(|other| *other != member) {
                    self.cut_way(member, other);
                    self.cut_way(other, member);
                }
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
                self.hosts[member].postgres.disk_full = true;
                if self.random.chance(500) {
                    // WAL cannot be written: PANIC.
                    self.kill_server(member);
                }
                self.later(wait, SimulationEvent::Undo { fault });
            }
            Fault::LoseData(member) => {
                self.lose_data(member);
            }
            Fault::ForeignData(member) => {
                if self.lose_data(member) {
                    let foreign = Data {
                        unfinished: false,
                        ..Data::new(FOREIGN)
                    };
                    self.hosts[member].postgres.data = Some(foreign);
                }
            }
            Fault::Switchover(candidate) => self.request_switchover(candidate),
            Fault::Restart(member) => {
                if let Some(agent) = &self.hosts[member].agent {
                    let number = agent.number;
                    self.later(
                        0,
                        SimulationEvent::Agent {
                            member,
                            agent: number,
                            event: Box::new(mrg_election::Event::RestartRequested),
                        },
                    );
                }
            }
            Fault::Reconfigure(how) => self.reconfigure(how),
            Fault::PauseCluster(wait) => {
                self.set_paused(true);
                self.later(wait, SimulationEvent::Undo { fault });
            }
            Fault::DeleteLeader => self.delete_keys([Key::Leader]),
            Fault::DeleteInitialize => self.delete_keys([Key::Initialize]),
            Fault::DeleteFailsafe => self.delete_keys([Key::Failsafe]),
            Fault::DeleteSync => self.delete_keys([Key::Sync]),
            Fault::DeleteConfig => self.delete_keys([Key::Config]),
            Fault::DeleteEverything => self.delete_everything(),
            Fault::KillPooler(pooler, wait) => {
                self.stop_pooler(pooler);
                self.later(wait, SimulationEvent::StartPooler { pooler });
            }
            Fault::PausePooler(pooler, wait) => {
                let until = self.now + wait;
                let pooler = &mut self.poolers[pooler];
                (pooler.paused_until, pooler.catches_up_at) =
                    (until, pooler.catches_up_at.max(until));
            }
        }
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
                SimulationEvent::ConnectionTimeout { from, to },
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
        true
    }

    fn reconfigure(&mut self, how: u64) {
        let mut random = Random::new(how);
        let mut new = settings(&mut random);
        let Some(old) = self.etcd.keys().settings else {
            return;
        };
        new.paused = old.paused;
        new.replication.count = new.replication.count.min(self.hosts.len() - 1);
        // Whoever turns synchronous replication off accepts loss; that is not what is looked for
        // here.
        if old.replication.mode == Mode::Async || new.replication.mode == Mode::Async {
            new.replication.mode = old.replication.mode;
        }
        let expected = self
            .hosts
            .iter()
            .map(|host| host.name.clone())
            .filter(|_| random.chance(700))
            .collect();
        let expected = random.chance(500).then_some(expected);
        self.write_config(&config(&new, expected.as_ref()));
    }

    fn set_paused(&mut self, paused: bool) {
        let keys = self.etcd.keys();
        // Without the key there is nothing to change.
        let Some((_, config)) = keys.config() else {
            return;
        };
        if keys
            .settings
            .is_some_and(|settings| settings.paused != paused)
        {
            let patch = DynamicConfig::parse(format!(r#"{{"pause":{paused}}}"#).as_bytes());
            let mut config = config.clone();
            config.patch(&patch.expect("a JSON object").0);
            self.write_config(&config);
        }
    }

    /// Somebody writes the configuration over the one that is there.
    fn write_config(&mut self, config: &DynamicConfig) {
        let over = self.etcd.keys().config().map(|(revision, _)| revision);
        let written = self
            .etcd
            .transact(&Transaction::write_config(over, config.clone()));
        assert!(written.is_ok_and(|written| written.is_some()));
        self.etcd_changed();
    }

    fn request_switchover(&mut self, candidate: Option<usize>) {
        let candidate = candidate.map(|member| self.name(member));
        let leader = self.etcd.keys().cluster.leader.as_ref();
        let leader = leader.map(|leader| leader.member.clone());
        let Some(leader) = leader.filter(|leader| Some(leader) != candidate.as_ref()) else {
            return;
        };
        let request = FailoverData {
            leader: Some(leader.to_string()),
            member: candidate.map(|name| name.to_string()),
            scheduled_at: None,
        };
        let written = self.etcd.transact(&Transaction::request_failover(request));
        assert!(written.is_ok_and(|written| written.is_some()));
        self.etcd_changed();
    }

    fn delete_keys(&mut self, keys: impl IntoIterator<Item = Key>) {
        // An etcd that has no leader does not do it for anybody.
        if self.etcd.answers(self.now) {
            self.etcd.delete(keys);
            self.etcd_changed();
        }
    }

    /// Every key of a cluster goes. Not in Async mode, where nothing but `history` tells of a
    /// timeline that a dead member began; and not while a member without data would have nothing
    /// left that tells it of the cluster, neither keys nor its own memory.
    fn delete_everything(&mut self) {
        let blank = |host: &Host| {
            let knows = host
                .agent
                .as_ref()
                .is_some_and(|agent| agent.node.view(mrg_base::Moment(0)).memory.knows_cluster);
            host.has_nothing() && !knows || host.may_pass_for_another()
        };
        if self.schedule.settings.replication.mode == Mode::Async || self.hosts.iter().any(blank) {
            return;
        }
        let members = self.hosts.iter().map(|host| Key::Member(host.name.clone()));
        let single = [
            Key::Leader,
            Key::Initialize,
            Key::Config,
            Key::Sync,
            Key::Failover,
            Key::Failsafe,
            Key::History,
            Key::Status,
        ];
        let keys: Vec<Key> = single.into_iter().chain(members).collect();
        self.delete_keys(keys);
    }

    /// Whether the keys say nothing of a cluster that there is.
    pub(crate) fn is_forgotten(&self) -> bool {
        let cluster = &self.etcd.keys().cluster;
        self.judge.system.is_some()
            && cluster.initialize.is_none()
            && !mrg_election::has_traces(cluster)
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
        self.healed = true;
        self.judge.healed_at = Some(self.now);
        self.help();
    }

    /// The person on call does what docs/ha.md says, and nothing else: ends a pause, moves away the
    /// data of another cluster, and chooses a leader where `/sync` was deleted and nobody leads.
    pub(crate) fn help(&mut self) {
        self.later(HELP_EVERY, SimulationEvent::Help);
        self.set_paused(false);
        for host in self.hosts.iter_mut().filter(|host| !host.postgres.runs()) {
            host.postgres.data.take_if(|data| data.system == FOREIGN);
        }
        let cluster = &self.etcd.keys().cluster;
        let nameless = self.judge.system.is_some()
            && cluster.leader.is_none()
            && cluster.initialize.is_none()
            && !self.is_forgotten();
        let ours = |host: &Host| {
            host.postgres
                .data
                .as_ref()
                .map(|data| data.system)
                .filter(|system| *system != FOREIGN)
        };
        if let Some(system_id) = self.hosts.iter().find_map(ours).filter(|_| nameless) {
            self.tell(|_| format!("*** somebody writes /initialize: {system_id}"));
            self.etcd
                .write(&[Write::Put(Value::SystemId(system_id), None)]);
            self.etcd_changed();
        }
        let keys = self.etcd.keys();
        let stuck = keys.cluster.leader.is_none()
            && keys.cluster.sync.is_none()
            && keys
                .settings
                .unwrap_or(self.schedule.settings)
                .is_synchronous();
        if let Some(leader) = self.most_advanced().filter(|_| stuck) {
            self.tell(|_| format!("*** somebody writes /sync for {leader}"));
            let listed = &self.etcd.keys().cluster.failsafe;
            let unlisted = listed
                .as_ref()
                .is_some_and(|listed| !listed.members.contains(&leader));
            let mut writes = vec![Write::Put(Value::Sync(Stored::only(leader)), None)];
            if unlisted {
                // Every member is there, and none is a primary: nobody leads by promises.
                writes.push(Write::Delete(Key::Failsafe));
            }
            self.etcd.write(&writes);
            self.etcd_changed();
        }
    }

    /// Whoever is furthest, as the members' list shows it, once every member that has data is
    /// there.
    fn most_advanced(&self) -> Option<MemberName> {
        let positions = (0..self.hosts.len()).filter_map(|member| match self.look(member) {
            Postgres::NoData => None,
            Postgres::Standby(standby) => Some(
                standby
                    .position
                    .map(|position| (position, std::cmp::Reverse(self.name(member)))),
            ),
            _ => Some(None),
        });
        let positions: Vec<_> = positions.collect::<Option<_>>()?;
        positions
            .into_iter()
            .max()
            .map(|(_, std::cmp::Reverse(name))| name)
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
