//! What the servers do by themselves: start, stop, promote, stream, confirm commits.

use crate::event::ServerEvent;
use crate::postgres::{Data, Receiver, Sender, Server, lsn};
use crate::world::World;
use mrg_base::{Lsn, Position, Timeline};
use mrg_election::sync::Names;
use mrg_election::{Fork, Outcome, Postgres, Primary, Standby, StartAs, WalReceiver, WalSender};

/// A receiver that found nobody tries again.
pub(crate) const KNOCK_AGAIN: u64 = 250;
/// A connection whose other end is silent ends after so long (`wal_sender_timeout`,
/// `wal_receiver_timeout`).
pub(super) const CONNECTION_TIMEOUT: u64 = 6_000;

impl World {
    /// What a look at the local server shows.
    pub(crate) fn look(&self, member: usize) -> Postgres {
        let postgres = &self.hosts[member].postgres;
        let Some(data) = &postgres.data else {
            return Postgres::NoData;
        };
        match postgres.server {
            Server::Down if data.half_rewound => Postgres::NoData,
            Server::Down => Postgres::Stopped(data.control()),
            Server::Starting => Postgres::Starting,
            Server::Stopping => Postgres::Unknown,
            Server::Primary => {
                let sender = |(standby, sender): (&usize, &Sender)| {
                    (
                        self.hosts[*standby].name.clone(),
                        WalSender {
                            streaming: sender.streaming,
                            flushed: lsn(sender.flushed),
                        },
                    )
                };
                Postgres::Primary(Primary {
                    system_id: data.system,
                    position: data.position(),
                    names: Some(postgres.names.clone()),
                    senders: postgres.senders.iter().map(sender).collect(),
                })
            }
            Server::Standby { replayed } => {
                let receiver = match (postgres.upstream, postgres.receiver, postgres.broken_since) {
                    (None, ..) => WalReceiver::Stopped,
                    (Some(_), Some(_), _) => WalReceiver::Streaming,
                    (Some(_), None, since) => {
                        WalReceiver::Broken(since.unwrap_or_else(|| self.clock(member)))
                    }
                };
                let fork = data.heard.1.map(|at| Fork {
                    by: Timeline(data.heard.0),
                    at: lsn(at),
                });
                Postgres::Standby(Standby {
                    system_id: data.system,
                    position: replayed.then(|| data.position()),
                    upstream: postgres.upstream.map(|upstream| self.name(upstream)),
                    receiver,
                    fork,
                })
            }
        }
    }

    pub(crate) fn start_server(&mut self, member: usize, as_: &StartAs) {
        let primary = *as_ == StartAs::Primary;
        let upstream = match as_ {
            StartAs::Standby {
                upstream: Some(upstream),
            } => self.number_of(upstream),
            _ => None,
        };
        let armed = self.is_armed(member);
        let now = self.clock(member);
        let postgres = &mut self.hosts[member].postgres;
        let sound = postgres
            .data
            .as_ref()
            .is_some_and(|data| !data.half_rewound)
            && !postgres.disk_full;
        if postgres.runs() || !sound || primary && !armed {
            return;
        }
        postgres.incarnation += 1;
        postgres.server = Server::Starting;
        postgres.upstream = upstream;
        postgres.broken_since = Some(now);
        let incarnation = postgres.incarnation;
        let wait = self.takes(self.schedule.delays.start);
        self.later(
            wait,
            ServerEvent::Up {
                member,
                incarnation,
                primary,
            },
        );
    }

    pub(crate) fn server_up(&mut self, member: usize, incarnation: u32, primary: bool) {
        let postgres = &mut self.hosts[member].postgres;
        if postgres.incarnation != incarnation
            || postgres.server != Server::Starting
            || primary && postgres.starts_forever
        {
            return;
        }
        let Some(data) = &mut postgres.data else {
            return;
        };
        data.clean = false;
        data.was_primary = primary;
        if primary {
            let timeline = data.newest_timeline();
            postgres.server = Server::Primary;
            self.append(member, timeline);
            self.flush_now(member);
            self.judge_writers(member);
        } else {
            postgres.server = Server::Standby { replayed: false };
            let wait = self.random.between(0, 40);
            self.later(
                wait,
                ServerEvent::Replayed {
                    member,
                    incarnation,
                },
            );
            self.later(
                1,
                ServerEvent::Knock {
                    member,
                    incarnation,
                },
            );
        }
    }

