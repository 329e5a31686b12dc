//! Patroni's JSON, read leniently and written exactly. Whatever cannot be read is as good as
//! absent, and said so: a broken key never takes a leader down.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use mrg_base::{FLOORED_PARAMETERS, Lsn, MemberName, Position, Timeline};
use mrg_election::{
    Cluster, Failsafe, Initialize, LeaderKey, LeaseId, Member, Revision, Stored, SwitchoverRequest,
};

/// A key as etcd stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// The lease that owns it; 0 for none.
    pub lease: i64,
    /// When it was created.
    pub created: i64,
    /// When it was last changed.
    pub modified: i64,
}

/// All keys under the prefix, without the prefix.
pub type Entries = BTreeMap<String, Entry>;

/// The value of a member key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemberData {
    /// `postgres://host:port/postgres`
    #[serde(default)]
    pub conn_url: String,
    /// `http://host:port/patroni`
    #[serde(default)]
    pub api_url: String,
    /// `running`, `starting`, ...
    #[serde(default)]
    pub state: String,
    /// `primary`, `replica`, `demoted`, ...
    #[serde(default)]
    pub role: String,
    /// The version of the agent; reads as a Patroni 4.1.
    #[serde(default)]
    pub version: String,
    /// The current position in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xlog_location: Option<u64>,
    /// Standbys: replayed up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay_lsn: Option<u64>,
    /// Standbys: received up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_lsn: Option<u64>,
    /// `streaming` or `in archive recovery`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    /// The timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// A changed parameter waits for a restart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending_restart: bool,
    /// Which: `{"max_connections": {"old_value": "100", "new_value": "101"}}`
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub pending_restart_reason: Map<String, Value>,
    /// What PostgreSQL refuses of the parameters; the last good ones are in force. Patroni does not
    /// know this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_parameters: Option<String>,
    /// Why the data directory cannot be used with the programs that are here. Patroni does not know
    /// this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unusable_data: Option<String>,
    /// What is in the way of this member; see docs/ha.md. Patroni does not know this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
    /// PostgreSQL's `server_version_num`, while it runs. Patroni does not know this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<u32>,
    /// The revision of the dynamic configuration that what is said of restarts takes into account.
    /// Patroni does not know this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured: Option<i64>,
    /// The member knows of the pause.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pause: bool,
    /// Tags that differ from the defaults.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub tags: Map<String, Value>,
}

impl MemberData {
    /// Whether a lowered value of [`FLOORED_PARAMETERS`] waits. Standbys cannot have less than
    /// their primary, so the primary must go first.
    pub fn lowers_floor(&self) -> bool {
        let number = |value: &Value, field: &str| {
            value
                .get(field)
                .and_then(Value::as_str)
                .and_then(|text| text.parse::<u64>().ok())
        };
        let lowered = |(name, value): (&String, &Value)| {
            FLOORED_PARAMETERS.contains(&name.as_str())
                && number(value, "new_value") < number(value, "old_value")
        };
        self.pending_restart_reason.iter().any(lowered)
    }

    fn tag(&self, name: &str) -> bool {
        matches!(self.tags.get(name), Some(Value::Bool(true)))
    }

    /// Whether the tags let it lead.
    pub fn may_lead(&self) -> bool {
        let priority = self.tags.get("failover_priority").and_then(Value::as_i64);
        !self.tag("nofailover") && priority != Some(0)
    }

    /// `host:port` of `conn_url`.
    pub fn postgres_address(&self) -> Option<(String, u16)> {
        let rest = self.conn_url.split_once("://")?.1;
        let authority = rest.split('/').next()?;
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        let (host, port) = authority.rsplit_once(':')?;
        Some((host.to_owned(), port.parse().ok()?))
    }

    /// `http://host:port` of `api_url`.
    pub fn api_base(&self) -> Option<String> {
        base_of(&self.api_url)
    }
}

/// The value of `sync`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SyncData {
    leader: Option<String>,
    #[serde(default)]
    quorum: Option<usize>,
    sync_standby: Option<String>,
}

/// The value of `failover`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverData {
    /// The leader that is to step down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Who is to take over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// When; ISO 8601.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
}

/// The value of `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusData {
    /// The leader's position in bytes.
    pub optime: u64,
    /// Slots and their positions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slots: BTreeMap<String, u64>,
}

