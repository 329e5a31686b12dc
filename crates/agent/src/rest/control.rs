//! Requests that change something, and the members' own among each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::{CodeSource, audit_dynamic};
use crate::context::Context;
use crate::peers::{FailsafeRequest, Withdrawal};
use crate::reload;
use crate::rest::body::Body;
use crate::rest::runtime::Unavailable;
use crate::rest::{Api, Ask};
use mrg_base::{Lsn, MemberName};
use mrg_dcs::wire::{FailoverData, MemberData};
use mrg_dcs::{Attempt, DynamicConfig, Store, settings};
use mrg_election::{Revision, VoteRefusal};
use mrg_postgres::{HbaSource, check_hba_line};
use mrg_telemetry::chain;

/// How long a switchover is followed before the answer is "unknown".
pub(super) const SWITCHOVER_WITHIN: Duration = Duration::from_secs(60);
/// How long a caller may wait for WAL to be received.
const RECEIVED_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn say(status: StatusCode, text: impl Into<String>) -> Response {
    (status, text.into()).into_response()
}

/// `GET /config`
pub(super) async fn get_config(State(api): State<Api>) -> Response {
    let snapshot = api.context.status().snapshot;
    match snapshot.config().map(|key| &key.value) {
        Some(Ok(config)) => Json(&config.0).into_response(),
        Some(Err(error)) => say(StatusCode::BAD_GATEWAY, error.to_string()),
        None => say(StatusCode::BAD_GATEWAY, "there is no configuration yet"),
    }
}

/// `PATCH /config`: merges; `null` deletes.
pub(super) async fn patch_config(
    State(api): State<Api>,
    Body(patch): Body<Map<String, Value>>,
) -> Response {
    if let Some(refusal) = unsupported(&patch, api.context.config.code_source()) {
        return refusal;
    }
    let snapshot = api.context.status().snapshot;
    let current = snapshot.config();
    let mut config = match current.map(|key| &key.value) {
        Some(Ok(config)) => config.clone(),
        Some(Err(error)) => {
            return say(StatusCode::CONFLICT, format!("{error}; or PUT a whole one"));
        }
        None => DynamicConfig::default(),
    };
    config.patch(&patch);
    store_config(&api, config, current.map(|key| key.modified)).await
}

/// `PUT /config`: replaces.
pub(super) async fn put_config(
    State(api): State<Api>,
    Body(config): Body<Map<String, Value>>,
) -> Response {
    if let Some(refusal) = unsupported(&config, api.context.config.code_source()) {
        return refusal;
    }
    let snapshot = api.context.status().snapshot;
    let over = snapshot.config().map(|key| key.modified);
    store_config(&api, DynamicConfig(config), over).await
}

/// Refuses what would be stored and not be in force. What another program has stored stays, so that
/// a patch of something else, a pause for one, is possible.
fn unsupported(config: &Map<String, Value>, code: CodeSource) -> Option<Response> {
    refusal(config, code).map(|(status, why)| say(status, why))
}

