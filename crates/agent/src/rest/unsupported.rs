//! What Patroni's REST API does and this one does not: it says so, and what to do instead.

#![deny(clippy::indexing_slicing, clippy::panic)]

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use crate::rest::Api;
use crate::rest::control::say;
use crate::rest::reports::leads;

/// `POST /reinitialize`
pub(super) async fn reinitialize(State(api): State<Api>) -> Response {
    if leads(&api.context.status()) {
        let text = "I am the leader, can not reinitialize";
        return say(StatusCode::SERVICE_UNAVAILABLE, text);
    }
    let data = api.context.server.data().display();
    let text = format!(
        "reinitialize is not supported by mrg-agent; stop this member's agent, move {data} away and start the agent: it copies the leader's data"
    );
    say(StatusCode::NOT_IMPLEMENTED, text)
}

/// `POST /citus` and `POST /mpp`
pub(super) async fn citus() -> Response {
    say(
        StatusCode::NOT_IMPLEMENTED,
        "Citus is not supported by mrg-agent",
    )
}
