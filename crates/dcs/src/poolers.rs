//! What leaders and poolers say to each other, under `/mrg/<scope>/`: Patroni knows none of it.
//!
//! `pause` is written by a leader before it hands over, under its lease, so that it ends with it.
//! `poolers/<pod>` is written by each pooler under a lease of its own: who it is, what its clients
//! experience, and which request it heeds.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::wire::{self, Entries, Entry, compact};
use mrg_base::{MemberName, Millis};
use mrg_election::Revision;
use mrg_pool_core::{Address, Leader, Member, PauseRequest, Snapshot};

/// The value of `poolers/<pod>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PoolerRecord {
    /// The PgBouncerPool.
    pub pool: String,
    /// Whether its clients write, so that a leader has to ask it.
    pub writes: bool,
    /// How long a leader waits for its last transactions.
    pub max_wait_ms: u64,
    /// Whether a planned switchover is given up if they do not end; otherwise they are cut.
    pub abandons: bool,
    /// The request that it heeds.
    pub pause: Option<i64>,
    /// Whether no transaction is under way since then.
    pub drained: bool,
    /// Why clients wait, or `Confirmed`.
    pub why: String,
    /// Which passwords it was given, by user; see [`fingerprint`].
    pub passwords: BTreeMap<String, u16>,
    /// Why PgBouncer does not run, if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// Whom clients reach.
    pub members: Vec<String>,
    /// Where that is.
    pub addresses: Vec<String>,
    /// Counts the settings of this process.
    pub generation: u64,
    /// Client connections.
    pub clients: u64,
    /// Clients that wait for a server.
    pub waiting: u64,
    /// The last time that clients were let through again.
    pub rewire: Option<Rewire>,
}

/// A hold that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewire {
    /// What began it.
    pub cause: String,
    /// How long clients waited, in milliseconds.
    pub held_ms: u64,
    /// How many.
    pub clients: u64,
    /// When it ended, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// Tells one password from the next and little else: 16 bits of a hash, the same in every program
/// of an image.
pub fn fingerprint(password: &str) -> u16 {
    let mut hasher = DefaultHasher::new();
    password.hash(&mut hasher);
    u16::try_from(hasher.finish() & 0xFFFF).unwrap_or_default()
}

/// Writes the value of `pause`.
pub fn render_pause(leader: Revision) -> String {
    compact(&json!({ "leader": leader.0 }))
}

/// Reads `pause` from our own keys.
pub fn pause(entries: &Entries) -> Option<PauseRequest> {
    #[derive(Deserialize)]
    struct Data {
        leader: i64,
    }
    let entry = entries.get("pause")?;
    let data: Data = serde_json::from_slice(&entry.value).ok()?;
    Some(PauseRequest {
        id: Revision(entry.modified),
        leader: Revision(data.leader),
    })
}

/// Reads `poolers/<pod>`; a record that cannot be read counts as absent.
pub fn record(entry: &Entry) -> Option<PoolerRecord> {
    serde_json::from_slice(&entry.value).ok()
}

/// What a pooler looks at.
pub fn seen(revision: i64, entries: &Entries) -> Snapshot {
    let address = |entry: &Entry| {
        let (host, port) = wire::member(entry)?.postgres_address()?;
        Some(Address { host, port })
    };
    let members: BTreeMap<MemberName, Member> = entries
        .iter()
        .filter_map(|(key, entry)| {
            Some((
                MemberName::new(key.strip_prefix("members/")?).ok()?,
                Member {
                    address: address(entry)?,
                },
            ))
        })
        .collect();
    let leader = entries.get("leader").and_then(|entry| {
        let member = MemberName::new(&String::from_utf8_lossy(&entry.value)).ok()?;
        let address = members.get(&member)?.address.clone();
        Some(Leader {
            key: Revision(entry.created),
            member,
            address,
        })
    });
    let system_id = entries
        .get("initialize")
        .and_then(|entry| String::from_utf8_lossy(&entry.value).trim().parse().ok());
    Snapshot {
        revision,
        system_id,
        leader,
        members,
    }
}

/// How long a leader waits for a pooler to say anything at all.
pub const HEARD_WITHIN: Millis = Millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &str, created: i64, modified: i64) -> Entry {
        Entry {
            lease: 0,
            created,
            modified,
            value: value.as_bytes().to_vec(),
        }
    }

    #[test]
    fn a_leader_is_a_leadership_at_an_address() {
        let member = r#"{"conn_url":"postgres://10.0.0.2:5432/postgres","api_url":"http://10.0.0.2:8008/patroni","state":"running","role":"primary"}"#;
        let mut entries = Entries::from([
            ("leader".to_owned(), entry("n2", 12, 14)),
            ("members/n2".to_owned(), entry(member, 3, 3)),
            ("initialize".to_owned(), entry("7", 1, 1)),
        ]);
        let told = seen(20, &entries);
        assert_eq!(told.system_id, Some(7));
        let leader = told.leader.unwrap();
        assert_eq!(
            (leader.key, leader.address.to_string()),
            (Revision(12), "10.0.0.2:5432".to_owned())
        );
        entries.remove("members/n2");
        assert_eq!(
            seen(20, &entries).leader,
            None,
            "a leader without an address is none that clients could reach"
        );
    }

    #[test]
    fn a_request_names_its_leadership_and_is_named_by_its_own_revision() {
        let entries = Entries::from([(
            "pause".to_owned(),
            entry(&render_pause(Revision(12)), 30, 31),
        )]);
        assert_eq!(
            pause(&entries),
            Some(PauseRequest {
                id: Revision(31),
                leader: Revision(12)
            })
        );
    }
}
