//! Performs what the publisher says, against the model.

use crate::agent::Call;
use crate::etcd::Transaction;
use crate::event::Ask;
use crate::postgres::Server;
use crate::world::World;
use mrg_base::{Lsn, MemberName, Moment};
use mrg_election::publisher::{ConfigKey, MemberRecord, Observed, PublisherEffect, PublisherEvent};
use mrg_election::{Initialize, LeaseId, Member, Postgres};

/// A member key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record(pub Member);

impl MemberRecord for Record {
    fn is_urgent(&self, published: &Self) -> bool {
        (self.0.running, self.0.primary) != (published.0.running, published.0.primary)
    }
}

fn record(lease: LeaseId, postgres: &Postgres) -> Record {
    let (running, primary, position) = match postgres {
        Postgres::Primary(primary) => (true, true, Some(primary.position)),
        Postgres::Standby(standby) => (true, false, standby.position),
        _ => (false, false, None),
    };
    Record(Member {
        lease,
        running,
        primary,
        position,
        may_lead: true,
        may_sync: true,
    })
}

fn flushed(postgres: &Postgres) -> Lsn {
    match postgres {
        Postgres::Primary(primary) => primary.position.flushed,
        _ => Lsn(0),
    }
}

impl World {
    /// What every change of an agent's state may lead to.
    pub(crate) fn publish(&mut self, member: usize) {
        let now = self.clock(member);
        self.begin_promise_record(member, now);
        self.record_system(member);
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
            member: record(lease.unwrap_or(LeaseId(0)), &agent.postgres),
            member_key: seen.cluster.members.get(&name).map(|key| key.lease),
            status: flushed(&agent.postgres),
            config: match (seen.settings, agent.known_settings) {
                (Some(_), _) => ConfigKey::Present,
                (None, known) => ConfigKey::Missing {
                    remembered: known.is_some(),
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
    pub(crate) fn published(&mut self, member: usize, event: PublisherEvent<'_, Record, Lsn>) {
        let now = self.clock(member);
        for effect in self.agent(member).publisher.on(now, event) {
            self.write(member, effect);
        }
    }

    fn write(&mut self, member: usize, effect: PublisherEffect<Record, Lsn>) {
        let agent = self.agent(member);
        let own = agent.node.lease().map_or(LeaseId(0), |lease| lease.id);
        let (number, within) = (agent.number, agent.settings.failover.retry_timeout.0);
        let settings = agent.known_settings.unwrap_or(agent.settings);
        let (call, lease, transaction) = match effect {
            PublisherEffect::WriteMember {
                lease,
                former,
                record,
            } => (
                Call::Member,
                lease,
                Transaction::ClaimMember(record.0, former),
            ),
            PublisherEffect::RestoreConfig => {
                (Call::Config, own, Transaction::RestoreConfig(settings))
            }
            PublisherEffect::WriteStatus(optime) => {
                (Call::Status, own, Transaction::PutStatus(optime))
            }
            PublisherEffect::WriteHistory {
                lease,
                timeline,
                known,
            } => (
                Call::History,
                lease,
                Transaction::PutHistory(timeline, known),
            ),
            PublisherEffect::KeepSlots { dropped, .. } => {
                for name in dropped {
                    self.judge_dropped_slot(member, &name);
                }
                let kept = self.hosts[member].postgres.runs();
                return self.published(member, PublisherEvent::SlotsKept(kept));
            }
        };
        let number = self.ask_etcd(member, number, within, Ask::Transact(lease, transaction));
        self.agent(member).calls.insert(number, call);
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
