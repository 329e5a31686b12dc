//! The addresses of the analysis: `/orders/{id}/active`, `/orders/{id}/history`, `/orders/{id}`,
//! `/orders/active`, `/orders/history`; health and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde::Serialize;
use serde_json::json;
use tokio::net::TcpListener;

use super::order::{Cursor, Micros, OrderId, Row};
use super::read::{Answer, Found, Kind, Reader, Source};

/// Which addresses a deployment answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Those of orders under way.
    Active,
    /// Those of orders that have ended.
    History,
    /// All.
    All,
}

#[derive(Clone)]
struct App {
    reader: Arc<Reader>,
    role: Role,
}

const SOURCE: HeaderName = HeaderName::from_static("order-source");
const STALENESS: HeaderName = HeaderName::from_static("order-staleness");

/// Rows of a page, unless the query has a `limit`.
const DEFAULT_LIMIT: i64 = 50;
/// Rows of a page at most.
const MAXIMUM_LIMIT: i64 = 200;

/// Serves until `stop`, and then until those under way have their answers.
///
/// # Errors
/// If the socket fails.
pub(crate) async fn serve(
    listener: TcpListener,
    reader: Arc<Reader>,
    role: Role,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route(
            "/health",
            get(|| async { Json(json!({"status": "healthy"})) }),
        )
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route(
            "/orders/active",
            get(async |state, query| list(state, query, Kind::Active).await),
        )
        .route(
            "/orders/history",
            get(async |state, query| list(state, query, Kind::History).await),
        )
        .route(
            "/orders/{id}",
            get(async |state, id, headers| detail(state, id, headers, Kind::Auto).await),
        )
        .route(
            "/orders/{id}/active",
            get(async |state, id, headers| detail(state, id, headers, Kind::Active).await),
        )
        .route(
            "/orders/{id}/history",
            get(async |state, id, headers| detail(state, id, headers, Kind::History).await),
        )
        .layer(middleware::from_fn(mrg_bounds::contained))
        .with_state(App { reader, role });
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let body = json!({"type": "about:blank", "title": status.canonical_reason().unwrap_or_default(), "status": status.as_u16(), "detail": detail});
    let mut response = (status, body.to_string()).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/problem+json"),
    );
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Whether a deployment of this role answers this kind; if not, why.
fn serves(role: Role, kind: Kind) -> Result<(), Response> {
    let other = match (role, kind) {
        (Role::Active, Kind::History) => "history",
        (Role::History, Kind::Active) => "active",
        _ => return Ok(()),
    };
    Err(problem(
        StatusCode::MISDIRECTED_REQUEST,
        &format!(
            "this deployment has no credentials for that; send {other} requests to the one for {other} orders"
        ),
    ))
}

async fn detail(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    kind: Kind,
) -> Response {
    if let Err(refusal) = serves(app.role, kind) {
        return refusal;
    }
    let id: OrderId = match id.parse() {
        Ok(id) => id,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("id: {error}")),
    };
    let elsewhere = |what: &str, other: &str| {
        let mut response = problem(
            StatusCode::NOT_FOUND,
            &format!("order {id} {what}: GET /orders/{id}/{other}"),
        );
        if let Ok(link) = format!("</orders/{id}/{other}>; rel=\"alternate\"").parse() {
            response.headers_mut().insert(header::LINK, link);
        }
        response
    };
    match app.reader.detail(kind, id).await {
        Answer::Found(found) => show(&found, &headers),
        Answer::IsFinal => elsewhere("has ended", "history"),
        Answer::IsActive => elsewhere("is under way", "active"),
        Answer::Missing => problem(StatusCode::NOT_FOUND, &format!("there is no order {id}")),
        Answer::Unavailable(why) => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("nobody can say just now; try again in a second ({why})"),
        ),
    }
}

fn show(found: &Found, asked: &HeaderMap) -> Response {
    let tag = format!("\"{}-{}\"", found.order.id.simple(), found.order.version);
    let known = asked
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|known| known.split(',').any(|one| one.trim() == tag));
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        found.order.body().into_response()
    };
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static(if found.order.is_final() {
            "private, max-age=60"
        } else {
            "private, no-cache"
        }),
    );
    if let Ok(tag) = tag.parse() {
        headers.insert(header::ETAG, tag);
    }
    mark(headers, found.source, found.staleness);
    response
}

