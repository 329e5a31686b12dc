//! The queue for people: list, show, replay, discard. Everything here needs the token: these are
//! customers' requests.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use super::item::{Item, Status};
use super::{Error, Queue};
use mrg_telemetry::chain;

/// The routes below `/queue`.
pub(crate) fn router(queue: Option<Arc<Queue>>) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/{ticket}", get(show))
        .route("/{ticket}/replay", post(replay))
        .route("/{ticket}/discard", post(discard))
        .with_state(queue)
}

type Shared = State<Option<Arc<Queue>>>;

fn present(queue: Option<Arc<Queue>>) -> Result<Arc<Queue>, Response> {
    queue.ok_or_else(|| (StatusCode::NOT_FOUND, "this proxy keeps no queue\n").into_response())
}

fn failed(error: &Error) -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        format!("{}\n", chain(error)),
    )
        .into_response()
}

/// Without the payloads.
async fn list(State(queue): Shared) -> Result<Response, Response> {
    let items = present(queue)?
        .list()
        .await
        .map_err(|error| failed(&error))?;
    let line = |item: &Item| {
        json!({
            "ticket": item.ticket, "dependency": item.dependency, "key": item.key, "method": item.method, "path": item.path,
            "created": item.created, "standing": item.status, "retryAt": item.retry_at, "attempts": item.attempts, "note": item.note,
            "bytes": item.body.len(),
        })
    };
    Ok(axum::Json(items.iter().map(line).collect::<Vec<_>>()).into_response())
}

async fn show(State(queue): Shared, Path(ticket): Path<String>) -> Result<Response, Response> {
    let items = present(queue)?
        .list()
        .await
        .map_err(|error| failed(&error))?;
    let found = items.into_iter().find(|item| item.ticket == ticket);
    found
        .map(|item| axum::Json(item).into_response())
        .ok_or_else(|| unknown(&ticket))
}

fn unknown(ticket: &str) -> Response {
    (
        StatusCode::NOT_FOUND,
        format!("no request with ticket {ticket} waits here; `GET /queue` lists them\n"),
    )
        .into_response()
}

async fn replay(queue: Shared, ticket: Path<String>) -> Result<Response, Response> {
    set_status(queue, ticket, Status::Waiting).await
}

async fn discard(queue: Shared, ticket: Path<String>) -> Result<Response, Response> {
    set_status(queue, ticket, Status::Discarded).await
}

async fn set_status(
    State(queue): Shared,
    Path(ticket): Path<String>,
    status: Status,
) -> Result<Response, Response> {
    let decided = present(queue)?
        .decide(&ticket, status)
        .await
        .map_err(|error| failed(&error))?;
    if decided {
        tracing::info!(ticket, standing = status.name(), "decided by a person");
        return Ok(axum::Json(json!({ "ticket": ticket, "standing": status })).into_response());
    }
    Err((
        StatusCode::CONFLICT,
        format!("{ticket} is unknown, answered, or being sent just now\n"),
    )
        .into_response())
}
