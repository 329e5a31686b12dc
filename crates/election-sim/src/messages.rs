//! What arrives at an end of the network.

use crate::event::Message;
use crate::votes::Asker;
use crate::world::World;
use mrg_pool_core::Event;

impl World {
    pub(crate) fn arrives(&mut self, from: usize, to: usize, message: Message) {
        let here = to < self.hosts.len();
        if here && !self.hosts[to].up {
            return;
        }
        match message {
            Message::Vote { from, agent, step } => {
                self.vote_asked(to, Asker::Vote { from, agent, step });
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
            Message::Probe { .. }
            | Message::Found { .. }
            | Message::Vouch { .. }
            | Message::Vouched { .. }
            | Message::Closed { .. } => self.arrives_of_pooler(to, message),
            Message::Write { transaction, from } => self.write_arrives(to, from, transaction),
            Message::Written { transaction, done } => self.transaction_ends(transaction, done),
        }
    }

    /// What poolers ask servers and agents, and are answered.
    fn arrives_of_pooler(&mut self, to: usize, message: Message) {
        let pooler = |world: &Self, pooler: usize, number: u32| {
            world.poolers[pooler].up && world.poolers[pooler].number == number
        };
        match message {
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
            _ => {}
        }
    }
}
