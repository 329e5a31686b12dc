//! A PostgreSQL as the election sees it: WAL that is written, flushed, streamed and lost,
//! timelines, recovery, and who must confirm a commit.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mrg_base::{Lsn, Moment, Position, Timeline};
use mrg_election::DataDirectory;
use mrg_election::sync::Names;

/// A record is so many bytes long.
const RECORD: u64 = 100;

/// One WAL record. No two writes anywhere have the same id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Who it is.
    pub id: u32,
    /// The timeline that it was written on.
    pub timeline: u32,
}

/// A data directory.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "marks of a data directory, each independent of the others"
)]
pub(crate) struct Data {
    /// The system identifier.
    pub system: u64,
    /// All WAL since the beginning.
    pub wal: Vec<Record>,
    /// How many records survive the loss of the machine.
    pub flushed: usize,
    /// Whether it was last written as a primary.
    pub was_primary: bool,
    /// Whether it was shut down in order.
    pub clean: bool,
    /// Made for a cluster that was not seen to be whole.
    pub unfinished: bool,
    /// An interrupted rewind: never to be started.
    pub half_rewound: bool,
    /// The newest timeline that it was told of, and where its own one ended by that.
    pub heard: (u32, Option<usize>),
}

/// The end of so many records.
pub(crate) fn lsn(records: usize) -> Lsn {
    Lsn(records as u64 * RECORD)
}

impl Data {
    /// A fresh one.
    pub(crate) fn new(system: u64) -> Self {
        Self {
            system,
            wal: Vec::new(),
            flushed: 0,
            was_primary: true,
            clean: true,
            unfinished: true,
            half_rewound: false,
            heard: (1, None),
        }
    }

    /// The timeline of the last durable record.
    pub(crate) fn timeline(&self) -> u32 {
        self.flushed
            .checked_sub(1)
            .map_or(1, |last| self.wal[last].timeline)
    }

    /// The timeline of the last record, flushed or not.
    pub(crate) fn newest_timeline(&self) -> u32 {
        self.wal.last().map_or(1, |record| record.timeline)
    }

    /// How far it reaches, durably.
    pub(crate) fn position(&self) -> Position {
        Position {
            timeline: Timeline(self.timeline()),
            flushed: lsn(self.flushed),
        }
    }

    /// How many records both have, from the beginning.
    pub(crate) fn common(&self, other: &Data) -> usize {
        // Ids are unique, so where a record is the same everything before it is.
        let mut least = 0;
        let mut most = self.wal.len().min(other.wal.len());
        while least < most {
            let middle = least + (most - least).div_ceil(2);
            if self.wal[middle - 1].id == other.wal[middle - 1].id {
                least = middle;
            } else {
                most = middle - 1;
            }
        }
        least
    }

    /// Where this history leaves a timeline; `None` if it is still on it.
    pub(crate) fn end_of(&self, timeline: u32) -> Option<usize> {
        let at = self
            .wal
            .partition_point(|record| record.timeline <= timeline);
        (at < self.wal.len()).then_some(at)
    }

    /// The text of PostgreSQL's history file of a timeline.
    pub(crate) fn history_file(&self, timeline: Timeline) -> String {
        let mut text = String::new();
        let mut from = 0;
        while let Some(record) = self.wal.get(from) {
            let ended = record.timeline;
            let Some(end) = self.end_of(ended).filter(|_| ended < timeline.0) else {
                break;
            };
            let _ = writeln!(text, "{ended}\t{}\tno recovery target specified", lsn(end));
            from = end;
        }
        text
    }

    /// As `pg_control` tells it.
    pub(crate) fn control(&self) -> DataDirectory {
        DataDirectory {
            system_id: self.system,
            timeline: Timeline(self.timeline()),
            checkpoint: lsn(self.flushed.saturating_sub(1)),
            was_primary: self.was_primary,
            clean: self.clean,
            unfinished: self.unfinished,
        }
    }
}

/// What the server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// It does not run.
    Down,
    /// It does not answer yet.
    Starting,
    /// It accepts writes.
    Primary,
    /// It is in recovery; its position is known or not yet.
    Standby {
        /// Whether all local WAL is replayed.
        replayed: bool,
    },
    /// It stops in order: no new transactions.
    Stopping,
}

