//! Patroni's JSON, read leniently and written exactly. Whatever cannot be read is as good as
//! absent, and said so: a broken key never takes a leader down.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::snapshot::Intent;
use crate::tags;
use crate::words::{MemberRole, MemberState, ReplicationState};
use mrg_base::{Address, FLOORED_PARAMETERS, Lsn, MemberName, Position, Timeline};
use mrg_election::publisher::MemberRecord;
use mrg_election::{Initialize, LeaseId, Revision, Stored};

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

/// The value of a member key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MemberData {
    /// `postgres://host:port/postgres`
    #[serde(default)]
    pub conn_url: String,
    /// `http://host:port/patroni`
    #[serde(default)]
    pub api_url: String,
    /// The state of its server.
    #[serde(default)]
    pub state: MemberState,
    /// The role of its server.
    #[serde(default)]
    pub role: MemberRole,
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
    /// Standbys: where their WAL comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<ReplicationState>,
    /// The timeline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// A changed parameter waits for a restart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pending_restart: bool,
    /// Which: `{"max_connections": {"old_value": "100", "new_value": "101"}}`
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub pending_restart_reason: Map<String, Value>,
    /// It does not know what it promised before it started, and does not race until a ttl has
    /// passed. Patroni does not know this field.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub just_started: bool,
    /// What PostgreSQL refuses of the parameters; the last good ones are in force. Patroni does not
    /// know this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_parameters: Option<String>,
    /// What of the dynamic configuration is not supported and not in force. Patroni does not know this
    /// field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsupported_config: Option<String>,
    /// The version of the mounted settings that is in force, `none` before one was read; `None` of a
    /// member without such a file. Patroni does not know this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable_settings: Option<String>,
    /// Why the mounted settings are not those that the dynamic configuration goes with, if so. Patroni
    /// does not know this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaited_settings: Option<String>,
    /// Settings of the member's file and of the dynamic configuration that have no effect; see
    /// docs/patroni.md. Patroni does not know this field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored_settings: Vec<String>,
    /// Why the data directory cannot be used with the programs that are here. Patroni does not know
    /// this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unusable_data: Option<String>,
    /// What is in the way of this member; see docs/ha.md. Patroni does not know this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<String>,
    /// Tells whether members have the same passwords for the agent's own roles; see
    /// [`crate::poolers::fingerprint`]. Patroni does not know this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passwords: Option<u16>,
    /// PostgreSQL's `server_version_num`, while it runs. Patroni does not know this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<u32>,
    /// The revision of the dynamic configuration that what is said of restarts takes into account.
    /// Patroni does not know this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configured: Option<Revision>,
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

    /// Whether the tags let it lead.
    pub fn may_lead(&self) -> bool {
        tags::priority(&self.tags).is_some()
    }

    /// Whether the tags let it be a synchronous standby.
    pub fn may_sync(&self) -> bool {
        tags::may_sync(&self.tags)
    }

    /// Whether its server accepts connections.
    pub fn is_running(&self) -> bool {
        self.state == MemberState::Running
    }

    /// Whether its server accepts writes, in the words of this program and of Patroni 4.
    pub fn is_primary(&self) -> bool {
        self.role == MemberRole::Primary
    }

    /// The same in the words of any version of Patroni.
    pub fn is_primary_or_master(&self) -> bool {
        matches!(self.role, MemberRole::Primary | MemberRole::Master)
    }

    /// What it has durably: received, if it is a standby that says so, else written.
    pub fn flushed(&self) -> Option<u64> {
        self.receive_lsn.or(self.xlog_location)
    }

    /// Timeline and flushed position, if it says both.
    pub fn position(&self) -> Option<Position> {
        Some(Position {
            timeline: Timeline(self.timeline?),
            flushed: Lsn(self.flushed()?),
        })
    }

    /// The address in `conn_url`; `None` if there is none that could be dialled.
    pub fn postgres_address(&self) -> Option<Address> {
        let rest = self.conn_url.split_once("://")?.1;
        let authority = rest.split(['/', '?']).next()?;
        let authority = authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host);
        authority.parse().ok()
    }

    /// `http://host:port` of `api_url`.
    pub fn api_base(&self) -> Option<String> {
        base_of(&self.api_url)
    }
}

