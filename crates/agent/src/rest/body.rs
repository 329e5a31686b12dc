//! Request bodies: a JSON object whatever the content type, since Patroni's own tools send none.

#![deny(clippy::indexing_slicing, clippy::panic)]

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rest::SwitchoverBody;

    #[test]
    fn a_hand_over_is_asked_for_with_known_fields_only() {
        let read = |text: &str| read::<SwitchoverBody>(text.as_bytes());
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
