//! `POST /restart` and its conditions, as Patroni has them (`do_POST_restart`, `restart_matches`).
//!
//! # Guarantees
//! Nothing is restarted by a request that cannot be read, that has a condition which is not known or
//! not met, or that asks for a later time.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use crate::rest::body;
use crate::rest::control::{SWITCHOVER_WITHIN, say};
use crate::rest::{Api, Ask};
use mrg_dcs::MemberRole;

/// The longest `timeout`.
pub(super) const WITHIN_MOST: Duration = Duration::from_secs(3600);

type Refused = (StatusCode, String);

/// The body's conditions.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Conditions {
    /// Patroni's word for a role.
    role: Option<String>,
    /// Only if the server is older than this `server_version_num`.
    below: Option<u32>,
    /// Only if a changed parameter waits for a restart.
    pending: bool,
    /// How long the answer may take; nothing is done to postgres after that.
    within: Option<Duration>,
}

/// What the conditions are about.
#[derive(Clone, Copy, Debug)]
struct Member<'a> {
    role: &'a str,
    /// `server_version_num`; `None` while no server runs.
    version: Option<u32>,
    pending: bool,
}

impl Conditions {
    /// Reads a body; an empty one is no condition.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let fields: Map<String, Value> = body::read(bytes).map_err(|error| {
            let text = format!("the body is not the JSON that is expected here: {error}");
            (StatusCode::BAD_REQUEST, text)
        })?;
        let mut conditions = Self::default();
        let mut scheduled = false;
        let bad = |text: String| (StatusCode::BAD_REQUEST, text);
        for (name, value) in &fields {
            match name.as_str() {
                "schedule" => scheduled = true,
                "restart_pending" => conditions.pending = true,
                "role" => conditions.role = Some(known_role(value).map_err(bad)?),
                "postgres_version" => conditions.below = Some(version(value).map_err(bad)?),
                "timeout" => conditions.within = Some(seconds(value).map_err(bad)?),
                name => {
                    let text = format!("Unknown filter for the scheduled restart: {name}");
                    return Err(bad(text));
                }
            }
        }
        if scheduled {
            let text =
                "scheduled restarts are not supported by mrg-agent; ask again when it is time";
            return Err((StatusCode::UNPROCESSABLE_ENTITY, text.to_owned()));
        }
        Ok(conditions)
    }

    fn are_met(&self, member: Member<'_>) -> bool {
        let role = self.role.as_deref().is_none_or(|role| role == member.role);
        let version = self
            .below
            .is_none_or(|below| member.version.is_some_and(|version| version < below));
        role && version && (member.pending || !self.pending)
    }
}

fn known_role(value: &Value) -> Result<String, String> {
    match value.as_str() {
        Some(role @ ("primary" | "standby_leader" | "replica")) => Ok(role.to_owned()),
        _ => Err("PostgreSQL role should be either primary, standby_leader, or replica".to_owned()),
    }
}

/// `server_version_num` of a version as people write it.
fn version(value: &Value) -> Result<u32, String> {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    let parts: Result<Vec<u32>, _> = text.split('.').map(str::parse).collect();
    let parts = parts.map_err(|_| format!("Invalid PostgreSQL version: {text}"))?;
    let number = match *parts.as_slice() {
        [major, minor] if (10..1000).contains(&major) && minor < 100 => major * 10_000 + minor,
        [first, second, third] if first < 1000 && second < 100 && third < 100 => {
            first * 10_000 + second * 100 + third
        }
        _ => {
            let form = "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted";
            return Err(format!("{form}: {text}"));
        }
    };
    Ok(number)
}

/// A number of seconds, or text with a unit.
fn seconds(value: &Value) -> Result<Duration, String> {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = match text.strip_prefix(digits).map(str::trim) {
        Some("" | "s") => Some(1000),
        Some("ms") => Some(1),
        Some("min") => Some(60_000),
        Some("h") => Some(3_600_000),
        Some("d") => Some(86_400_000),
        _ => None,
    };
    let milliseconds = unit.and_then(|unit| digits.parse::<u64>().ok()?.checked_mul(unit));
    let within = milliseconds
        .filter(|milliseconds| *milliseconds > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| "Timeout should be a positive number of seconds".to_owned())?;
    if within > WITHIN_MOST {
        let most = WITHIN_MOST.as_secs();
        return Err(format!(
            "timeout: {text} is longer than mrg-agent follows a restart; ask for at most {most} s"
        ));
    }
    Ok(within)
}

