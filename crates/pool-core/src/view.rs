//! What a pooler observes and what it wants.

use std::collections::BTreeMap;

pub use mrg_base::Address;
use mrg_base::{Lsn, MemberName, Millis, Timeline};
use mrg_election::Revision;

/// The holder of the leader key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The revision that created the key: another one is another leadership, even of the same
    /// member at the same address.
    pub key: Revision,
    /// The member that holds it.
    pub member: MemberName,
    /// Where the member's server listens.
    pub address: Address,
}

/// A member's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where its server listens.
    pub address: Address,
}

/// The cluster's keys, as far as they matter to a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision of the DCS that the snapshot shows.
    pub revision: i64,
    /// The cluster's system identifier; `None` before it is initialized.
    pub system_id: Option<u64>,
    /// The leader key, if it exists and its holder's address is known.
    pub leader: Option<Leader>,
    /// The members whose key exists.
    pub members: BTreeMap<MemberName, Member>,
}

/// A leader's request to the poolers to pause their clients, because it is about to hand over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PauseRequest {
    /// The revision that created it.
    pub id: Revision,
    /// The leadership that it is about. It means nothing under another one.
    pub leader: Revision,
}

/// What a server reports to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It accepts writes.
    Primary {
        /// Its system identifier.
        system_id: u64,
        /// Its timeline.
        timeline: Timeline,
        /// The end of the WAL it has written.
        written: Lsn,
    },
    /// It is in recovery.
    Standby {
        /// Its system identifier.
        system_id: u64,
        /// The end of the WAL it has replayed.
        replayed: Lsn,
        /// The age of the newest replayed transaction; 0 if there is nothing more to replay.
        behind: Millis,
    },
    /// It does not answer, or not sensibly.
    Unreachable,
}

/// What happens to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// They wait.
    Paused,
    /// They work.
    Open,
    /// They are turned away, so that they can do something else.
    Rejecting,
}

/// What PgBouncer is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolTarget {
    /// Counts the targets of a pool, from 0.
    pub number: u64,
    /// What happens to clients.
    pub admission: Admission,
    /// Where new server connections go; empty before the first confirmed server.
    pub addresses: Vec<Address>,
}

impl PoolTarget {
    /// The target of a pool that has just started: clients wait, and no server is known.
    pub const INITIAL: Self = Self {
        number: 0,
        admission: Admission::Paused,
        addresses: Vec::new(),
    };

    /// The target that follows this one; `None` if it would be the same.
    pub(crate) fn next(&self, admission: Admission, addresses: Vec<Address>) -> Option<Self> {
        let changed = admission != self.admission || addresses != self.addresses;
        changed.then_some(Self {
            number: self.number + 1,
            admission,
            addresses,
        })
    }
}
