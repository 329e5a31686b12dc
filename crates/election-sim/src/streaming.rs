//! A standby's WAL receiver, and copies of another's data.

use crate::event::{Message, ServerEvent};
use crate::postgres::{Data, Receiver, Sender, Server};
use crate::server::KNOCK_AGAIN;
use crate::steps::failed;
use crate::world::World;
use mrg_election::Outcome;

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

impl World {
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
            ServerEvent::Knock {
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
            ServerEvent::Knock {
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
            Err(reason) => return failed(reason),
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