/// `POST /restart`: returns when postgres has been restarted.
pub(super) async fn restart(State(api): State<Api>, bytes: Bytes) -> Response {
    let conditions = match Conditions::read(&bytes) {
        Ok(conditions) => conditions,
        Err((status, text)) => return say(status, text),
    };
    let facts = api.context.server.facts();
    let role = MemberRole::of(&api.context.status().postgres);
    let member = Member {
        role: role.as_str(),
        version: facts.as_ref().map(|facts| facts.version),
        pending: facts
            .as_ref()
            .is_some_and(|facts| !facts.pending_restart.is_empty()),
    };
    if !conditions.are_met(member) {
        let text = "restart conditions are not satisfied";
        return say(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let started = || api.context.server.facts().map(|facts| facts.started);
    let before = facts.map(|facts| facts.started);
    if let Err(unavailable) = api.core.tell(Ask::Restart).await {
        return unavailable.into_response();
    }
    // Every look at postgres, of which the facts come, ends in a change of the status.
    let within = conditions.within.unwrap_or(SWITCHOVER_WITHIN);
    let restarted = api.context.wait_for(within, |_| {
        started().filter(|now| Some(now) != before.as_ref())
    });
    match restarted.await {
        Some(_) => say(StatusCode::OK, "postgres restarted"),
        None => say(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "restart failed, or takes longer than {} s",
                within.as_secs()
            ),
        ),
    }
}

/// `DELETE /restart`
pub(super) async fn cancel() -> Response {
    say(StatusCode::NOT_FOUND, "no restarts are scheduled")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Conditions, Refused> {
        Conditions::read(text.as_bytes())
    }

    #[test]
    fn a_body_that_is_not_understood_restarts_nothing() {
        for (text, status, said) in [
            ("x", 400, "JSON"),
            ("[]", 400, "JSON"),
            ("[\"primary\"]", 400, "JSON"),
            ("null", 400, "JSON"),
            (
                r#"{"rôle":"primary"}"#,
                400,
                "Unknown filter for the scheduled restart: rôle",
            ),
            (r#"{"role":"leader"}"#, 400, "should be either primary"),
            (r#"{"role":null}"#, 400, "should be either primary"),
            (r#"{"postgres_version":"17"}"#, 400, "X.Y or X.Y.Z"),
            (
                r#"{"postgres_version":"a.b"}"#,
                400,
                "Invalid PostgreSQL version: a.b",
            ),
            (r#"{"timeout":0}"#, 400, "positive"),
            (r#"{"timeout":"soon"}"#, 400, "positive"),
            (r#"{"timeout":-5}"#, 400, "positive"),
            (r#"{"timeout":3601}"#, 400, "at most 3600 s"),
            (r#"{"timeout":"18446744073709551615d"}"#, 400, "positive"),
            (
                r#"{"schedule":"2099-01-01T00:00:00+00:00"}"#,
                422,
                "not supported",
            ),
            (
                r#"{"schedule":null,"role":"primary"}"#,
                422,
                "not supported",
            ),
        ] {
            let (code, why) = read(text).unwrap_err();
            assert_eq!(code.as_u16(), status, "{text}");
            assert!(why.contains(said), "{text}: {why}");
        }
    }

    #[test]
    fn a_body_without_conditions_may_be_left_out() {
        assert_eq!(read(""), Ok(Conditions::default()));
        assert_eq!(read("{}"), Ok(Conditions::default()));
        let within = Some(Duration::from_secs(120));
        for text in [
            r#"{"timeout":120}"#,
            r#"{"timeout":"120"}"#,
            r#"{"timeout":"2min"}"#,
        ] {
            assert_eq!(read(text).unwrap().within, within, "{text}");
        }
    }

    #[test]
    fn conditions_are_met_as_in_patroni() {
        let primary = Member {
            role: "primary",
            version: Some(170_004),
            pending: false,
        };
        let waiting = Member {
            pending: true,
            ..primary
        };
        let stopped = Member {
            role: "replica",
            version: None,
            pending: false,
        };
        for (text, member, met) in [
            ("{}", primary, true),
            (r#"{"role":"primary"}"#, primary, true),
            (r#"{"role":"replica"}"#, primary, false),
            (r#"{"role":"standby_leader"}"#, primary, false),
            (r#"{"restart_pending":true}"#, primary, false),
            (r#"{"restart_pending":true}"#, waiting, true),
            (r#"{"postgres_version":"17.5"}"#, primary, true),
            (r#"{"postgres_version":"17.4"}"#, primary, false),
            (r#"{"postgres_version":"9.6.3"}"#, primary, false),
            (
                r#"{"postgres_version":"18.1","role":"replica"}"#,
                primary,
                false,
            ),
            (r#"{"postgres_version":"18.1"}"#, stopped, false),
        ] {
            assert_eq!(
                read(text).unwrap().are_met(member),
                met,
                "{text} {member:?}"
            );
        }
    }
}
