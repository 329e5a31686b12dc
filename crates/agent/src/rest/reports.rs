//! What a member says of itself and of its cluster.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::context::Status;
use crate::rest::Api;
use mrg_base::MemberName;
use mrg_dcs::wire::MemberData;
use mrg_election::{Cluster, Mode, Postgres, WalReceiver};

/// The version that the REST API and the member key show, so that Patroni's tools know what to
/// expect.
pub(crate) const PATRONI_VERSION: &str = "4.1.5";

/// Patroni's word for the state of the server.
pub(crate) fn state(status: &Status) -> &'static str {
    match status.postgres {
        Postgres::Primary(_) | Postgres::Standby(_) => "running",
        Postgres::Starting | Postgres::Unknown => "starting",
        Postgres::Stopped(_) => "stopped",
        Postgres::NoData => "creating replica",
    }
}

/// Patroni's word for the role of the server.
pub(crate) fn role(status: &Status) -> &'static str {
    match status.postgres {
        Postgres::Primary(_) => "primary",
        Postgres::NoData => "uninitialized",
        _ => "replica",
    }
}

/// Whether this member leads, as of now.
pub(crate) fn leads(status: &Status) -> bool {
    matches!(status.postgres, Postgres::Primary(_))
        && status
            .leads_until
            .is_some_and(|until| mrg_clock::now() < until)
}

/// `GET /patroni`
pub(crate) async fn patroni(State(api): State<Api>) -> Response {
    axum::Json(member_report(&api)).into_response()
}

/// The body of `/patroni` and of every health check.
pub(crate) fn member_report(api: &Api) -> Value {
    let status = api.context.status();
    let facts = api.context.server.facts();
    let mut report = Map::new();
    report.insert("state".into(), state(&status).into());
    report.insert("role".into(), role(&status).into());
    if let Some(facts) = &facts {
        report.insert("postmaster_start_time".into(), facts.started.clone().into());
        report.insert("server_version".into(), facts.version.into());
        if !facts.pending_restart.is_empty() {
            report.insert("pending_restart".into(), true.into());
        }
    }
    match &status.postgres {
        Postgres::Primary(primary) => {
            report.insert(
                "xlog".into(),
                json!({ "location": primary.position.flushed.0 }),
            );
            report.insert("timeline".into(), primary.position.timeline.0.into());
            report.insert(
                "database_system_identifier".into(),
                primary.system_id.to_string().into(),
            );
            if let Some(facts) = &facts {
                report.insert("replication".into(), json!(facts.replication));
            }
        }
        Postgres::Standby(standby) => {
            let received = standby.position.map(|position| position.flushed.0);
            let replayed = facts
                .as_ref()
                .and_then(|facts| facts.replayed)
                .map(|lsn| lsn.0);
            report.insert("xlog".into(), json!({ "received_location": received, "replayed_location": replayed, "paused": false }));
            report.insert(
                "timeline".into(),
                standby.position.map(|position| position.timeline.0).into(),
            );
            report.insert(
                "database_system_identifier".into(),
                standby.system_id.to_string().into(),
            );
            let streaming = standby.receiver == WalReceiver::Streaming;
            report.insert(
                "replication_state".into(),
                if streaming {
                    "streaming"
                } else {
                    "in archive recovery"
                }
                .into(),
            );
        }
        _ => {}
    }
    let cluster = &status.cluster;
    if cluster.leader.is_none() {
        report.insert("cluster_unlocked".into(), true.into());
    }
    if status.settings.paused {
        report.insert("pause".into(), true.into());
    }
    if is_sync(cluster, &api.context.config.name) {
        let word = if status.settings.replication.mode == Mode::Quorum {
            "quorum_standby"
        } else {
            "sync_standby"
        };
        report.insert(word.into(), true.into());
    }
    if let Some(why) = status.why {
        report.insert(
            "reason".into(),
            json!({ "label": why.label(), "message": why.sentence() }),
        );
    }
    if let Some(error) = &status.config_error {
        report.insert("config_error".into(), error.clone().into());
    }
    report.insert("dcs_last_seen".into(), (status.dcs_last_seen / 1000).into());
    report.insert(
        "tags".into(),
        Value::Object(api.context.config.tags.clone()),
    );
    let config = &api.context.config;
    let about = json!({ "version": PATRONI_VERSION, "scope": config.scope.as_str(), "name": config.name.as_str() });
    report.insert("patroni".into(), about);
    Value::Object(report)
}

/// Whether a member is in `/sync`.
pub(crate) fn is_sync(cluster: &Cluster, member: &MemberName) -> bool {
    cluster
        .sync
        .as_ref()
        .is_some_and(|(_, stored)| stored.voters.contains(member))
}

/// `GET /cluster`
pub(crate) async fn cluster(State(api): State<Api>) -> Response {
    let status = api.context.status();
    let cluster = &status.cluster;
    let leader = cluster.leader.as_ref().map(|key| key.member.clone());
    let head = leader
        .as_ref()
        .and_then(|name| status.snapshot.member(name))
        .and_then(MemberData::flushed)
        .or(cluster.optime.map(|lsn| lsn.0));
    let rows: Vec<Value> = status
        .snapshot
        .members()
        .map(|(name, data)| {
            let role = match () {
                () if leader.as_ref() == Some(name) => "leader",
                () if is_sync(cluster, name)
                    && status.settings.replication.mode == Mode::Quorum =>
                {
                    "quorum_standby"
                }
                () if is_sync(cluster, name) => "sync_standby",
                () => "replica",
            };
            member_row(name, data, role, head)
        })
        .collect();
    let mut report = json!({ "members": rows, "scope": api.context.config.scope.as_str() });
    if status.settings.paused {
        report["pause"] = true.into();
    }
    axum::Json(report).into_response()
}

fn member_row(name: &MemberName, data: &MemberData, role: &str, head: Option<u64>) -> Value {
    let (host, port) = data.postgres_address().unwrap_or_default();
    let state = match &data.replication_state {
        Some(state) if data.is_running() => state.as_str(),
        _ => data.state.as_str(),
    };
    let mut row = json!({ "name": name.as_str(), "role": role, "state": state, "api_url": data.api_url, "host": host, "port": port });
    if let Some(timeline) = data.timeline {
        row["timeline"] = timeline.into();
    }
    if data.pending_restart {
        row["pending_restart"] = true.into();
    }
    if !data.tags.is_empty() {
        row["tags"] = Value::Object(data.tags.clone());
    }
    if role != "leader" {
        let lag = |at: Option<u64>| {
            head.zip(at).map_or(Value::from("unknown"), |(head, at)| {
                head.saturating_sub(at).into()
            })
        };
        row["lag"] = lag(data.replay_lsn.or(data.xlog_location));
        row["receive_lag"] = lag(data.receive_lsn);
        row["replay_lag"] = lag(data.replay_lsn);
    }
    row
}

/// `GET /history`
pub(crate) async fn history(State(api): State<Api>) -> Response {
    axum::Json(api.context.status().snapshot.history()).into_response()
}