impl MemberRecord for MemberData {
    fn is_urgent(&self, published: &Self) -> bool {
        // But for what changes all the time, and what is only for people.
        let but_for_those = Self {
            xlog_location: published.xlog_location,
            receive_lsn: published.receive_lsn,
            replay_lsn: published.replay_lsn,
            obstacle: published.obstacle.clone(),
            ..self.clone()
        };
        but_for_those != *published
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

/// One line of `history`: a timeline that ended. In JSON it is an array, and read leniently: what
/// follows the first two may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryLine {
    /// The timeline.
    pub timeline: u32,
    /// Where it ended, in bytes.
    pub ended_at: u64,
    /// Why, in PostgreSQL's words, or [`PROMOTION_UNDER_WAY`].
    pub reason: String,
    /// When that was noted; ISO 8601.
    pub time: String,
    /// The member that led from then on, or was about to.
    pub leader: String,
}

impl HistoryLine {
    /// The timeline that began where this one ended.
    pub fn next_timeline(&self) -> Timeline {
        Timeline(self.timeline.saturating_add(1))
    }

    fn read(value: &Value) -> Option<Self> {
        let text = |i: usize| {
            let text = value.get(i).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        Some(Self {
            timeline: u32::try_from(value.get(0)?.as_u64()?).ok()?,
            ended_at: value.get(1)?.as_u64()?,
            reason: text(2),
            time: text(3),
            leader: text(4),
        })
    }
}

impl Serialize for HistoryLine {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self {
            timeline,
            ended_at,
            reason,
            time,
            leader,
        } = self;
        (timeline, ended_at, reason, time, leader).serialize(serializer)
    }
}

/// Writes `/sync` as Patroni does.
pub(crate) fn render_sync(stored: &Stored) -> String {
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

/// Reads `leader`; `None` for what no member is called.
pub(crate) fn leader(value: &[u8]) -> Option<MemberName> {
    MemberName::new(&String::from_utf8_lossy(value)).ok()
}

/// Reads `initialize`: a system identifier, or else a claim.
pub(crate) fn initialize(value: &[u8], lease: LeaseId) -> Initialize {
    let text = String::from_utf8_lossy(value);
    text.trim()
        .parse()
        .map_or(Initialize::InProgress(lease), Initialize::Done)
}

/// Reads `sync`.
pub(crate) fn sync(value: &[u8]) -> Option<Stored> {
    let data: SyncData = serde_json::from_slice(value).ok()?;
    let leader = MemberName::new(&data.leader?).ok()?;
    let names = data.sync_standby.unwrap_or_default();
    let voters: BTreeSet<MemberName> = names
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .filter_map(|name| MemberName::new(name).ok())
        .collect();
    Some(Stored {
        leader,
        voters,
        quorum: data.quorum.unwrap_or(0),
    })
}

/// Reads `status`.
pub(crate) fn status(value: &[u8]) -> Option<StatusData> {
    serde_json::from_slice(value).ok()
}

/// Reads `failover`. What asks for nothing and is no longer than `{}` is cleared.
pub(crate) fn intent(value: &[u8]) -> Intent {
    match failover_data(value).map(intent_of) {
        Some(request @ Intent::HandOver { .. }) => request,
        _ if value.len() <= 2 => Intent::Cleared,
        _ => Intent::Unknown,
    }
}

fn failover_data(value: &[u8]) -> Option<FailoverData> {
    if let Ok(data) = serde_json::from_slice(value) {
        return Some(data);
    }
    // Old Patroni: `leader:member`.
    let (leader, member) = std::str::from_utf8(value).ok()?.split_once(':')?;
    let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
    Some(FailoverData {
        leader: named(leader),
        member: named(member),
        scheduled_at: None,
    })
}

/// What a request asks for.
pub(crate) fn intent_of(data: FailoverData) -> Intent {
    if (data.leader.is_none() && data.member.is_none()) || data.scheduled_at.is_some() {
        return Intent::Unknown;
    }
    // A name that no member can have makes it nonsense, not a request to any member.
    let name = |text: Option<String>| text.map(|text| MemberName::new(&text)).transpose();
    match (name(data.leader), name(data.member)) {
        (Ok(leader), Ok(candidate)) => Intent::HandOver { leader, candidate },
        _ => Intent::Unknown,
    }
}

/// Reads `history`, oldest line first; lines that cannot be read are left out.
pub(crate) fn history(value: &[u8]) -> Vec<HistoryLine> {
    let lines: Vec<Value> = serde_json::from_slice(value).unwrap_or_default();
    lines.iter().filter_map(HistoryLine::read).collect()
}

/// Reads `failsafe`: the members that may race, and where each one's REST API is.
pub(crate) fn failsafe(value: &[u8]) -> Option<BTreeMap<MemberName, String>> {
    let members: BTreeMap<String, String> = serde_json::from_slice(value).ok()?;
    Some(
        members
            .into_iter()
            .filter_map(|(name, url)| Some((MemberName::new(&name).ok()?, url)))
            .collect(),
    )
}

/// Reads `pause`: the leadership that asks.
pub(crate) fn pause(value: &[u8]) -> Option<Revision> {
    #[derive(Deserialize)]
    struct Data {
        leader: Revision,
    }
    let data: Data = serde_json::from_slice(value).ok()?;
    Some(data.leader)
}

/// `http://host:port` or `https://host:port` of a member's `api_url`; `None` if that is not where a
/// REST API could be dialled.
pub fn base_of(api_url: &str) -> Option<String> {
    let (scheme, rest) = api_url.split_once("://")?;
    let address: Address = rest.split(['/', '?']).next()?.parse().ok()?;
    matches!(scheme, "http" | "https").then(|| format!("{scheme}://{address}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClusterSnapshot;

    fn snapshot(revision: i64, pairs: &[(&str, &str)]) -> ClusterSnapshot {
        let entry = |value: &str| Entry {
            value: value.as_bytes().to_vec(),
            lease: 7,
            created: 3,
            modified: 5,
        };
        let entries = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), entry(value)))
            .collect();
        ClusterSnapshot::parse(Revision(revision), &entries)
    }

    #[test]
    fn what_a_patroni_wrote_is_understood() {
        let snapshot = snapshot(
            9,
            &[
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
            ],
        );
        let cluster = snapshot.cluster();
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
        let expected = |config: &str| {
            snapshot(1, &[("config", config)])
                .cluster()
                .expected
                .map(|names| names.len())
        };
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
            let cluster = snapshot(1, &pairs).cluster();
            assert!(cluster.sync.is_none(), "{garbage}");
            assert!(
                cluster.switchover.is_none() || garbage == "a:b:c",
                "{garbage}"
            );
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
            let snapshot = snapshot(1, &[("failover", value)]);
            assert!(snapshot.cluster().switchover.is_none());
            assert_eq!(snapshot.has_intent(), value != "{}", "{value}");
        }
    }