/// Why a timeline ended, in a line of `history` that was written before the promotion.
pub const PROMOTION_UNDER_WAY: &str = "promotion under way";

/// One line of `history`: timeline, where it ended, why, when, who took over.
pub type HistoryLine = (u32, u64, String, String, String);

/// Writes `/sync` as Patroni does.
pub fn render_sync(stored: &Stored) -> String {
    let standbys: Vec<&str> = stored.voters.iter().map(MemberName::as_str).collect();
    let standbys = (!standbys.is_empty()).then(|| standbys.join(","));
    let data = SyncData {
        leader: Some(stored.leader.to_string()),
        quorum: Some(stored.quorum),
        sync_standby: standbys,
    };
    compact(&data)
}

/// JSON without blanks.
pub fn compact<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value)
        .unwrap_or_else(|error| unreachable!("plain data is always JSON: {error}"))
}

fn parse_sync(entry: &Entry) -> Option<(Revision, Stored)> {
    let data: SyncData = serde_json::from_slice(&entry.value).ok()?;
    let leader = MemberName::new(&data.leader?).ok()?;
    let names = data.sync_standby.unwrap_or_default();
    let voters: BTreeSet<MemberName> = names
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .filter_map(|name| MemberName::new(name).ok())
        .collect();
    Some((
        Revision(entry.modified),
        Stored {
            leader,
            voters,
            quorum: data.quorum.unwrap_or(0),
        },
    ))
}

fn parse_member(entry: &Entry) -> Option<Member> {
    let data = member(entry)?;
    let position = match (data.timeline, data.receive_lsn.or(data.xlog_location)) {
        (Some(timeline), Some(lsn)) => Some(Position {
            timeline: Timeline(timeline),
            flushed: Lsn(lsn),
        }),
        _ => None,
    };
    Some(Member {
        lease: LeaseId(entry.lease),
        running: data.state == "running",
        primary: matches!(data.role.as_str(), "primary" | "master"),
        position,
        may_lead: data.may_lead(),
        may_sync: data.may_lead() && !data.tag("nosync"),
    })
}

/// Reads a member key.
pub fn member(entry: &Entry) -> Option<MemberData> {
    serde_json::from_slice(&entry.value).ok()
}

fn parse_switchover(entry: &Entry) -> Option<SwitchoverRequest> {
    let data: FailoverData = if let Ok(data) = serde_json::from_slice(&entry.value) {
        data
    } else {
        // Old Patroni: `leader:member`.
        let text = std::str::from_utf8(&entry.value).ok()?;
        let (leader, member) = text.split_once(':')?;
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        FailoverData {
            leader: named(leader),
            member: named(member),
            scheduled_at: None,
        }
    };
    if (data.leader.is_none() && data.member.is_none()) || data.scheduled_at.is_some() {
        return None;
    }
    // A name that nobody can have makes it nonsense, not a request to whoever may come.
    let name = |text: Option<String>| text.map(|text| MemberName::new(&text)).transpose().ok();
    Some(SwitchoverRequest {
        leader: name(data.leader)?,
        candidate: name(data.member)?,
        revision: Revision(entry.modified),
    })
}

