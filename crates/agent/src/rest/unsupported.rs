//! What Patroni's REST API does and this one does not: it says so, and what to do instead.

#![deny(clippy::indexing_slicing, clippy::panic)]

use axum::http::StatusCode;
use axum::response::Response;

use crate::rest::control::say;

/// `POST /citus` and `POST /mpp`
pub(super) async fn citus() -> Response {
    say(
        StatusCode::NOT_IMPLEMENTED,
        "Citus is not supported by mrg-agent",
    )
}
