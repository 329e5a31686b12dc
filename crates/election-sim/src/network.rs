//! The network, and the way to etcd and back.

use crate::event::{Answer, Ask, Message, SimulationEvent};
use crate::world::World;
use mrg_election::LeaseId;

/// So many of a thousand requests to etcd that a cut holds up are sent again in time.
const RESENT: u64 = 400;

impl World {
    /// Whether a message gets from one end to the other, and after how long.
    pub(crate) fn way(&mut self, from: usize, to: usize) -> Option<u64> {
        if from == to {
            return Some(0);
        }
        if self.cut[from][to] > 0
            || self.random.chance(if self.healed {
                0
            } else {
                self.schedule.delays.lost
            })
        {
            return None;
        }
        let (usual, most) = self.schedule.delays.network;
        let slow = if self.now < self.slow_until {
            self.random.between(20, 600)
        } else {
            0
        };
        Some(
            self.random
                .skewed(usual, if self.healed { usual } else { most })
                + slow,
        )
    }

    /// The same over a connection that stands: nothing is lost, unless the way is cut.
    pub(crate) fn steady_way(&mut self, from: usize, to: usize) -> Option<u64> {
        let lost = std::mem::take(&mut self.schedule.delays.lost);
        let way = self.way(from, to);
        self.schedule.delays.lost = lost;
        way
    }

    /// Sends a message, which may get lost.
    pub(crate) fn send(&mut self, from: usize, to: usize, message: Message) {
        if let Some(wait) = self.way(from, to) {
            self.later(
                wait,
                SimulationEvent::Arrives {
                    from,
                    to,
                    message: Box::new(message),
                },
            );
        }
    }

    /// Asks etcd; the answer, or that there is none in time, comes back under the same number.
    pub(crate) fn ask_etcd(&mut self, from: usize, number: u32, within: u64, ask: Ask) -> u64 {
        let call = self.call();
        let etcd = self.etcd_end();
        let sent = self.way(from, etcd).map(|wait| (wait, false)).or_else(|| {
            // TCP sends it again, until it gets there or whoever asked gives up: it may be done
            // long after the answer is waited for.
            let again = self.cut[from][etcd] > 0 && self.random.chance(RESENT);
            again.then(|| (self.random.between(200, within.max(201)), true))
        });
        if let Some((wait, resent)) = sent {
            self.later(
                wait,
                SimulationEvent::Request {
                    from,
                    number,
                    call,
                    ask: Box::new(ask),
                    resent,
                },
            );
        }
        self.later(
            within,
            SimulationEvent::Overdue {
                who: from,
                number,
                call,
            },
        );
        call
    }

    pub(crate) fn asked_of_etcd(
        &mut self,
        from: usize,
        number: u32,
        call: u64,
        ask: Ask,
        resent: bool,
    ) {
        // What is sent again does not get there while the way is cut either.
        let lost = resent && self.cut[from][self.etcd_end()] > 0;
        if lost || !self.etcd.answers(self.now) {
            return;
        }
        self.etcd_time_passes();
        let answer = match ask {
            Ask::Grant(ttl) => {
                let length = self.etcd_time(ttl.0);
                let id = self.etcd.grant(length);
                self.later(length, SimulationEvent::Expire { lease: id });
                Answer::Granted(id, ttl)
            }
            Ask::Keep(id) => {
                let kept = self.etcd.keep(id);
                Answer::Kept(kept, self.etcd.keys().cluster.revision)
            }
            Ask::Revoke(id) => {
                self.etcd.revoke(id);
                self.etcd_changed();
                Answer::Revoked
            }
            Ask::Read => Answer::Keys(self.etcd.keys().clone()),
            Ask::Transact(transaction) => {
                let before = self.etcd.keys().clone();
                let done = self.etcd.transact(&transaction);
                self.judge_release(from, &before);
                self.etcd_changed();
                Answer::Transacted(done, self.etcd.keys().stamp())
            }
        };
        let etcd = self.etcd_end();
        if let Some(wait) = self.way(etcd, from) {
            self.later(
                wait,
                SimulationEvent::Reply {
                    to: from,
                    number,
                    call,
                    answer,
                },
            );
        }
    }

    /// A lease may end now, unless it was kept.
    pub(crate) fn expire(&mut self, lease: LeaseId) {
        self.etcd_time_passes();
        if let Some(ends) = self.etcd.lease_ends(lease) {
            let next = ends.max(self.etcd.silent_until());
            self.at(next.max(self.now + 1), SimulationEvent::Expire { lease });
        }
    }

    /// The clock of etcd goes on.
    pub(crate) fn etcd_time_passes(&mut self) {
        for lease in self.etcd.advance(self.now) {
            self.tell(|_| format!("etcd: lease {} ends", lease.0));
        }
        self.etcd_changed();
    }

    /// If a key changed, everybody who watches hears of it, in order, each in his own time.
    pub(crate) fn etcd_changed(&mut self) {
        let revision = self.etcd.keys().cluster.revision;
        if std::mem::replace(&mut self.etcd_told, revision) == revision {
            return;
        }
        self.judge_keys();
        let keys = self.etcd.keys().clone();
        let etcd = self.etcd_end();
        for end in 0..self.news_at.len() {
            let watcher = if end < self.hosts.len() {
                self.hosts[end]
                    .agent
                    .as_ref()
                    .filter(|agent| agent.watch.open)
                    .map(|agent| agent.number)
            } else if end > etcd {
                let pooler = &self.poolers[end - etcd - 1];
                (pooler.up && pooler.watch.open).then_some(pooler.number)
            } else {
                None
            };
            let Some(number) = watcher else { continue };
            let Some(wait) = self.steady_way(etcd, end) else {
                continue;
            };
            let late = if end < self.hosts.len() {
                self.hosts[end].watch_lags_until
            } else {
                0
            };
            let at = (self.now + wait).max(late).max(self.news_at[end]);
            self.news_at[end] = at;
            self.at(
                at,
                SimulationEvent::News {
                    to: end,
                    number,
                    keys: keys.clone(),
                },
            );
        }
    }
}