    pub(crate) fn replayed(&mut self, member: usize, incarnation: u32) {
        let postgres = &mut self.hosts[member].postgres;
        if postgres.incarnation == incarnation && matches!(postgres.server, Server::Standby { .. })
        {
            postgres.server = Server::Standby { replayed: true };
        }
    }

    /// Ends every process at once. Whoever is connected notices, if the network lets him.
    pub(crate) fn kill_server(&mut self, member: usize) {
        self.ends(member, super::postgres::Postgres::end);
    }

    pub(crate) fn lose_power(&mut self, member: usize) {
        self.ends(member, super::postgres::Postgres::lose_power);
    }

    fn ends(&mut self, member: usize, end: impl FnOnce(&mut crate::postgres::Postgres)) {
        self.judge_gone(member);
        let postgres = &mut self.hosts[member].postgres;
        if !postgres.runs() {
            end(postgres);
            return;
        }
        let was = (member, postgres.incarnation);
        let receiver = postgres.receiver;
        let standbys: Vec<(usize, u32)> = postgres
            .senders
            .iter()
            .map(|(standby, sender)| (*standby, sender.connection))
            .collect();
        end(postgres);
        if let Some(Receiver {
            connection,
            upstream,
        }) = receiver
        {
            if self.reaches(member, upstream) && self.hosts[member].up {
                self.sender_ends(upstream, member, connection);
            } else {
                self.later(
                    CONNECTION_TIMEOUT,
                    ServerEvent::SenderGone {
                        primary: upstream,
                        standby: member,
                        connection,
                    },
                );
            }
        }
        for (standby, connection) in standbys {
            if self.reaches(member, standby) && self.hosts[member].up {
                self.receiver_breaks(standby, connection);
            } else {
                self.later(
                    CONNECTION_TIMEOUT,
                    ServerEvent::ReceiverGone {
                        standby,
                        connection,
                    },
                );
            }
        }
        self.connections_close(was);
        self.tell_agent_of_exit(member);
    }

    /// Both ends give a connection up.
    pub(crate) fn break_connection(&mut self, primary: usize, standby: usize, connection: u32) {
        self.sender_ends(primary, standby, connection);
        self.receiver_breaks(standby, connection);
    }

    pub(crate) fn sender_ends(&mut self, upstream: usize, standby: usize, connection: u32) {
        let postgres = &mut self.hosts[upstream].postgres;
        if postgres
            .senders
            .get(&standby)
            .is_some_and(|sender| sender.connection == connection)
        {
            postgres.senders.remove(&standby);
        }
        self.confirm(upstream);
    }

    pub(crate) fn receiver_breaks(&mut self, standby: usize, connection: u32) {
        let now = self.clock(standby);
        let postgres = &mut self.hosts[standby].postgres;
        if postgres
            .receiver
            .is_none_or(|receiver| receiver.connection != connection)
        {
            return;
        }
        postgres.receiver = None;
        postgres.broken_since = Some(now);
        let incarnation = postgres.incarnation;
        self.later(
            KNOCK_AGAIN,
            ServerEvent::Knock {
                member: standby,
                incarnation,
            },
        );
    }