/// The history lines, oldest first.
pub fn history(entries: &Entries) -> Vec<HistoryLine> {
    let lines: Option<Vec<Value>> = entries
        .get("history")
        .and_then(|entry| serde_json::from_slice(&entry.value).ok());
    let line = |value: &Value| -> Option<HistoryLine> {
        let text = |i: usize| {
            value
                .get(i)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let timeline = u32::try_from(value.get(0)?.as_u64()?).ok()?;
        Some((timeline, value.get(1)?.as_u64()?, text(2), text(3), text(4)))
    };
    lines
        .into_iter()
        .flatten()
        .filter_map(|value| line(&value))
        .collect()
}

/// The timeline that began where a line of `history` ends.
pub fn next_timeline(line: &HistoryLine) -> Timeline {
    Timeline(line.0.saturating_add(1))
}

/// The `initialize` key: a system identifier, or a claim.
pub fn initialize(entries: &Entries) -> Option<Initialize> {
    let entry = entries.get("initialize")?;
    let text = String::from_utf8_lossy(&entry.value);
    Some(text.trim().parse().map_or(
        Initialize::InProgress(LeaseId(entry.lease)),
        Initialize::Done,
    ))
}

/// The value of `sync`. A key that cannot be read counts as absent.
pub fn sync(entries: &Entries) -> Option<(Revision, Stored)> {
    entries.get("sync").and_then(parse_sync)
}

/// What the election looks at.
pub fn cluster(revision: i64, entries: &Entries) -> Cluster {
    let leader = entries.get("leader").and_then(|entry| {
        let member = MemberName::new(&String::from_utf8_lossy(&entry.value)).ok()?;
        Some(LeaderKey {
            member,
            lease: LeaseId(entry.lease),
            created: Revision(entry.created),
        })
    });
    let members = entries
        .iter()
        .filter_map(|(key, entry)| {
            Some((
                MemberName::new(key.strip_prefix("members/")?).ok()?,
                parse_member(entry)?,
            ))
        })
        .collect();
    let status: Option<StatusData> = entries
        .get("status")
        .and_then(|entry| serde_json::from_slice(&entry.value).ok());
    Cluster {
        revision: Revision(revision),
        initialize: initialize(entries),
        leader,
        sync: sync(entries),
        members,
        switchover: entries.get("failover").and_then(parse_switchover),
        optime: status.map(|status| Lsn(status.optime)),
        timeline: history(entries).last().map(next_timeline),
        timeline_of: history(entries)
            .last()
            .and_then(|line| MemberName::new(&line.4).ok()),
        failsafe: entries.get("failsafe").map(|entry| listed(entry, entries)),
        expected: expected(entries),
    }
}

/// Who belongs to the cluster: `mrg.members` of the `config` key, an array of names. What cannot be
/// read says nothing.
fn expected(entries: &Entries) -> Option<BTreeSet<MemberName>> {
    let config: serde_json::Value = serde_json::from_slice(&entries.get("config")?.value).ok()?;
    let names = config.get("mrg")?.get("members")?.as_array()?;
    names
        .iter()
        .map(|name| MemberName::new(name.as_str()?).ok())
        .collect()
}

/// One that cannot be read lists nobody: whoever leads writes it anew, and without a leader it has
/// to be deleted.
fn listed(entry: &Entry, entries: &Entries) -> Failsafe {
    let members = failsafe(entries).unwrap_or_default();
    let moved = |(name, url): (&MemberName, &String)| {
        let member = entries.get(&format!("members/{name}")).and_then(member);
        member.is_some_and(|data| data.api_url != *url)
    };
    let outdated = members.iter().any(moved);
    Failsafe {
        revision: Revision(entry.modified),
        members: members.into_keys().collect(),
        outdated,
    }
}

/// The value of `failsafe`: who may race, and where each one's REST API is. A key that cannot be
/// read counts as absent.
pub fn failsafe(entries: &Entries) -> Option<BTreeMap<MemberName, String>> {
    let members: BTreeMap<String, String> =
        serde_json::from_slice(&entries.get("failsafe")?.value).ok()?;
    Some(
        members
            .into_iter()
            .filter_map(|(name, url)| Some((MemberName::new(&name).ok()?, url)))
            .collect(),
    )
}

/// `http://host:port` of a member's `api_url`.
pub fn base_of(api_url: &str) -> Option<String> {
    let (scheme, rest) = api_url.split_once("://")?;
    Some(format!("{scheme}://{}", rest.split('/').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(pairs: &[(&str, &str)]) -> Entries {
        let entry = |value: &str| Entry {
            value: value.as_bytes().to_vec(),
            lease: 7,
            created: 3,
            modified: 5,
        };
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), entry(value)))
            .collect()
    }

    #[test]
    fn what_a_patroni_wrote_is_understood() {
        let cluster = cluster(
            9,
            &entries(&[
                ("initialize", "7268616322854375442"),
                ("leader", "postgresql0"),
                (
                    "members/postgresql1",
                    r#"{"conn_url":"postgres://127.0.0.1:5433/postgres","api_url":"http://127.0.0.1:8009/patroni","state":"running","role":"replica","version":"4.1.4","xlog_location":67393608,"replay_lsn":67393608,"receive_lsn":67393608,"replication_state":"streaming","timeline":1,"tags":{"nosync":true}}"#,
                ),
                (
                    "sync",
                    r#"{"leader":"postgresql0","quorum":1,"sync_standby":"postgresql1,postgresql2,postgresql3"}"#,
                ),
                (
                    "history",
                    r#"[[1,25623960,"no recovery target specified","2019-09-23T16:57:57+02:00","postgresql1"]]"#,
                ),
                (
                    "status",
                    r#"{"optime":67393608,"slots":{"permanent_logical":67393552},"retain_slots":["postgresql1"]}"#,
                ),
                (
                    "failover",
                    r#"{"leader":"postgresql0","member":"postgresql1"}"#,
                ),
            ]),
        );
        let name = |text: &str| MemberName::new(text).unwrap();
        assert_eq!(
            cluster.initialize,
            Some(Initialize::Done(7_268_616_322_854_375_442))
        );
        assert_eq!(cluster.leader.unwrap().created, Revision(3));
        let member = &cluster.members[&name("postgresql1")];
        assert!(member.running && !member.primary && member.may_lead && !member.may_sync);
        assert_eq!(member.position.unwrap().flushed, Lsn(67_393_608));
        let (revision, sync) = cluster.sync.unwrap();
        assert_eq!(
            (revision, sync.quorum, sync.voters.len()),
            (Revision(5), 1, 3)
        );
        assert_eq!(cluster.timeline, Some(Timeline(2)));
        assert_eq!(cluster.optime, Some(Lsn(67_393_608)));
        assert_eq!(
            cluster.switchover.unwrap().candidate,
            Some(name("postgresql1"))
        );
    }

    #[test]
    fn who_belongs_to_the_cluster_is_said_by_the_configuration_or_by_nobody() {
        let expected =
            |config: &str| expected(&entries(&[("config", config)])).map(|names| names.len());
        assert_eq!(
            expected(r#"{"ttl":30,"mrg":{"members":["a","b"]}}"#),
            Some(2)
        );
        for silent in [
            r#"{"ttl":30}"#,
            r#"{"mrg":{"members":3}}"#,
            r#"{"mrg":{"members":["a",7]}}"#,
            "nonsense",
        ] {
            assert_eq!(expected(silent), None, "{silent}");
        }
    }

    #[test]
    fn sync_is_written_byte_for_byte_as_patroni_does() {
        let leader = MemberName::new("postgresql0").unwrap();
        assert_eq!(
            render_sync(&Stored::only(leader.clone())),
            r#"{"leader":"postgresql0","quorum":0,"sync_standby":null}"#
        );
        let voters = ["postgresql1", "postgresql2"]
            .iter()
            .map(|name| MemberName::new(name).unwrap())
            .collect();
        let stored = Stored {
            leader,
            voters,
            quorum: 1,
        };
        assert_eq!(
            render_sync(&stored),
            r#"{"leader":"postgresql0","quorum":1,"sync_standby":"postgresql1,postgresql2"}"#
        );
    }

    #[test]
    fn garbage_in_any_key_is_as_good_as_an_absent_key() {
        for garbage in [
            "",
            "\u{0}",
            "[]",
            "{}",
            "null",
            "{\"leader\":1}",
            "\"",
            "[[\"x\"]]",
            "a:b:c",
            "🦀",
        ] {
            let keys = [
                "initialize",
                "leader",
                "members/a",
                "members//",
                "sync",
                "history",
                "status",
                "failover",
                "config",
            ];
            let pairs: Vec<(&str, &str)> = keys.iter().map(|key| (*key, garbage)).collect();
            let cluster = cluster(1, &entries(&pairs));
            assert!(cluster.sync.is_none(), "{garbage}");
        }
    }

    #[test]
    fn a_cleared_or_scheduled_failover_key_is_no_request_and_nonsense_is_none_either() {
        let scheduled = r#"{"leader":"a","member":"b","scheduled_at":"2026-07-24T14:33:19+00:00"}"#;
        for value in [
            "{}",
            scheduled,
            r#"{"leader":7,"ttl":"x"}"#,
            r#"{"leader":"a","member":"no name"}"#,
        ] {
            assert!(
                cluster(1, &entries(&[("failover", value)]))
                    .switchover
                    .is_none()
            );
        }
    }

    #[test]
    fn addresses_are_read_from_the_urls() {
        let data = MemberData {
            conn_url: "postgres://10.0.0.7:5433/postgres".to_owned(),
            api_url: "http://10.0.0.7:8009/patroni".to_owned(),
            ..MemberData::default()
        };
        assert_eq!(data.postgres_address(), Some(("10.0.0.7".to_owned(), 5433)));
        assert_eq!(data.api_base(), Some("http://10.0.0.7:8009".to_owned()));
    }
}
