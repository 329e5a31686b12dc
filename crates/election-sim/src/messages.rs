//! What arrives at an end of the network, and what poolers ask servers.

use crate::event::{Message, SimulationEvent};
use crate::postgres::Server;
use crate::server::end_of;
use crate::world::World;
use mrg_base::{Millis, Timeline};
use mrg_election::{Postgres, Revision};
use mrg_pool_core::{Event, Finding};

impl World {
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
                timeline: Timeline(data.newest_timeline()),
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
            matches!(agent.postgres, Postgres::Primary(_)) && agent.node.view(now).may_write()
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
