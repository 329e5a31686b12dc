//! Clients and their transactions, through a pooler or to a server itself.

use crate::event::{Message, SimulationEvent};
use crate::pooler::member_at;
use crate::world::World;
use mrg_pool_core::{Admission, Event};

/// A client gives a transaction up after so long.
const PATIENCE: u64 = 8_000;

/// A client's transaction: one write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Transaction {
    /// The end of the network where its answer is awaited.
    pub end: usize,
    pub client: usize,
    pub pooler: Option<usize>,
}

impl World {
    pub(crate) fn think(&mut self, client: usize) {
        self.transactions += 1;
        let transaction = self.transactions;
        let poolers = self.poolers.len();
        // The last client knows nothing of pools: it writes to whoever lets it.
        let pooler = if poolers > 0 && client < 2 {
            Some(client % poolers)
        } else {
            None
        };
        let target = self.random.index(self.hosts.len());
        let end = pooler.map_or(target, |pooler| self.pooler_end(pooler));
        self.open.insert(
            transaction,
            Transaction {
                end,
                client,
                pooler,
            },
        );
        self.later(PATIENCE, SimulationEvent::Forget { transaction });
        match pooler {
            None => self.send(
                end,
                target,
                Message::Write {
                    transaction,
                    from: end,
                },
            ),
            Some(pooler) => {
                let state = &mut self.poolers[pooler];
                match state.applied.admission {
                    _ if !state.up => self.transaction_ends(transaction, false),
                    Admission::Paused => state.waiting.push(transaction),
                    Admission::Open => self.route(pooler, transaction),
                    Admission::Rejecting => self.transaction_ends(transaction, false),
                }
            }
        }
    }

    /// Sends a transaction to where the pool is.
    pub(crate) fn route(&mut self, pooler: usize, transaction: u64) {
        let Some(to) = self.poolers[pooler]
            .applied
            .addresses
            .first()
            .and_then(member_at)
        else {
            return;
        };
        let end = self.pooler_end(pooler);
        self.poolers[pooler].active.insert(transaction, to);
        self.send(
            end,
            to,
            Message::Write {
                transaction,
                from: end,
            },
        );
    }

    /// A transaction ended, well or not: its client thinks, and writes again.
    pub(crate) fn transaction_ends(&mut self, transaction: u64, done: bool) {
        let Some(Transaction { client, pooler, .. }) = self.open.remove(&transaction) else {
            return;
        };
        if done {
            self.judge.acknowledged += 1;
            self.judge.last_acknowledged[client] = self.now;
        }
        if let Some(pooler) = pooler {
            let state = &mut self.poolers[pooler];
            state.waiting.retain(|waiting| *waiting != transaction);
            if state.active.remove(&transaction).is_some() && state.up {
                self.pooler_feed(pooler, Event::Tick);
            }
        }
        let think = if self.now < self.busy_until {
            self.schedule.think
        } else {
            5 * self.schedule.think
        };
        let wait = self.random.between(think / 2, think * 2);
        self.later(wait, SimulationEvent::Think { client });
    }

    /// A server is gone: its clients' connections close.
    pub(crate) fn connections_close(&mut self, server: (usize, u32)) {
        for pooler in 0..self.poolers.len() {
            let end = self.pooler_end(pooler);
            if !self.poolers[pooler].up || self.cut[server.0][end] > 0 {
                continue;
            }
            let number = self.poolers[pooler].number;
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
        let direct: Vec<u64> = self
            .open
            .iter()
            .filter(|(_, open)| open.pooler.is_none() && open.end == server.0)
            .map(|(transaction, _)| *transaction)
            .collect();
        for transaction in direct {
            self.transaction_ends(transaction, false);
        }
    }

    /// A pooler hears of it.
    pub(crate) fn server_closed(&mut self, pooler: usize, server: (usize, u32)) {
        let broken: Vec<u64> = self.poolers[pooler]
            .active
            .iter()
            .filter(|(_, to)| **to == server.0)
            .map(|(transaction, _)| *transaction)
            .collect();
        for transaction in broken {
            self.transaction_ends(transaction, false);
        }
        let heartbeat = self.poolers[pooler].heartbeat;
        if let Some((_, _, key)) =
            heartbeat.filter(|(member, incarnation, _)| (*member, *incarnation) == server)
        {
            self.poolers[pooler].heartbeat = None;
            self.pooler_feed(pooler, Event::Disconnected { key });
        }
    }
}
