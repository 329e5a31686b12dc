//! What people do to the keys: they ask for things, delete what they should not, and help.

use crate::etcd::config;
use crate::event::SimulationEvent;
use crate::faults::FOREIGN;
use crate::postgres::Server;
use crate::random::Random;
use crate::schedule::settings;
use crate::world::{Host, World};
use mrg_base::{MemberName, Moment};
use mrg_dcs::wire::FailoverData;
use mrg_dcs::{DynamicConfig, Key, Transaction, Value, Write};
use mrg_election::sync::Stored;
use mrg_election::{Event, Mode, Postgres, Reason};

/// Whoever is on call looks so often.
const HELP_EVERY: u64 = 1_000;

impl World {
    pub(crate) fn reconfigure(&mut self, how: u64) {
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

    pub(crate) fn set_paused(&mut self, paused: bool) {
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

    pub(crate) fn request_switchover(&mut self, candidate: Option<usize>) {
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

    /// Somebody asks something of a member's agent, if it runs.
    pub(crate) fn request(&mut self, member: usize, event: Event) {
        if let Some(agent) = &self.hosts[member].agent {
            let number = agent.number;
            self.agent_event(member, number, 0, event);
        }
    }

    pub(crate) fn delete_keys(&mut self, keys: impl IntoIterator<Item = Key>) {
        // An etcd that has no leader does not do it for anybody.
        if self.etcd.answers(self.now) {
            self.etcd.delete(keys);
            self.etcd_changed();
        }
    }

    /// Not while a member leads without the leader key: a person deletes it only after looking for one.
    pub(crate) fn delete_failsafe(&mut self) {
        let leader = self.etcd.keys().cluster.leader.as_ref();
        let unseen = self.hosts.iter().any(|host| {
            host.postgres.server == Server::Primary
                && leader.is_none_or(|key| key.member != host.name)
        });
        if !unseen {
            self.delete_keys([Key::Failsafe]);
        }
    }

    /// Every key of a cluster goes. Not in Async mode, where nothing but `history` tells of a
    /// timeline that a dead member began; and not while a member without data would have nothing
    /// left that tells it of the cluster, neither keys nor its own memory.
    pub(crate) fn delete_everything(&mut self) {
        if self.schedule.settings.replication.mode == Mode::Async || self.has_blank_member() {
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

    /// Whether a member has nothing but the keys that tells it of the cluster.
    pub(crate) fn has_blank_member(&self) -> bool {
        let blank = |host: &Host| {
            let knows = host
                .agent
                .as_ref()
                .is_some_and(|agent| agent.node.view(Moment(0)).memory.knows_cluster);
            host.has_nothing() && !knows || host.may_pass_for_another()
        };
        self.hosts.iter().any(blank)
    }

    /// Whether the keys say nothing of a cluster that there is.
    pub(crate) fn is_forgotten(&self) -> bool {
        let cluster = &self.etcd.keys().cluster;
        self.judge.system.is_some()
            && cluster.initialize.is_none()
            && !mrg_election::has_traces(cluster)
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
        // What the members agree on, whatever one of them has that took part in nothing.
        let known = self.judge.system.filter(|known| {
            let has = |host: &Host| ours(host) == Some(*known);
            self.hosts.iter().any(has)
        });
        let agreed = known.or_else(|| self.hosts.iter().find_map(ours));
        if let Some(system_id) = agreed.filter(|_| nameless) {
            self.tell(|_| format!("*** somebody writes /initialize: {system_id}"));
            self.etcd
                .write(&[Write::Put(Value::SystemId(system_id), None)]);
            self.etcd_changed();
        }
        let keys = self.etcd.keys();
        let doubted = |host: &Host| {
            host.agent
                .as_ref()
                .is_some_and(|agent| agent.node.reason() == Some(Reason::DcsReset))
        };
        let stuck = keys.cluster.leader.is_none()
            && (keys.cluster.sync.is_none() || self.hosts.iter().any(doubted))
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
}