/// A standby's connection, as the primary sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sender {
    /// Which connection.
    pub connection: u32,
    /// Whether the standby has caught up.
    pub streaming: bool,
    /// How many records it has flushed, as far as it told.
    pub flushed: usize,
    /// Whether WAL is under way to it.
    pub busy: bool,
}

/// A standby's receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Receiver {
    /// Which connection.
    pub connection: u32,
    /// To whom.
    pub upstream: usize,
}

/// A commit that waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Its record.
    pub index: usize,
    /// Which record.
    pub id: u32,
    /// Who waits.
    pub transaction: u64,
}

/// A server and everything that ends with it.
#[derive(Clone, Debug)]
pub(crate) struct Postgres {
    /// The files, if there are any.
    pub data: Option<Data>,
    /// The process.
    pub server: Server,
    /// Counts the processes.
    pub incarnation: u32,
    /// `synchronous_standby_names` in the file.
    pub names: Names,
    /// Whom the configuration says to follow.
    pub upstream: Option<usize>,
    /// The connection that stands.
    pub receiver: Option<Receiver>,
    /// Since when there should be one.
    pub broken_since: Option<Moment>,
    /// Standbys.
    pub senders: BTreeMap<usize, Sender>,
    /// Commits that nobody has confirmed yet.
    pub waiting: Vec<Waiting>,
    /// Writes fail.
    pub disk_full: bool,
    /// Nothing is flushed any more, until the server ends.
    pub hangs: bool,
    /// The next server that is started as a primary does not get ready.
    pub starts_forever: bool,
}

impl Postgres {
    /// Nothing is there.
    pub(crate) fn absent() -> Self {
        Self {
            data: None,
            server: Server::Down,
            incarnation: 0,
            names: Names::Nobody,
            upstream: None,
            receiver: None,
            broken_since: None,
            senders: BTreeMap::new(),
            waiting: Vec::new(),
            disk_full: false,
            hangs: false,
            starts_forever: false,
        }
    }

    /// Whether processes of it are there.
    pub(crate) fn runs(&self) -> bool {
        self.server != Server::Down
    }

    /// Every process is gone at once. What was written stays, and is flushed before anything is
    /// read of it.
    pub(crate) fn end(&mut self) {
        self.starts_forever &= self.server != Server::Starting;
        self.hangs = false;
        self.server = Server::Down;
        self.incarnation += 1;
        self.receiver = None;
        self.senders.clear();
        self.waiting.clear();
        if let Some(data) = &mut self.data {
            data.flushed = data.wal.len();
        }
    }

    /// The machine is gone: what was not flushed is lost.
    pub(crate) fn lose_power(&mut self) {
        if let Some(data) = &mut self.data {
            data.wal.truncate(data.flushed);
        }
        self.end();
    }

    /// Whether a commit at this index is confirmed by those who must, as PostgreSQL counts them.
    pub(crate) fn is_confirmed(
        &self,
        index: usize,
        name_of: impl Fn(usize) -> mrg_base::MemberName,
    ) -> bool {
        let confirming = |(standby, sender): (&usize, &Sender)| {
            (name_of(*standby), sender.streaming, sender.flushed > index)
        };
        let mut known: Vec<_> = self
            .senders
            .iter()
            .map(confirming)
            .filter(|(_, streaming, _)| *streaming)
            .collect();
        known.sort();
        match &self.names {
            Names::Nobody => true,
            Names::Placeholder => false,
            Names::Any { count, members } => {
                known
                    .iter()
                    .filter(|(name, _, flushed)| *flushed && members.contains(name))
                    .count()
                    >= *count
            }
            Names::First { count, members } => {
                // The first of those who are connected, in the order of the list.
                let first: Vec<bool> = known
                    .iter()
                    .filter(|(name, ..)| members.contains(name))
                    .map(|(.., flushed)| *flushed)
                    .take(*count)
                    .collect();
                first.len() == *count && first.into_iter().all(|flushed| flushed)
            }
        }
    }
}
