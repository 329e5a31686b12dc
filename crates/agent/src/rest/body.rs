//! Request bodies: a JSON object whatever the content type, since Patroni's own tools send none.

#![deny(clippy::indexing_slicing, clippy::panic)]

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::peers::{FailsafeRequest, Withdrawal};
use crate::rest::control;
use crate::rest::restart::Conditions;

pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = (StatusCode, String);

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let refuse = |error: &dyn std::fmt::Display| {
            (
                StatusCode::BAD_REQUEST,
                format!("the body is not the JSON that is expected here: {error}"),
            )
        };
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| refuse(&error))?;
        read(&bytes).map(Body).map_err(|error| refuse(&error))
    }
}

/// Reads a body. Without the object in between an array would be taken for the fields in their order.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let object: Map<String, Value> = serde_json::from_slice(bytes)?;
    serde_json::from_value(Value::Object(object))
}

/// A kind of request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestBody {
    /// Of `POST /switchover` and `POST /failover`.
    Switchover,
    /// Of `POST /restart`.
    Restart,
    /// Of `PUT /config`.
    Config,
    /// Of `POST /failsafe`.
    Failsafe,
    /// Of `POST /mrg/withdraw`.
    Withdraw,
}

impl RestBody {
    /// Reads a body of this kind as its handler does, for the checks of what comes from outside.
    ///
    /// # Errors
    /// What the handler refuses it with.
    pub fn check(self, bytes: &[u8]) -> Result<(), String> {
        fn reads<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
            read(bytes).map_err(|error| error.to_string())
        }
        match self {
            RestBody::Switchover => reads::<control::Request>(bytes).map(drop),
            RestBody::Restart => Conditions::read(bytes).map(drop).map_err(|(_, why)| why),
            RestBody::Config => reads(bytes).and_then(control::check_config),
            RestBody::Failsafe => reads::<FailsafeRequest>(bytes).map(drop),
            RestBody::Withdraw => reads::<Withdrawal>(bytes).map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_over_is_asked_for_with_known_fields_only() {
        let read = |text: &str| RestBody::Switchover.check(text.as_bytes());
        for text in [
            r#"{"leader":"a"}"#,
            r#"{"leader":"a","candidate":null,"scheduled_at":null}"#,
            r#"{"candidate":"b"}"#,
            r#"{"leader":"a","member":"b"}"#,
        ] {
            assert!(read(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "x",
            "null",
            r#"["a","b"]"#,
            r#"{"leader":7}"#,
            r#"{"leader":"a","candidat":"b"}"#,
            r#"{"leader":"a","force":true}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
