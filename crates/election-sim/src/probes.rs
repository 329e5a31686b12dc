//! What poolers ask servers and agents before they let clients through.

use crate::event::{Message, SimulationEvent};
use crate::pooler::member_at;
use crate::postgres::Server;
use crate::server::end_of;
use crate::world::World;
use mrg_base::{Millis, Timeline};
use mrg_election::{Postgres, Revision};
use mrg_pool_core::{Event, Finding, Leader};

/// How long one probe waits for a server to leave recovery.
const PROBE_PATIENCE: u64 = 500;

impl World {
    pub(crate) fn pooler_probes(&mut self, pooler: usize, probe: u64, leader: &Leader) {
        let Some(to) = member_at(&leader.address) else {
            return;
        };
        let (number, end) = (self.poolers[pooler].number, self.pooler_end(pooler));
        let until = self.now + PROBE_PATIENCE;
        self.poolers[pooler].probing = Some((probe, leader.key));
        let question = Message::Probe {
            pooler,
            number,
            probe,
            until,
        };
        self.send(end, to, question);
        let silent = Message::Found {
            pooler,
            number,
            probe,
            finding: Finding::Unreachable,
            server: (to, 0),
        };
        self.later(
            PROBE_PATIENCE + 300,
            SimulationEvent::Arrives {
                from: to,
                to: end,
                message: Box::new(silent),
            },
        );
    }

    pub(crate) fn probed(&mut self, to: usize, message: Message) {
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

    pub(crate) fn found(
        &mut self,
        pooler: usize,
        probe: u64,
        finding: Finding,
        server: (usize, u32),
    ) {
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

    /// The agent's word on whether it leads.
    pub(crate) fn vouch(&mut self, member: usize, pooler: usize, number: u32, key: Revision) {
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