/// Where an answer came from, and how many seconds old it may be.
fn mark(headers: &mut HeaderMap, source: Source, staleness: Option<Micros>) {
    headers.insert(SOURCE, HeaderValue::from_static(source.name()));
    let age = staleness.map_or_else(
        || "unknown".to_owned(),
        |age| format!("{:.3}", age.0 as f64 / 1e6),
    );
    if let Ok(age) = age.parse() {
        headers.insert(STALENESS, age);
    }
}

#[derive(Serialize)]
struct List {
    orders: Vec<Row>,
    next: Option<String>,
}

async fn list(
    State(app): State<App>,
    Query(query): Query<BTreeMap<String, String>>,
    kind: Kind,
) -> Response {
    if let Err(refusal) = serves(app.role, kind) {
        return refusal;
    }
    let (customer, after, limit) = match parse(&query) {
        Ok(parsed) => parsed,
        Err(why) => return problem(StatusCode::BAD_REQUEST, &why),
    };
    match app.reader.page(kind, customer, after, limit).await {
        Ok(page) => {
            let full = page.rows.len() == usize::try_from(limit).unwrap_or(usize::MAX);
            let next = page.rows.last().filter(|_| full).map(|row| {
                Cursor {
                    created_at: row.created_at,
                    id: row.id,
                }
                .to_string()
            });
            let mut response = Json(List {
                orders: page.rows,
                next,
            })
            .into_response();
            mark(response.headers_mut(), page.source, page.staleness);
            response
        }
        Err(why) => problem(
            StatusCode::SERVICE_UNAVAILABLE,
            &format!("nobody can say just now; try again in a second ({why})"),
        ),
    }
}

fn parse(query: &BTreeMap<String, String>) -> Result<(&str, Option<Cursor>, i64), String> {
    if let Some(unknown) = query
        .keys()
        .find(|key| !["customer", "cursor", "limit"].contains(&key.as_str()))
    {
        return Err(format!(
            "{}: there is no such parameter; there are customer, cursor and limit",
            unknown.chars().take(60).collect::<String>()
        ));
    }
    let customer = query.get("customer").map_or("", String::as_str);
    if customer.is_empty() || customer.len() > 200 || customer.contains('\0') {
        return Err("customer: say whose orders, in 1 to 200 bytes".into());
    }
    let after = query
        .get("cursor")
        .map(|text| text.parse().map_err(|error| format!("cursor: {error}")))
        .transpose()?;
    let limit = query.get("limit").map_or(Ok(DEFAULT_LIMIT), |text| {
        let limit = text
            .parse()
            .ok()
            .filter(|limit| (1..=MAXIMUM_LIMIT).contains(limit));
        limit.ok_or(format!(
            "limit: `{}` is not a number from 1 to {MAXIMUM_LIMIT}",
            text.chars().take(20).collect::<String>()
        ))
    })?;
    Ok((customer, after, limit))
}

fn healthy<T, E: std::error::Error>(answer: Result<T, E>) -> Result<(), String> {
    answer
        .map(drop)
        .map_err(|error| mrg_telemetry::chain(&error))
}

/// Ready while any database answers: without its cache or its standbys this service is slower, not
/// useless.
async fn ready(State(app): State<App>) -> Response {
    let reader = &app.reader;
    let limit = Duration::from_millis(1_500);
    let primary = async { Some(healthy(reader.primary.ping(limit).await)) };
    let replica = async { Some(healthy(reader.replica.as_ref()?.ping(limit).await)) };
    let cache = async { Some(healthy(reader.cache.as_ref()?.ping(limit).await)) };
    let (primary, replica, cache) = tokio::join!(primary, replica, cache);
    let ready = [&primary, &replica]
        .into_iter()
        .any(|check| matches!(check, Some(Ok(()))));
    let mut checks: BTreeMap<&str, String> = BTreeMap::new();
    for (name, check) in [
        ("database", primary),
        ("replica", replica),
        ("redis", cache),
    ] {
        if let Some(check) = check {
            checks.insert(
                name,
                check.map_or_else(|why| format!("unhealthy: {why}"), |()| "healthy".into()),
            );
        }
    }
    let received = reader.received_since.borrow().is_some();
    checks.insert(
        "changes",
        if received {
            "healthy".into()
        } else {
            "unhealthy: changes are not heard; copies of active orders are not used".into()
        },
    );
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(json!({"status": ready, "checks": checks}))).into_response()
}

async fn metrics(State(app): State<App>) -> String {
    let reader = &app.reader;
    let mut connections = vec![("primary", reader.primary.connections())];
    if let Some(replica) = &reader.replica {
        connections.push(("replica", replica.connections()));
    }
    reader
        .metrics
        .page(&connections, reader.received_since.borrow().is_some())
}