fn refusal(config: &Map<String, Value>, code: CodeSource) -> Option<(StatusCode, String)> {
    let audit = audit_dynamic(config, code);
    // It is understood and supported, but not from here.
    let status = if audit.executing.is_empty() {
        StatusCode::BAD_REQUEST
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let refused = audit.executing.iter().chain(&audit.refused);
    let lines: Vec<String> = refused.map(|found| format!("config: {found}")).collect();
    (!lines.is_empty()).then(|| (status, lines.join("\n")))
}

/// Why a whole configuration cannot be in force, if it cannot.
fn unusable(config: &DynamicConfig) -> Option<String> {
    if let Err(error) = settings(config) {
        return Some(error.to_string());
    }
    let lines = config.pg_hba().unwrap_or_default();
    let wrong = lines
        .iter()
        .find_map(|line| check_hba_line(line, HbaSource::Store).err())?;
    Some(wrong.to_string())
}

/// Whether a body may be the whole configuration.
///
/// # Errors
/// The first reason why it may not.
pub(super) fn check_config(config: Map<String, Value>) -> Result<(), String> {
    let refused = refusal(&config, CodeSource::Mounted).map(|(_, why)| why);
    refused
        .or_else(|| unusable(&DynamicConfig(config)))
        .map_or(Ok(()), Err)
}

async fn store_config(api: &Api, config: DynamicConfig, over: Option<Revision>) -> Response {
    if let Some(why) = unusable(&config) {
        return say(StatusCode::BAD_REQUEST, why);
    }
    let new = config.clone();
    let written = with_store(api, async move |context| {
        let within = context.dcs_within();
        context.store.write_config(over, new, within).await
    });
    match written.await {
        Ok(Attempt::Done(_)) => Json(config.0).into_response(),
        Ok(Attempt::Conflict) => say(
            StatusCode::CONFLICT,
            "the configuration was changed by another meanwhile; try again",
        ),
        Ok(Attempt::InDoubt(error) | Attempt::Failed(error)) => {
            say(StatusCode::SERVICE_UNAVAILABLE, chain(&error))
        }
        Err(unavailable) => unavailable.into_response(),
    }
}

/// Does something with the cluster's keys on the agent's own runtime.
async fn with_store<T, F>(api: &Api, work: impl FnOnce(Arc<Context>) -> F) -> Result<T, Unavailable>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    api.core.perform(work(api.context.clone())).await
}

