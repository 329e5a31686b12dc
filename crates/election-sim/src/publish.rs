//! Performs what the publisher says, against the model.

use crate::etcd::config;
use crate::event::Ask;
use crate::pooler::address;
use crate::postgres::Server;
use crate::watch::Call;
use crate::world::World;
use mrg_base::{MemberName, Moment};
use mrg_dcs::wire::{MemberData, StatusData};
use mrg_dcs::{Transaction, Writer};
use mrg_election::publisher::{ConfigKey, Observed, PublisherEffect, PublisherEvent};
use mrg_election::{Initialize, Postgres};

/// Where a member is reached, as its key says.
#[derive(Clone, Debug)]
pub(super) struct Urls {
    conn: String,
    /// The URL of its REST API.
    pub api: String,
}

impl Urls {
    pub(crate) fn of(member: usize) -> Self {
        Self {
            conn: format!("postgres://{}/postgres", address(member)),
            api: format!("http://{}:8008/patroni", address(member).host),
        }
    }

    fn record(&self, postgres: &Postgres, just_started: bool) -> MemberData {
        MemberData {
            just_started,
            conn_url: self.conn.clone(),
            api_url: self.api.clone(),
            ..MemberData::of(postgres)
        }
    }
}

impl World {
    /// What every change of an agent's state may lead to.
    pub(crate) fn publish(&mut self, member: usize) {
        let now = self.clock(member);
        self.begin_promise_record(member, now);
        self.record_system(member);
        self.record_dcs(member, now);
        let name = self.name(member);
        let agent = self.agent(member);
        let seen = agent.seen.clone();
        let lease = agent.node.lease().map(|lease| lease.id);
        let observed = Observed {
            cluster: &seen.cluster,
            reachable: agent.reachable,
            postgres: &agent.postgres,
            lease,
            former_lease: agent.node.former_lease(),
            holds_key: agent.node.view(now).holds_key(),
            member: {
                let just_started = agent.node.view(now).may_have_promised();
                agent.urls.record(&agent.postgres, just_started)
            },
            member_key: seen.snapshot.member_lease(&name),
            status: StatusData::of(&name, &agent.postgres),
            config: match seen.snapshot.config() {
                Some(_) => ConfigKey::Present,
                None => ConfigKey::Missing {
                    remembered: agent.config.remembered().is_some(),
                },
            },
            loop_wait: agent.settings.failover.loop_wait,
        };
        let event = PublisherEvent::Observed(Box::new(observed));
        for effect in agent.publisher.on(now, event) {
            self.write(member, effect);
        }
    }

    /// A write of the publisher has ended.
    pub(crate) fn published(
        &mut self,
        member: usize,
        event: PublisherEvent<'_, MemberData, StatusData>,
    ) {
        let now = self.clock(member);
        for effect in self.agent(member).publisher.on(now, event) {
            self.write(member, effect);
        }
    }

    fn write(&mut self, member: usize, effect: PublisherEffect<MemberData, StatusData>) {
        let name = self.name(member);
        let (call, transaction) = match effect {
            PublisherEffect::WriteMember {
                lease,
                former,
                record,
            } => (
                Call::Member,
                Transaction::publish_member(&name, record, lease, former),
            ),
            PublisherEffect::RestoreConfig => {
                let known = self.agent(member).config.remembered().cloned();
                let config = known.unwrap_or_else(|| config(&self.schedule.settings, None));
                (Call::Config, Transaction::create_config(config))
            }
            PublisherEffect::WriteStatus(data) => (Call::Status, Transaction::put_status(data)),
            PublisherEffect::WriteHistory {
                lease, timeline, ..
            } => {
                let data = self.hosts[member].postgres.data.as_ref();
                let file = data.map_or_else(String::new, |data| data.history_file(timeline));
                let written = self.with_writer(member, |writer| writer.history(lease, &file));
                let Some(transaction) = written else {
                    return self.published(member, PublisherEvent::HistoryWritten(true));
                };
                (Call::History, transaction)
            }
            PublisherEffect::KeepSlots { dropped, .. } => {
                for name in dropped {
                    self.judge_dropped_slot(member, &name);
                }
                let kept = self.hosts[member].postgres.runs();
                return self.published(member, PublisherEvent::SlotsKept(kept));
            }
        };
        self.ask_to_write(member, transaction, call);
    }

    /// What a member writes follows from what it knows now.
    pub(crate) fn with_writer<T>(&self, member: usize, write: impl FnOnce(&Writer) -> T) -> T {
        let host = &self.hosts[member];
        let agent = host.agent.as_ref().expect("an agent that runs");
        write(&Writer {
            me: &host.name,
            lease: agent.node.lease().map(|lease| lease.id),
            snapshot: &agent.seen.snapshot,
            config: agent.config.remembered(),
            postgres: &agent.postgres,
            time: &self.now.to_string(),
        })
    }

    /// Asks etcd for a transaction, within the time that the settings give.
    pub(crate) fn ask_to_write(&mut self, member: usize, transaction: Transaction, call: Call) {
        let agent = self.agent(member);
        let (number, within) = (agent.number, agent.settings.failover.retry_timeout.0);
        let asked = self.ask_etcd(member, number, within, Ask::Transact(transaction));
        self.agent(member).calls.insert(asked, call);
    }

    /// A member that streams needs its slot, whatever became of its key, unless it was removed from
    /// the cluster.
    fn judge_dropped_slot(&mut self, member: usize, owner: &MemberName) {
        let removed = !self.agent(member).seen.cluster.expects(owner);
        let Some(owner) = self.number_of(owner).filter(|_| !removed) else {
            return;
        };
        let receiver = self.hosts[owner].postgres.receiver;
        let streams = receiver.is_some_and(|receiver| receiver.upstream == member);
        if self.hosts[member].postgres.server == Server::Primary && streams {
            let (name, owner) = (self.name(member), self.name(owner));
            self.judge
                .blame(format!("{name} dropped the slot of {owner}, which streams"));
        }
    }

    /// The data is of the cluster that etcd tells of: the volume remembers.
    fn record_system(&mut self, member: usize) {
        let agent = self.agent(member);
        let initialize = agent.seen.cluster.initialize.filter(|_| agent.reachable);
        let host = &mut self.hosts[member];
        let data = host.postgres.data.as_mut();
        if let Some(data) = data.filter(|data| initialize == Some(Initialize::Done(data.system))) {
            data.unfinished = false;
            host.system_record = Some(data.system);
        }
    }

    /// How far etcd had come when it last changed who leads: the volume remembers.
    fn record_dcs(&mut self, member: usize, now: Moment) {
        let agent = self.agent(member);
        let cluster = &agent.seen.cluster;
        let doubted = agent.node.view(now).memory.reset.is_some();
        if !doubted && agent.reachable && cluster.leader.is_some() {
            self.hosts[member].dcs_record = Some(agent.known);
        }
    }

    fn begin_promise_record(&mut self, member: usize, now: Moment) {
        let agent = self.agent(member);
        if agent.promises_recorded || now.since(agent.started) < agent.settings.failover.ttl {
            return;
        }
        agent.promises_recorded = true;
        let host = &mut self.hosts[member];
        host.promise_record.get_or_insert((host.boot, None));
    }
}