    #[test]
    fn tags_of_another_member_may_be_text() {
        let member = |tags: &str| {
            let value = format!(r#"{{"tags":{tags}}}"#);
            serde_json::from_str::<MemberData>(&value).unwrap()
        };
        for (tags, may_lead, may_sync) in [
            (r#"{"nofailover":"true"}"#, false, false),
            (r#"{"nofailover":"off"}"#, true, true),
            (r#"{"failover_priority":"0"}"#, false, false),
            (r#"{"nosync":1}"#, true, false),
            (r#"{"sync_priority":"0"}"#, true, false),
        ] {
            let member = member(tags);
            assert_eq!(
                (member.may_lead(), member.may_sync()),
                (may_lead, may_sync),
                "{tags}"
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
        assert_eq!(
            data.postgres_address(),
            Some("10.0.0.7:5433".parse().unwrap())
        );
        assert_eq!(data.api_base(), Some("http://10.0.0.7:8009".to_owned()));
        assert_eq!(
            base_of("https://[::1]:8008/patroni"),
            Some("https://[::1]:8008".to_owned())
        );
        for url in [
            "http://::1:8008/patroni",
            "file://h:1/",
            "http://a@b:1/",
            "http://:1",
        ] {
            assert_eq!(base_of(url), None, "{url}");
        }
    }
}
