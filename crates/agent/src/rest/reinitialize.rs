//! `POST /reinitialize`, as Patroni has it (`do_POST_reinitialize`, `Ha.reinitialize`).

#![deny(clippy::indexing_slicing, clippy::panic)]

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::Value;

use crate::rest::control::say;
use crate::rest::{Api, Ask, body};
use mrg_dcs::tags::truth;

/// The body. Copies are made from the leader in any case.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Request {
    force: Value,
    from_leader: Value,
}

/// Whether what is under way is begun again, by a body that may be left out.
fn is_forced(bytes: &[u8]) -> Result<bool, String> {
    if bytes.is_empty() {
        return Ok(false);
    }
    let request: Request = body::read(bytes).map_err(|error| error.to_string())?;
    let flag = |name: &str, value: &Value| match (value, truth(value)) {
        (Value::Null, _) => Ok(false),
        (_, Some(flag)) => Ok(flag),
        (value, None) => Err(format!("{name}: `{value}` is neither true nor false")),
    };
    flag("from_leader", &request.from_leader)?;
    flag("force", &request.force)
}

pub(super) async fn reinitialize(State(api): State<Api>, bytes: Bytes) -> Response {
    let forced = match is_forced(&bytes) {
        Ok(forced) => forced,
        Err(problem) => {
            let text = format!("the body is not the JSON that is expected here: {problem}");
            return say(StatusCode::BAD_REQUEST, text);
        }
    };
    match api
        .core
        .ask(|answer| Ask::Reinitialize { forced, answer })
        .await
    {
        Ok(Ok(())) => say(StatusCode::OK, "reinitialize started"),
        Ok(Err(why)) => say(StatusCode::SERVICE_UNAVAILABLE, why),
        Err(unavailable) => unavailable.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::is_forced;

    #[test]
    fn a_body_that_is_not_understood_replaces_nothing() {
        for (text, forced) in [
            ("", false),
            ("{}", false),
            (r#"{"force": true, "from_leader": false}"#, true),
            (r#"{"force": "on"}"#, true),
            (r#"{"force": null, "from_leader": true}"#, false),
        ] {
            assert_eq!(is_forced(text.as_bytes()), Ok(forced), "{text}");
        }
        for text in [
            "x",
            "[]",
            "[true]",
            "null",
            r#"{"force": "maybe"}"#,
            r#"{"from_leader": 7}"#,
            r#"{"forced": true}"#,
        ] {
            assert!(is_forced(text.as_bytes()).is_err(), "{text}");
        }
    }
}
