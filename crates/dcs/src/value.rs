//! What is written under the keys.

use std::collections::BTreeMap;

use serde_json::json;

use crate::config::DynamicConfig;
use crate::keys::Key;
use crate::poolers::PoolerRecord;
use crate::wire::{FailoverData, HistoryLine, MemberData, StatusData, compact, render_sync};
use mrg_base::MemberName;
use mrg_election::{Revision, Stored};

/// A value together with the key it belongs under, so that none can be written under another's.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `leader`
    Leader(MemberName),
    /// `initialize`, claimed: empty, as Patroni writes it.
    Claim,
    /// `initialize`: the system identifier.
    SystemId(u64),
    /// `config`
    Config(DynamicConfig),
    /// `sync`
    Sync(Stored),
    /// `failover`; the default is the cleared request, `{}`.
    Failover(FailoverData),
    /// `failsafe`: the members' names and the URLs of their REST APIs.
    Failsafe(BTreeMap<MemberName, String>),
    /// `history`, oldest line first.
    History(Vec<HistoryLine>),
    /// `status`
    Status(StatusData),
    /// `members/<name>`
    Member(MemberName, Box<MemberData>),
    /// `pause`: the revision that created the leader key of the leader that asks.
    Pause(Revision),
    /// `poolers/<pod>`
    Pooler(String, Box<PoolerRecord>),
}

impl Value {
    /// The key it belongs under.
    pub fn key(&self) -> Key {
        match self {
            Value::Leader(_) => Key::Leader,
            Value::Claim | Value::SystemId(_) => Key::Initialize,
            Value::Config(_) => Key::Config,
            Value::Sync(_) => Key::Sync,
            Value::Failover(_) => Key::Failover,
            Value::Failsafe(_) => Key::Failsafe,
            Value::History(_) => Key::History,
            Value::Status(_) => Key::Status,
            Value::Member(name, _) => Key::Member(name.clone()),
            Value::Pause(_) => Key::Pause,
            Value::Pooler(pod, _) => Key::Pooler(pod.clone()),
        }
    }

    /// The bytes in etcd: Patroni's, without blanks.
    pub fn render(&self) -> String {
        match self {
            Value::Leader(name) => name.to_string(),
            Value::Claim => String::new(),
            Value::SystemId(id) => id.to_string(),
            Value::Config(config) => compact(&config.0),
            Value::Sync(stored) => render_sync(stored),
            Value::Failover(data) => compact(data),
            Value::Failsafe(members) => compact(members),
            Value::History(lines) => compact(lines),
            Value::Status(data) => compact(data),
            Value::Member(_, data) => compact(data),
            Value::Pause(leadership) => compact(&json!({ "leader": leadership.0 })),
            Value::Pooler(_, record) => compact(record),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_pool_core::Reason;
    use serde_json::Map;

    fn name(text: &str) -> MemberName {
        MemberName::new(text).unwrap()
    }

    fn member() -> MemberData {
        MemberData {
            conn_url: "postgres://10.0.0.2:5432/postgres".to_owned(),
            api_url: "http://10.0.0.2:8008/patroni".to_owned(),
            state: "running".into(),
            role: "replica".into(),
            version: "4.1.5".to_owned(),
            xlog_location: Some(100),
            replay_lsn: Some(90),
            receive_lsn: Some(100),
            replication_state: Some("streaming".into()),
            timeline: Some(2),
            server_version: Some(170_004),
            configured: Some(Revision(9)),
            tags: Map::from_iter([("nosync".to_owned(), true.into())]),
            ..MemberData::default()
        }
    }

    #[test]
    fn values_are_written_byte_for_byte_as_ever() {
        let line = HistoryLine {
            timeline: 1,
            ended_at: 256,
            reason: "no recovery target specified".to_owned(),
            time: "2026-01-01T00:00:00Z".to_owned(),
            leader: "a".to_owned(),
        };
        let record = PoolerRecord {
            pool: "w".to_owned(),
            writes: true,
            max_wait_ms: 5000,
            pause: Some(Revision(31)),
            reason: Reason::Confirmed.into(),
            passwords: BTreeMap::from([("app".to_owned(), 7)]),
            members: vec!["a".to_owned()],
            addresses: vec!["10.0.0.2:5432".to_owned()],
            ..PoolerRecord::default()
        };
        let request = FailoverData {
            leader: Some("a".to_owned()),
            member: Some("b".to_owned()),
            scheduled_at: None,
        };
        let status = StatusData {
            optime: 5,
            slots: BTreeMap::from([("b".to_owned(), 4)]),
        };
        let failsafe = BTreeMap::from([(name("a"), "http://a:8008/patroni".to_owned())]);
        let config = DynamicConfig::parse(br#"{"ttl":30,"postgresql":{"b":1,"a":2}}"#).unwrap();
        for (value, text) in [
            (Value::Leader(name("a")), "a"),
            (Value::Claim, ""),
            (Value::SystemId(7), "7"),
            (
                Value::Config(config),
                r#"{"ttl":30,"postgresql":{"b":1,"a":2}}"#,
            ),
            (
                Value::Sync(Stored::only(name("a"))),
                r#"{"leader":"a","quorum":0,"sync_standby":null}"#,
            ),
            (Value::Failover(FailoverData::default()), "{}"),
            (Value::Failover(request), r#"{"leader":"a","member":"b"}"#),
            (
                Value::Failsafe(failsafe),
                r#"{"a":"http://a:8008/patroni"}"#,
            ),
            (
                Value::History(vec![line]),
                r#"[[1,256,"no recovery target specified","2026-01-01T00:00:00Z","a"]]"#,
            ),
            (Value::Status(status), r#"{"optime":5,"slots":{"b":4}}"#),
            (
                Value::Member(name("b"), Box::new(member())),
                r#"{"conn_url":"postgres://10.0.0.2:5432/postgres","api_url":"http://10.0.0.2:8008/patroni","state":"running","role":"replica","version":"4.1.5","xlog_location":100,"replay_lsn":90,"receive_lsn":100,"replication_state":"streaming","timeline":2,"server_version":170004,"configured":9,"tags":{"nosync":true}}"#,
            ),
            (Value::Pause(Revision(12)), r#"{"leader":12}"#),
            (
                Value::Pooler("w-1".to_owned(), Box::new(record)),
                r#"{"pool":"w","writes":true,"max_wait_ms":5000,"abandons":false,"pause":31,"drained":false,"why":"Confirmed","passwords":{"app":7},"members":["a"],"addresses":["10.0.0.2:5432"],"generation":0,"clients":0,"waiting":0,"rewire":null}"#,
            ),
        ] {
            assert_eq!(value.render(), text);
        }
    }
}
