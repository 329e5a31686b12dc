//! What a member reports of itself and of its cluster.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::config::Finding;
use crate::context::Status;
use crate::obstacle::obstacle;
use crate::rest::Api;
use mrg_base::MemberName;
use mrg_dcs::MemberRole;
use mrg_dcs::health::{Access, Failing, Health};
use mrg_dcs::wire::MemberData;
use mrg_election::{Cluster, Mode, Postgres, WalReceiver};
use mrg_postgres::ServerFacts;

/// The version that the REST API and the member key show, so that Patroni's tools know what to
/// expect.
pub(crate) const PATRONI_VERSION: &str = "4.1.5";

/// Whether this member leads now: postgres is a primary, and the leader key is surely its own, or
/// all members promised to wait for it while etcd does not answer.
pub(crate) fn leads(status: &Status) -> bool {
    let until = status.leads_until.max(status.promised_until);
    matches!(status.postgres, Postgres::Primary(_))
        && until.is_some_and(|until| mrg_clock::now() < until)
}

/// `GET /patroni`
pub(crate) async fn patroni(State(api): State<Api>) -> Response {
    axum::Json(member_report(&api)).into_response()
}

/// The body of `/patroni` and of every health check.
pub(crate) fn member_report(api: &Api) -> Value {
    let status = api.context.status();
    let facts = api.context.server.facts();
    let config = &api.context.config;
    let mut report = server_report(&status, facts.as_ref());
    let mut insert = |key: &str, value: Value| report.insert(key.to_owned(), value);
    if status.cluster.leader.is_none() {
        insert("cluster_unlocked", true.into());
    }
    if status.settings.paused {
        insert("pause", true.into());
    }
    if status.may_write && !status.holds_key {
        insert("failsafe_mode_is_active", true.into());
    }
    if is_sync(&status.cluster, &config.name) {
        insert(sync_role(&status), true.into());
    }
    if let Some(why) = status.why {
        let mut reason = json!({ "label": why.label(), "message": why.sentence() });
        if let Some(failure) = &status.failure {
            reason["failure"] = failure.clone().into();
        }
        insert("reason", reason);
    }
    if let Some(text) = obstacle(&api.context, &status) {
        insert("obstacle", text.into());
    }
    if let Some(error) = &status.config_error {
        insert("config_error", error.clone().into());
    }
    if let Some(text) = &status.unsupported_config {
        insert("unsupported_config", text.clone().into());
    }
    if !status.ignored.is_empty() {
        insert("ignored_settings", lines(&status.ignored));
    }
    if !config.warnings.is_empty() {
        insert("warnings", lines(&config.warnings));
    }
    if let Some(why) = api.context.server.refused_parameters() {
        insert("refused_parameters", why.into());
    }
    if let Some((version, difference)) = api.context.server.mounted_settings() {
        insert("executable_settings", version.into());
        if let Some(why) = difference {
            insert("awaited_settings", why.into());
        }
    }
    if let Some(errors) = dcs_errors(&status.etcd) {
        insert("dcs_errors", errors);
    }
    insert("dcs_last_seen", (status.dcs_last_seen / 1000).into());
    insert("tags", Value::Object(status.tags.as_ref().clone()));
    let about = json!({ "version": PATRONI_VERSION, "scope": config.scope.as_str(), "name": config.name.as_str() });
    insert("patroni", about);
    Value::Object(report)
}

/// Which kinds of request to etcd fail at present, each with etcd's own words; `None` if none does.
fn dcs_errors(etcd: &Health) -> Option<Value> {
    let error = |(access, failing): (Access, &Failing)| {
        (access.name().to_owned(), failing.text.clone().into())
    };
    let errors: Map<String, Value> = etcd.failing().map(error).collect();
    (!errors.is_empty()).then(|| errors.into())
}

fn lines(findings: &[Finding]) -> Value {
    findings
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .into()
}

/// The part of the report that is about postgres.
fn server_report(status: &Status, facts: Option<&ServerFacts>) -> Map<String, Value> {
    let mut report = Map::new();
    let mut insert = |key: &str, value: Value| report.insert(key.to_owned(), value);
    insert("state", status.member_state().as_str().into());
    insert("role", MemberRole::of(&status.postgres).as_str().into());
    if let Some(facts) = facts {
        insert("postmaster_start_time", facts.started.clone().into());
        insert("server_version", facts.version.into());
        if !facts.pending_restart.is_empty() {
            insert("pending_restart", true.into());
        }
    }
    match &status.postgres {
        Postgres::Primary(primary) => {
            let location = primary.position.flushed.0;
            insert("xlog", json!({ "location": location }));
            insert("timeline", primary.position.timeline.0.into());
            let system_id = primary.system_id.to_string();
            insert("database_system_identifier", system_id.into());
            if let Some(facts) = facts {
                insert("replication", json!(facts.replication));
            }
        }
        Postgres::Standby(standby) => {
            let received = standby.position.map(|position| position.flushed.0);
            let replayed = facts.and_then(|facts| facts.replayed).map(|lsn| lsn.0);
            insert(
                "xlog",
                json!({ "received_location": received, "replayed_location": replayed, "paused": false }),
            );
            let timeline = standby.position.map(|position| position.timeline.0);
            insert("timeline", timeline.into());
            let system_id = standby.system_id.to_string();
            insert("database_system_identifier", system_id.into());
            let streaming = standby.receiver == WalReceiver::Streaming;
            let word = if streaming {
                "streaming"
            } else {
                "in archive recovery"
            };
            insert("replication_state", word.into());
        }
        _ => {}
    }
    report
}

/// Patroni's word for a member in `/sync`.
fn sync_role(status: &Status) -> &'static str {
    if status.settings.replication.mode == Mode::Quorum {
        "quorum_standby"
    } else {
        "sync_standby"
    }
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
            let role = if leader.as_ref() == Some(name) {
                "leader"
            } else if is_sync(cluster, name) {
                sync_role(&status)
            } else {
                "replica"
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
    let address = data.postgres_address();
    let host = address.as_ref().map_or("", |address| address.host.as_str());
    let port = address.as_ref().map_or(0, |address| address.port);
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
