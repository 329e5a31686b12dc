//! What a pooler knows and what it wants.

use std::collections::BTreeMap;
use std::fmt;

use mrg_base::{Lsn, MemberName, Timeline};
use mrg_election::Revision;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// An IP address where the members publish one: names would be cached past a failover.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The holder of the leader key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The revision that created the key: another one is another leadership, even of the same
    /// member at the same address.
    pub key: Revision,
    /// Who.
    pub member: MemberName,
    /// Where.
    pub address: Address,
}

/// A member's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Where its server listens.
    pub address: Address,
}

/// What the DCS said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// As of when.
    pub revision: i64,
    /// Which history the data belongs to.
    pub system_id: Option<u64>,
    /// The leader key, if it is there and its holder's address is known.
    pub leader: Option<Leader>,
    /// Everybody whose key is there.
    pub members: BTreeMap<MemberName, Member>,
}

/// A leader is about to hand over and asks the poolers to hold their clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PauseRequest {
    /// The revision that created it.
    pub id: Revision,
    /// The leadership that it is about. It means nothing under another one.
    pub leader: Revision,
}

/// What a server is, by its own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It accepts writes.
    Primary {
        /// Its system identifier.
        system_id: u64,
        /// Its timeline.
        timeline: Timeline,
        /// How far it has written.
        written: Lsn,
    },
    /// It is in recovery.
    Standby {
        /// Its system identifier.
        system_id: u64,
        /// How far it has replayed.
        replayed: Lsn,
        /// How old the newest replayed transaction is, if there is more to replay.
        behind: mrg_base::Millis,
    },
    /// It does not answer, or not sensibly.
    Unreachable,
}

/// What clients experience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// They wait.
    Hold,
    /// They work.
    Flow,
    /// They are turned away, so that they can do something else.
    Refuse,
}

/// What PgBouncer is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Counts the settings.
    pub number: u64,
    /// For the clients.
    pub gate: Gate,
    /// Where new server connections go; none before the first confirmed target.
    pub addresses: Vec<Address>,
}