    /// Begins an orderly stop; how long it takes.
    pub(crate) fn stop_server(&mut self, member: usize) -> u64 {
        self.judge_gone(member);
        let postgres = &mut self.hosts[member].postgres;
        // It does not come to its end in time, and is killed.
        postgres.hangs = false;
        match postgres.server {
            Server::Down => 1,
            Server::Primary => {
                postgres.server = Server::Stopping;
                // Those who wait are sent away without a word on what became of their commit.
                let waiting = std::mem::take(&mut postgres.waiting);
                let incarnation = postgres.incarnation;
                for commit in waiting {
                    self.written(member, commit.transaction, false);
                }
                let wait = self.takes(self.schedule.delays.checkpoint);
                self.later(
                    wait,
                    ServerEvent::Stopped {
                        member,
                        incarnation,
                    },
                );
                wait + 40
            }
            _ => {
                let wait = self.random.between(5, 40);
                let incarnation = self.hosts[member].postgres.incarnation;
                self.later(
                    wait,
                    ServerEvent::Stopped {
                        member,
                        incarnation,
                    },
                );
                wait + 1
            }
        }
    }

    /// The shutdown checkpoint is written, and sent.
    pub(crate) fn stopped(&mut self, member: usize, incarnation: u32) {
        let postgres = &mut self.hosts[member].postgres;
        if postgres.incarnation != incarnation {
            return;
        }
        match postgres.server {
            Server::Stopping => {
                if postgres.data.as_ref().is_some_and(|data| !data.clean) {
                    let timeline = postgres.data.as_ref().map_or(1, Data::newest_timeline);
                    self.append(member, timeline);
                    self.flush_now(member);
                    if let Some(data) = &mut self.hosts[member].postgres.data {
                        data.clean = true;
                    }
                    // The senders live until what is under way has arrived.
                    self.later(
                        30,
                        ServerEvent::Stopped {
                            member,
                            incarnation,
                        },
                    );
                } else {
                    self.kill_server(member);
                }
            }
            Server::Standby { .. } => {
                if let Some(data) = &mut postgres.data {
                    data.clean = true;
                }
                self.kill_server(member);
            }
            _ => self.kill_server(member),
        }
    }

    pub(crate) fn server_stopped(&mut self, member: usize) -> Outcome {
        self.kill_server(member);
        match &self.hosts[member].postgres.data {
            Some(data) if data.clean => Outcome::At(Position {
                timeline: Timeline(data.timeline()),
                flushed: lsn(data.flushed.saturating_sub(1)),
            }),
            _ => Outcome::Done,
        }
    }

    /// Begins a promotion; how long it takes.
    pub(crate) fn promote_server(&mut self, member: usize) -> u64 {
        if !self.is_armed(member) {
            return 1;
        }
        let wait = self.takes(self.schedule.delays.promote);
        let incarnation = self.hosts[member].postgres.incarnation;
        self.later(
            wait,
            ServerEvent::Promoted {
                member,
                incarnation,
            },
        );
        wait + 2
    }

    pub(crate) fn promoted(&mut self, member: usize, incarnation: u32) {
        let postgres = &mut self.hosts[member].postgres;
        if postgres.incarnation != incarnation || !matches!(postgres.server, Server::Standby { .. })
        {
            return;
        }
        let Some(data) = &mut postgres.data else {
            return;
        };
        // Whatever came after the last flush is flushed first.
        data.flushed = data.wal.len();
        data.was_primary = true;
        let timeline = data.heard.0.max(data.timeline()) + 1;
        data.heard = (timeline, None);
        postgres.server = Server::Primary;
        postgres.upstream = None;
        let receiver = postgres.receiver.take();
        if let Some(Receiver {
            connection,
            upstream,
        }) = receiver
        {
            self.sender_ends(upstream, member, connection);
        }
        self.append(member, timeline);
        self.flush_now(member);
        self.tell(|world| {
            format!(
                "{}: is the primary, on timeline {timeline}",
                world.hosts[member].name
            )
        });
        self.judge_writers(member);
        self.judge_promotion(member);
    }

    pub(crate) fn names_change(&mut self, member: usize, boot: u32, names: Names) {
        if self.hosts[member].boot != boot {
            return;
        }
        self.hosts[member].postgres.names = names;
        self.judge_keys();
        self.confirm(member);
    }
}

/// The end of the WAL that is surely there, for a reader outside.
pub(super) fn end_of(data: &Data) -> Lsn {
    lsn(data.flushed)
}
