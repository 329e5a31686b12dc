//! WAL: written, flushed, sent, and confirmed.

use crate::event::{Message, ServerEvent, SimulationEvent};
use crate::postgres::{Data, Receiver, Record, Server, Waiting};
use crate::world::World;

impl World {
    /// A record, not flushed yet; its index and id.
    pub(crate) fn append(&mut self, member: usize, timeline: u32) -> (usize, u32) {
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

    pub(crate) fn flush_now(&mut self, member: usize) {
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
            ServerEvent::Flush {
                member,
                incarnation,
                upto: index + 1,
            },
        );
    }

    /// WAL up to here is on the disk.
    pub(crate) fn flush(&mut self, member: usize, incarnation: u32, upto: usize) {
        let postgres = &mut self.hosts[member].postgres;
        if postgres.incarnation != incarnation || !postgres.runs() || postgres.hangs {
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
                SimulationEvent::Arrives {
                    from,
                    to,
                    message: Box::new(message),
                },
            ),
            None => self.later(
                200,
                SimulationEvent::Late {
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
            ServerEvent::Flush {
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

    pub(crate) fn written(&mut self, member: usize, transaction: u64, done: bool) {
        let Some(from) = self.open.get(&transaction).map(|open| open.end) else {
            return;
        };
        self.send(member, from, Message::Written { transaction, done });
    }
}
