//! What the servers do by themselves: start, stop, promote, stream, confirm commits.

use crate::postgres::{Data, Receiver, Record, Sender, Server, Waiting, lsn};
use crate::steps::failed;
use crate::world::{Happening, Message, World};
use mrg_base::{Lsn, Position, Timeline};
use mrg_election::sync::Names;
use mrg_election::{Fork, Outcome, Postgres, Primary, Standby, StartAs, WalReceiver, WalSender};

/// A receiver that found nobody tries again.
const KNOCK_AGAIN: u64 = 250;
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
            Happening::ServerUp {
                member,
                incarnation,
                primary,
            },
        );
    }

    pub(crate) fn server_up(&mut self, member: usize, incarnation: u32, primary: bool) {
        let postgres = &mut self.hosts[member].postgres;
        if postgres.incarnation != incarnation || postgres.server != Server::Starting {
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
                Happening::Replayed {
                    member,
                    incarnation,
                },
            );
            self.later(
                1,
                Happening::Knock {
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
                    Happening::SenderGone {
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
                    Happening::ReceiverGone {
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
            Happening::Knock {
                member: standby,
                incarnation,
            },
        );
    }

    /// Begins an orderly stop; how long it takes.
    pub(crate) fn stop_server(&mut self, member: usize) -> u64 {
        self.judge_gone(member);
        let postgres = &mut self.hosts[member].postgres;
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
                    Happening::Stopped {
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
                    Happening::Stopped {
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
                        Happening::Stopped {
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
            Happening::Promoted {
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

    // ---- WAL ----

    /// A record, not flushed yet; its index and id.
    fn append(&mut self, member: usize, timeline: u32) -> (usize, u32) {
        self.records += 1;
        let id = self.records;
        let data = self.hosts[member]
            .postgres
            .data
            .as_mut()
            .expect("a server that runs has data");
        data.wal.push(Record { id, timeline });
        (data.wal.len() - 1, id)
    }

    fn flush_now(&mut self, member: usize) {
        let incarnation = self.hosts[member].postgres.incarnation;
        let upto = self.hosts[member]
            .postgres
            .data
            .as_ref()
            .map_or(0, |data| data.wal.len());
        self.flush(member, incarnation, upto);
    }

    /// A client's commit reaches the server.
    pub(crate) fn write_arrives(&mut self, member: usize, from: usize, transaction: u64) {
        let postgres = &self.hosts[member].postgres;
        if postgres.server != Server::Primary || postgres.disk_full {
            // Refused at once: read-only, or nobody listens.
            self.send(
                member,
                from,
                Message::Written {
                    transaction,
                    done: false,
                },
            );
            return;
        }
        let timeline = postgres.data.as_ref().map_or(1, Data::newest_timeline);
        let (index, id) = self.append(member, timeline);
        let postgres = &mut self.hosts[member].postgres;
        postgres.waiting.push(Waiting {
            index,
            id,
            transaction,
        });
        let incarnation = postgres.incarnation;
        let wait = self.takes(self.schedule.delays.fsync);
        self.later(
            wait,
            Happening::Flush {
                member,
                incarnation,
                upto: index + 1,
            },
        );
    }

    /// WAL up to here is on the disk.
    pub(crate) fn flush(&mut self, member: usize, incarnation: u32, upto: usize) {
        let postgres = &mut self.hosts[member].postgres;
        if postgres.incarnation != incarnation || !postgres.runs() {
            return;
        }
        let Some(data) = &mut postgres.data else {
            return;
        };
        data.flushed = data.flushed.max(upto.min(data.wal.len()));
        if let Some(Receiver {
            connection,
            upstream,
        }) = postgres.receiver
        {
            let upto = data.flushed;
            self.send_surely(
                member,
                upstream,
                Message::Flushed {
                    from: member,
                    connection,
                    upto,
                },
            );
        } else {
            self.confirm(member);
            self.pump(member);
        }
    }

    /// Over a connection nothing is lost, it only comes later, or the connection breaks.
    fn send_surely(&mut self, from: usize, to: usize, message: Message) {
        match self.steady_way(from, to) {
            Some(wait) => self.later(
                wait,
                Happening::Arrives {
                    from,
                    to,
                    message: Box::new(message),
                },
            ),
            None => self.later(
                200,
                Happening::Late {
                    from,
                    to,
                    message: Box::new(message),
                },
            ),
        }
    }

    /// A message of a connection whose way was cut tries again.
    pub(crate) fn late(&mut self, from: usize, to: usize, message: Message) {
        let stands = match &message {
            Message::Wal { connection, .. } => self.hosts[from]
                .postgres
                .senders
                .get(&to)
                .is_some_and(|sender| sender.connection == *connection),
            Message::Flushed { connection, .. } => self.hosts[from]
                .postgres
                .receiver
                .is_some_and(|receiver| receiver.connection == *connection),
            _ => false,
        };
        if stands {
            self.send_surely(from, to, message);
        }
    }

    /// Sends what is flushed to every standby to which nothing is under way.
    pub(crate) fn pump(&mut self, member: usize) {
        let postgres = &mut self.hosts[member].postgres;
        let Some(data) = &postgres.data else { return };
        let upto = data.flushed;
        let mut sent = Vec::new();
        for (standby, sender) in &mut postgres.senders {
            if !sender.busy && (sender.flushed < upto || !sender.streaming) {
                sender.busy = true;
                let records = data
                    .wal
                    .get(sender.flushed..upto)
                    .unwrap_or_default()
                    .to_vec();
                sent.push((
                    *standby,
                    Message::Wal {
                        connection: sender.connection,
                        after: sender.flushed,
                        records,
                    },
                ));
            }
        }
        for (standby, message) in sent {
            self.send_surely(member, standby, message);
        }
    }

    pub(crate) fn wal_arrives(
        &mut self,
        standby: usize,
        connection: u32,
        after: usize,
        records: &[Record],
    ) {
        let postgres = &mut self.hosts[standby].postgres;
        if postgres
            .receiver
            .is_none_or(|receiver| receiver.connection != connection)
        {
            return;
        }
        let Some(data) = &mut postgres.data else {
            return;
        };
        let known = data.wal.len().saturating_sub(after);
        data.wal.extend(records.get(known..).unwrap_or_default());
        let (upto, incarnation) = (data.wal.len(), postgres.incarnation);
        let wait = self.takes(self.schedule.delays.fsync);
        self.later(
            wait,
            Happening::Flush {
                member: standby,
                incarnation,
                upto,
            },
        );
    }

    pub(crate) fn standby_flushed(
        &mut self,
        member: usize,
        from: usize,
        connection: u32,
        upto: usize,
    ) {
        let postgres = &mut self.hosts[member].postgres;
        let flushed_here = postgres.data.as_ref().map_or(0, |data| data.flushed);
        let Some(sender) = postgres
            .senders
            .get_mut(&from)
            .filter(|sender| sender.connection == connection)
        else {
            return;
        };
        sender.flushed = sender.flushed.max(upto);
        sender.busy = false;
        sender.streaming |= sender.flushed + 2 >= flushed_here;
        self.confirm(member);
        self.pump(member);
    }

    /// Lets commits return that are confirmed.
    pub(crate) fn confirm(&mut self, member: usize) {
        let postgres = &self.hosts[member].postgres;
        if postgres.server != Server::Primary || postgres.waiting.is_empty() {
            return;
        }
        let flushed = postgres.data.as_ref().map_or(0, |data| data.flushed);
        let done: Vec<Waiting> = postgres
            .waiting
            .iter()
            .filter(|commit| {
                commit.index < flushed
                    && postgres
                        .is_confirmed(commit.index, |standby| self.hosts[standby].name.clone())
            })
            .copied()
            .collect();
        if done.is_empty() {
            return;
        }
        self.hosts[member]
            .postgres
            .waiting
            .retain(|commit| !done.iter().any(|other| other.id == commit.id));
        for commit in done {
            self.judge_commit(member, commit.index, commit.id);
            self.written(member, commit.transaction, true);
        }
    }

    fn written(&mut self, member: usize, transaction: u64, done: bool) {
        let Some(from) = self.open.get(&transaction).map(|open| open.end) else {
            return;
        };
        self.send(member, from, Message::Written { transaction, done });
    }

    // ---- streaming ----

    pub(crate) fn follow(&mut self, member: usize, upstream: usize) {
        let now = self.clock(member);
        let postgres = &mut self.hosts[member].postgres;
        let former = postgres
            .receiver
            .take_if(|receiver| receiver.upstream != upstream);
        postgres.upstream = Some(upstream);
        postgres.broken_since = Some(now);
        let incarnation = postgres.incarnation;
        if let Some(Receiver {
            connection,
            upstream,
        }) = former
        {
            self.sender_ends(upstream, member, connection);
        }
        self.later(
            1,
            Happening::Knock {
                member,
                incarnation,
            },
        );
    }

    pub(crate) fn receiver_stopped(&mut self, member: usize) -> Outcome {
        let postgres = &mut self.hosts[member].postgres;
        if !matches!(postgres.server, Server::Standby { .. }) {
            return failed("not a standby");
        }
        postgres.upstream = None;
        let receiver = postgres.receiver.take();
        let Some(data) = &mut postgres.data else {
            return failed("no data");
        };
        data.flushed = data.wal.len();
        let position = data.position();
        if let Some(Receiver {
            connection,
            upstream,
        }) = receiver
            && self.reaches(member, upstream)
        {
            self.sender_ends(upstream, member, connection);
        }
        Outcome::At(position)
    }

    /// A standby's receiver tries to connect.
    pub(crate) fn knock(&mut self, member: usize, incarnation: u32) {
        let postgres = &self.hosts[member].postgres;
        let wants =
            matches!(postgres.server, Server::Standby { .. }) && postgres.receiver.is_none();
        let Some(upstream) = postgres
            .upstream
            .filter(|_| wants && postgres.incarnation == incarnation)
        else {
            return;
        };
        self.later(
            KNOCK_AGAIN,
            Happening::Knock {
                member,
                incarnation,
            },
        );
        if !self.reaches(member, upstream) {
            return;
        }
        self.connections += 1;
        let connection = self.connections;
        self.send(
            member,
            upstream,
            Message::Connect {
                from: member,
                incarnation,
                connection,
            },
        );
    }

    pub(crate) fn connect(
        &mut self,
        member: usize,
        from: usize,
        incarnation: u32,
        connection: u32,
    ) {
        let standby = &self.hosts[from].postgres;
        let waits = standby.incarnation == incarnation
            && standby.receiver.is_none()
            && standby.upstream == Some(member);
        let serves = self.hosts[member].postgres.server == Server::Primary;
        let (Some(mine), Some(theirs)) = (&self.hosts[member].postgres.data, &standby.data) else {
            return;
        };
        if !waits || !serves || mine.system != theirs.system || !self.reaches(member, from) {
            return;
        }
        let timeline = theirs.newest_timeline();
        let heard = (mine.newest_timeline(), mine.end_of(timeline));
        let length = theirs.wal.len();
        let follows = length == 0
            || mine
                .wal
                .get(length - 1)
                .is_some_and(|record| record.timeline == timeline)
                && length <= mine.flushed;
        let really = mine.common(theirs) == length;
        if let Some(data) = &mut self.hosts[from].postgres.data
            && heard.0 >= data.heard.0
        {
            data.heard = heard;
        }
        if !follows {
            return;
        }
        if !really {
            self.judge.blame(format!(
                "{} follows {} although its WAL is another, and cannot know it",
                self.name(from),
                self.name(member)
            ));
            return;
        }
        let postgres = &mut self.hosts[from].postgres;
        postgres.receiver = Some(Receiver {
            connection,
            upstream: member,
        });
        postgres.broken_since = None;
        let sender = Sender {
            connection,
            streaming: false,
            flushed: length,
            busy: false,
        };
        self.hosts[member].postgres.senders.insert(from, sender);
        self.pump(member);
    }

    // ---- copies ----

    /// The data of a member that leads and can be reached, or why not.
    pub(crate) fn source(
        &self,
        member: usize,
        leader: &mrg_base::MemberName,
    ) -> Result<&Data, &'static str> {
        let leader = self.number_of(leader).ok_or("unknown")?;
        let postgres = &self.hosts[leader].postgres;
        if !self.reaches(member, leader) || postgres.server != Server::Primary {
            return Err("the leader's server does not answer as a primary");
        }
        let data = postgres.data.as_ref().ok_or("it has no data")?;
        match &self.hosts[member].postgres.data {
            Some(mine) if mine.system != data.system => Err("another system"),
            _ => Ok(data),
        }
    }

    pub(crate) fn rewound(&mut self, member: usize, leader: &mrg_base::MemberName) -> Outcome {
        let source = match self.source(member, leader) {
            Ok(data) => data.clone(),
            Err(why) => return failed(why),
        };
        let postgres = &mut self.hosts[member].postgres;
        let Some(data) = postgres
            .data
            .as_mut()
            .filter(|_| postgres.server == Server::Down)
        else {
            return failed("postgres runs");
        };
        data.half_rewound = false;
        if data.timeline() == source.timeline() {
            // "source and target cluster are on the same timeline": it does nothing.
            data.was_primary = false;
            return Outcome::Done;
        }
        *data = copy_of(&source);
        Outcome::Done
    }

    pub(crate) fn copied(&mut self, member: usize, leader: &mrg_base::MemberName) -> Outcome {
        if self.hosts[member].postgres.disk_full {
            return Outcome::NoSpace("the disk is full".to_owned());
        }
        let source = match self
            .number_of(leader)
            .map(|leader| &self.hosts[leader].postgres)
        {
            Some(postgres) if postgres.server == Server::Primary => postgres.data.clone(),
            _ => None,
        };
        let reached = self
            .number_of(leader)
            .is_some_and(|leader| self.reaches(member, leader));
        let Some(source) = source.filter(|_| reached) else {
            return failed("the leader's server does not answer");
        };
        if self.hosts[member].postgres.runs() {
            return failed("postgres runs");
        }
        self.hosts[member].postgres.data = Some(copy_of(&source));
        Outcome::Done
    }
}

/// A standby's files, as of what the source has flushed.
fn copy_of(source: &Data) -> Data {
    let mut copy = source.clone();
    copy.wal.truncate(copy.flushed);
    copy.was_primary = false;
    copy.clean = true;
    copy.unfinished = false;
    copy.half_rewound = false;
    copy.heard = (copy.newest_timeline(), None);
    copy
}

/// The end of the WAL that is surely there, for a reader outside.
pub(super) fn end_of(data: &Data) -> Lsn {
    lsn(data.flushed)
}