/// `POST /reload`
pub(super) async fn reload(State(api): State<Api>) -> Response {
    let (new, waiting) = match reload::read(&api.context).await {
        Ok(read) => read,
        Err(error) => return say(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    if let Err(unavailable) = api.core.tell(Ask::Reload(new)).await {
        return unavailable.into_response();
    }
    if waiting.is_empty() {
        return say(StatusCode::ACCEPTED, "reload scheduled");
    }
    let waiting = waiting.join(", ");
    let text = format!("reload scheduled; these need a restart of the agent: {waiting}");
    say(StatusCode::ACCEPTED, text)
}

/// The body of `POST /switchover` and `POST /failover`: Patroni's.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    leader: Option<String>,
    candidate: Option<String>,
    member: Option<String>,
    scheduled_at: Option<String>,
}

/// `POST /switchover`
pub(super) async fn switchover(State(api): State<Api>, Body(request): Body<Request>) -> Response {
    if request.leader.is_none() {
        return say(
            StatusCode::BAD_REQUEST,
            "Switchover could be performed only from a specific leader",
        );
    }
    hand_over(&api, request, "Switchover").await
}

/// `POST /failover`
pub(super) async fn failover(State(api): State<Api>, Body(request): Body<Request>) -> Response {
    if request.candidate.is_none() && request.member.is_none() {
        return say(
            StatusCode::BAD_REQUEST,
            "Failover could be performed only to a specific candidate",
        );
    }
    hand_over(
        &api,
        Request {
            leader: None,
            ..request
        },
        "Failover",
    )
    .await
}

/// `DELETE /switchover`
pub(super) async fn cancel(State(api): State<Api>) -> Response {
    let withdrawn = with_store(&api, async move |context| {
        let within = context.dcs_within();
        context.store.withdraw_failover(within).await
    });
    match withdrawn.await.map(Attempt::into_result) {
        Ok(Ok(_)) => say(StatusCode::OK, "scheduled switchover deleted"),
        Ok(Err(error)) => say(StatusCode::SERVICE_UNAVAILABLE, chain(&error)),
        Err(unavailable) => unavailable.into_response(),
    }
}

/// Why a hand-over cannot be asked for, in Patroni's words.
fn objection(
    api: &Api,
    request: &Request,
    candidate: Option<&str>,
) -> Option<(StatusCode, String)> {
    let no = |text: &str| Some((StatusCode::PRECONDITION_FAILED, text.to_owned()));
    if request.scheduled_at.is_some() {
        let text =
            "scheduled switchovers are not supported by mrg-agent; ask again when it is time";
        return Some((StatusCode::UNPROCESSABLE_ENTITY, text.to_owned()));
    }
    let status = api.context.status();
    let cluster = &status.cluster;
    let leader = cluster.leader.as_ref().map(|key| key.member.to_string());
    if leader.is_none() && request.leader.is_some() {
        return no("cluster has no leader");
    }
    if request.leader.is_some() && request.leader != leader {
        return no("leader name does not match");
    }
    let voters = cluster.sync.as_ref().map(|(_, stored)| &stored.voters);
    let eligible = |name: &MemberName| {
        let member = cluster.members.get(name);
        let by_sync =
            !status.settings.is_synchronous() || voters.is_some_and(|voters| voters.contains(name));
        member.is_some_and(|member| member.running && member.may_lead) && by_sync
    };
    let just_started = |name: &MemberName| {
        let member = cluster.members.get(name);
        member.is_some_and(|member| member.just_started)
    };
    let ttl = status.settings.failover.ttl;
    let not_yet = || {
        Some((
            StatusCode::PRECONDITION_FAILED,
            format!(
                "the candidate started less than {ttl} ago and cannot know what it promised before; nothing was done, ask again after that time"
            ),
        ))
    };
    match candidate {
        Some(name) if Some(name) == leader.as_deref() => no("leader and candidate are the same"),
        Some(name) => match MemberName::new(name)
            .ok()
            .filter(|name| cluster.members.contains_key(name))
        {
            None => no("candidate does not exist"),
            Some(name) if !eligible(&name) && status.settings.is_synchronous() => {
                no("candidate name does not match with sync_standby")
            }
            Some(name) if !eligible(&name) => {
                no("candidate is not healthy, or its tags forbid it to lead")
            }
            Some(name) if just_started(&name) => not_yet(),
            Some(_) => None,
        },
        None => {
            let mut others = cluster
                .members
                .keys()
                .filter(|name| Some(name.as_str()) != leader.as_deref() && eligible(name))
                .peekable();
            if others.peek().is_none() {
                no("no good candidates have been found")
            } else if others.all(just_started) {
                not_yet()
            } else {
                None
            }
        }
    }
}

async fn hand_over(api: &Api, request: Request, action: &str) -> Response {
    let candidate = request.candidate.clone().or(request.member.clone());
    if let Some((status, text)) = objection(api, &request, candidate.as_deref()) {
        return say(status, text);
    }
    let snapshot = api.context.status().snapshot;
    let before = snapshot.leader_key().map(|key| key.created);
    let data = FailoverData {
        leader: request.leader,
        member: candidate,
        scheduled_at: None,
    };
    let requested = with_store(api, async move |context| {
        let within = context.dcs_within();
        context.store.request_failover(data, within).await
    });
    match requested.await.map(Attempt::into_result) {
        Ok(Ok(_)) => follow_hand_over(api, before, action).await,
        Ok(Err(error)) => say(StatusCode::SERVICE_UNAVAILABLE, chain(&error)),
        Err(unavailable) => unavailable.into_response(),
    }
}

/// Waits until another leader holds the key and runs as primary, or the request is cleared.
async fn follow_hand_over(api: &Api, before: Option<Revision>, action: &str) -> Response {
    let mut seen = false;
    let end = api.context.wait_for(SWITCHOVER_WITHIN, |status| {
        let snapshot = &status.snapshot;
        let pending = snapshot.has_intent();
        seen |= pending;
        let key = snapshot.leader_key();
        let Some(key) = key.filter(|key| Some(key.created) != before) else {
            return (seen && !pending && key.is_some()).then_some(None);
        };
        let name = key.value.as_ref()?;
        let data = snapshot.member(name);
        data.is_some_and(MemberData::is_primary)
            .then_some(Some(name.clone()))
    });
    match end.await {
        Some(Some(name)) => {
            let verb = if action == "Switchover" {
                "switched over"
            } else {
                "failed over"
            };
            say(StatusCode::OK, format!("Successfully {verb} to \"{name}\""))
        }
        Some(None) => say(StatusCode::SERVICE_UNAVAILABLE, format!("{action} failed")),
        None => say(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{action} status unknown"),
        ),
    }
}

/// `GET /failsafe`
pub(super) async fn failsafe_members(State(api): State<Api>) -> Response {
    let status = api.context.status();
    if !status.settings.failover.failsafe {
        return say(StatusCode::BAD_GATEWAY, "failsafe_mode is off");
    }
    let map: BTreeMap<&MemberName, &String> = status
        .snapshot
        .members()
        .map(|(name, data)| (name, &data.api_url))
        .collect();
    Json(map).into_response()
}

/// `POST /failsafe`
pub(super) async fn failsafe(
    State(api): State<Api>,
    Body(request): Body<FailsafeRequest>,
) -> Response {
    let promise = |answered| Ask::Promise(request, answered);
    match api.core.ask(promise).await {
        Ok(Ok(())) => say(StatusCode::OK, "Accepted"),
        Ok(Err(why)) => say(StatusCode::INTERNAL_SERVER_ERROR, why),
        Err(unavailable) => unavailable.into_response(),
    }
}

/// `POST /mrg/withdraw`
pub(super) async fn withdraw(
    State(api): State<Api>,
    Body(withdrawal): Body<Withdrawal>,
) -> Response {
    match api.core.tell(Ask::Withdraw(withdrawal)).await {
        Ok(()) => say(StatusCode::OK, "Withdrawn"),
        Err(unavailable) => unavailable.into_response(),
    }
}

/// `POST /mrg/vote`: stops our WAL receiver if nobody leads, and says how far we are.
pub(super) async fn vote(State(api): State<Api>) -> Response {
    match api.core.ask(Ask::Vote).await {
        Ok(Ok(vote)) => Json(vote).into_response(),
        Ok(Err(why @ VoteRefusal::DcsReset)) => {
            say(StatusCode::PRECONDITION_FAILED, why.to_string())
        }
        Ok(Err(VoteRefusal::Other(why))) => say(StatusCode::CONFLICT, why),
        Err(unavailable) => unavailable.into_response(),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Received {
    lsn: u64,
    within_ms: u64,
}

/// `GET /mrg/received`: answers once we have durable WAL past a position.
pub(super) async fn received(State(api): State<Api>, Query(query): Query<Received>) -> Response {
    let within = Duration::from_millis(query.within_ms).min(RECEIVED_WITHIN);
    if api.core.receipts.are_past(Lsn(query.lsn), within).await {
        say(StatusCode::OK, "received")
    } else {
        say(StatusCode::SERVICE_UNAVAILABLE, "not received in time")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_not_be_in_force_is_not_stored() {
        let refused = |text: &str| {
            let config = serde_json::from_str(text).unwrap();
            unsupported(&config, CodeSource::MemberFile)
        };
        for text in [
            r#"{"standby_cluster":{"host":"a"}}"#,
            r#"{"slots":{"a":{"type":"physical"}}}"#,
            r#"{"postgresql":{"callbacks":{"on_start":"x"}}}"#,
            r#"{"postgresql":{"parameters":{"a = 1\nb":"x"}}}"#,
        ] {
            assert!(refused(text).is_some(), "{text}");
        }
        for text in [
            r#"{"pause":true}"#,
            r#"{"standby_cluster":null,"slots":{}}"#,
            r#"{"ttl":30,"postgresql":{"parameters":{"work_mem":"4MB"}}}"#,
            r#"{"postgresql":{"parameters":{"archive_command":null}}}"#,
        ] {
            assert!(refused(text).is_none(), "{text}");
        }
        let text = r#"{"postgresql":{"parameters":{"Archive_Command":"id"}}}"#;
        let answer = refused(text).unwrap();
        assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let config = serde_json::from_str(text).unwrap();
        assert!(unsupported(&config, CodeSource::Store).is_none());
    }
}
