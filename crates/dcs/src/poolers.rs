//! What leaders and poolers say to each other, under `/mrg/<scope>/`: Patroni knows none of it.
//!
//! `pause` is written by a leader before it hands over, under its lease, so that it ends with it.
//! `poolers/<pod>` is written by each pooler under a lease of its own: who it is, what its clients
//! experience, and which request it heeds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::snapshot::Poolers;
use crate::words::PoolerReason;
use mrg_base::Millis;
use mrg_election::Revision;
use mrg_election::pool_pause::{WritePooler, WritePoolers};

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
    /// The request that it acknowledges, by the revision that wrote it.
    pub pause: Option<Revision>,
    /// Whether no transaction is under way since then.
    pub drained: bool,
    /// Why clients wait, or `Confirmed`.
    #[serde(rename = "why")]
    pub reason: PoolerReason,
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

impl Poolers {
    /// The poolers that a leader has to ask before it hands over.
    pub fn write_poolers(&self) -> WritePoolers {
        let write_pooler = |(pod, record): (&String, &PoolerRecord)| {
            let pooler = WritePooler {
                max_wait: Millis(record.max_wait_ms),
                abandons: record.abandons,
                request: record.pause,
                drained: record.drained,
            };
            (pod.clone(), pooler)
        };
        let writers = self.0.iter().filter(|(_, record)| record.writes);
        writers.map(write_pooler).collect()
    }
}

/// A hold that ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rewire {
    /// What began it.
    pub cause: PoolerReason,
    /// How long clients waited, in milliseconds.
    pub held_ms: u64,
    /// How many.
    pub clients: u64,
    /// When it ended, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// Tells one password of a user from the next and little else: the first 16 bits of a SHA-256 over
/// scope, user and password, the same in every program and version. What it tells of the password
/// can be compared with no other cluster's and no other user's.
///
/// Images from before it had scope and user in it hash otherwise. While an agent and a pooler of
/// different ages look at each other, their fingerprints differ (but for one password in 65,536), so
/// the leader does not find that the pooler has a rotated password; it sets it after the time within
/// which a kubelet brings a Secret into every pod, and the pooler goes on with the old password
/// until the server takes the new one, as ever. A rotation is late then, and locks no client out.
pub fn fingerprint(scope: &str, user: &str, password: &str) -> u16 {
    let digest = Sha256::digest([scope, user, password].join("\0").as_bytes());
    u16::from_be_bytes([digest[0], digest[1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{ClusterSnapshot, Pause, Section};
    use crate::wire::Entry;
    use mrg_pool_core::PauseRequest;

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
        let entries = BTreeMap::from([
            ("leader".to_owned(), entry("n2", 12, 14)),
            ("members/n2".to_owned(), entry(member, 3, 3)),
            ("initialize".to_owned(), entry("7", 1, 1)),
        ]);
        let mut snapshot = ClusterSnapshot::parse(Revision(20), &entries);
        let seen = snapshot.seen();
        assert_eq!((seen.revision, seen.system_id), (20, Some(7)));
        let leader = seen.leader.unwrap();
        assert_eq!(
            (leader.key, leader.address.to_string()),
            (Revision(12), "10.0.0.2:5432".to_owned())
        );
        snapshot.delete("members/n2");
        assert_eq!(
            snapshot.seen().leader,
            None,
            "a leader without an address is none that clients could reach"
        );
    }

    #[test]
    fn a_request_names_its_leadership_and_is_named_by_its_own_revision() {
        let mut pause = Pause::default();
        let text = crate::Value::Pause(Revision(12)).render();
        pause.put("", &entry(&text, 30, 31));
        let request = PauseRequest {
            id: Revision(31),
            leader: Revision(12),
        };
        assert_eq!(pause.0, Some(request));
        pause.put("r", &entry("another key that begins with it", 32, 32));
        assert_eq!(pause.0, Some(request));
        pause.delete("");
        assert_eq!(pause.0, None);
    }

    #[test]
    fn a_record_that_cannot_be_read_counts_as_absent() {
        let mut poolers = Poolers::default();
        poolers.put(
            "w-1",
            &entry(r#"{"pool":"w","why":"Newer","pause":7}"#, 3, 3),
        );
        assert_eq!(poolers.0["w-1"].reason.as_str(), "Newer");
        assert_eq!(poolers.0["w-1"].pause, Some(Revision(7)));
        poolers.put("w-1", &entry("nonsense", 3, 4));
        assert!(poolers.0.is_empty());
    }

    #[test]
    fn a_leader_asks_the_poolers_whose_clients_write() {
        let mut poolers = Poolers::default();
        poolers.put("r-1", &entry(r#"{"pool":"r"}"#, 3, 3));
        let writes =
            r#"{"pool":"w","writes":true,"max_wait_ms":5000,"pause":7,"drained":true,"why":""}"#;
        poolers.put("w-1", &entry(writes, 3, 3));
        let pooler = WritePooler {
            max_wait: Millis(5_000),
            abandons: false,
            request: Some(Revision(7)),
            drained: true,
        };
        let asked = WritePoolers::from([("w-1".to_owned(), pooler)]);
        assert_eq!(poolers.write_poolers(), asked);
    }

    #[test]
    fn a_fingerprint_is_the_same_in_every_version_and_another_in_every_cluster() {
        // printf 'demo\0app\0secret' | sha256sum
        assert_eq!(fingerprint("demo", "app", "secret"), 0x45f0);
        let others = [
            fingerprint("demo", "app", "secret2"),
            fingerprint("demo2", "app", "secret"),
            fingerprint("demo", "app2", "secret"),
        ];
        assert!(!others.contains(&fingerprint("demo", "app", "secret")));
    }
}
