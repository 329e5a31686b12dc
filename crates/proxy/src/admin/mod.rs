//! The port for the kubelet, Prometheus and the operator. Changing something needs the token.

mod metrics;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use serde::Deserialize;
use tokio::sync::watch;

use crate::queue::{self, Queue};
use crate::routes::route::Route;
use crate::running::{Running, Source};
use mrg_base::lock;
use mrg_policy::{DependencyReport, Forced, ProviderReport, Report};

/// How long a caller may wait for a change of the state.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// What the port serves.
#[derive(Clone)]
pub(crate) struct Admin {
    /// What runs.
    pub running: Arc<Running>,
    /// The file with the token; `None`: nothing can be changed.
    pub token_file: Option<PathBuf>,
}

/// The routes.
pub(crate) fn router(admin: Admin, queue: Option<Arc<Queue>>) -> Router {
    let queue =
        queue::router(queue).layer(middleware::from_fn_with_state(admin.clone(), with_token));
    Router::new()
        .nest_service("/queue", queue)
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(page))
        .route("/state", get(state))
        .route("/drain", put(drain))
        .route("/config", get(configuration).put(configure))
        .layer(DefaultBodyLimit::max(4 << 20))
        .layer(middleware::from_fn(mrg_bounds::contained))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    if admin.running.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining")
    } else {
        (StatusCode::OK, "ok")
    }
}

async fn page(State(admin): State<Admin>) -> String {
    let (table, inbound) = admin.running.now();
    metrics::page(&table, inbound.as_deref())
}

#[derive(Deserialize)]
struct After {
    after: Option<u64>,
}

/// The state; with `?after=VERSION` as soon as it is another, or after half a minute.
async fn state(State(admin): State<Admin>, Query(query): Query<After>) -> Response {
    let mut changes: watch::Receiver<u64> = admin.running.changes();
    if let Some(after) = query.after {
        // If no change comes in time the state is reported as it is.
        let _ = tokio::time::timeout(MAX_WAIT, changes.wait_for(|version| *version != after)).await;
    }
    let version = *changes.borrow();
    let mut report = report(&admin.running, version);
    let (table, _) = admin.running.now();
    for (route, dependency) in table.routes.iter().zip(&mut report.dependencies) {
        if let Some(queue) = &route.queue {
            dependency.queue = Some(queue.report(&route.spec.name).await);
        }
    }
    axum::Json(report).into_response()
}

/// The state of the proxy, but for the queue.
pub(crate) fn report(running: &Running, version: u64) -> Report {
    let (table, inbound) = running.now();
    Report {
        version,
        workload: table.config.workload.clone(),
        config_hash: table.hash.clone(),
        refused: running.refused(),
        draining: running.is_draining(),
        dependencies: table.routes.iter().map(|route| dependency(route)).collect(),
        canary: inbound.as_ref().and_then(|inbound| inbound.canary()),
        routes: inbound.map(|inbound| inbound.routes()).unwrap_or_default(),
    }
}

fn dependency(route: &Route) -> DependencyReport {
    let order = lock(&route.shared.order).order(|_| true, None, mrg_clock::now());
    let providers: Vec<ProviderReport> = (0..route.targets.len())
        .filter_map(|index| provider(route, index))
        .collect();
    let active = order
        .iter()
        .filter_map(|index| providers.get(*index))
        .find(|provider| provider.state != mrg_breaker::State::Open)
        .map(|provider| provider.name.clone());
    DependencyReport {
        name: route.spec.name.clone(),
        in_flight: route.shared.concurrency.now(),
        active,
        providers,
        queue: None,
    }
}

fn provider(route: &Route, index: usize) -> Option<ProviderReport> {
    let target = route.targets.get(index)?;
    let (state, status, forced, counts) = target.provider.status();
    // From the moment at which it opened, so that all who read the state see the same.
    let opens = (state == mrg_breaker::State::Open && forced.is_none())
        .then_some(route.spec.breaker.timeout.0);
    let next_probe = opens.map(|timeout| (status.since + timeout.duration()).to_string());
    Some(ProviderReport {
        name: target.name.to_str().unwrap_or_default().to_owned(),
        state,
        since: status.since.to_string(),
        why: status.why,
        forced: forced.map(|forced| {
            if forced.open {
                Forced::Open
            } else {
                Forced::Closed
            }
        }),
        unhealthy: lock(&route.shared.order).is_unhealthy(index),
        counts,
        next_probe,
    })
}

async fn configuration(State(admin): State<Admin>) -> Response {
    let (table, _) = admin.running.now();
    axum::Json(&**table.config).into_response()
}

/// Takes a new configuration and answers with its hash, or refuses it and keeps the last one.
async fn configure(State(admin): State<Admin>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(refusal) = authorize(&admin, &headers).await {
        return refusal;
    }
    match admin.running.configure(&body, Source::Push).await {
        Ok(hash) => (StatusCode::OK, hash.unwrap_or_default()).into_response(),
        Err(why) => (StatusCode::UNPROCESSABLE_ENTITY, why).into_response(),
    }
}

/// Sends callers elsewhere, since this pod is about to stop.
async fn drain(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    if let Err(refusal) = authorize(&admin, &headers).await {
        return refusal;
    }
    admin.running.leave();
    StatusCode::NO_CONTENT.into_response()
}

async fn with_token(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    match authorize(&admin, request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal,
    }
}

async fn authorize(admin: &Admin, headers: &HeaderMap) -> Result<(), Response> {
    let refuse = |status, text: &'static str| Err((status, text).into_response());
    let Some(path) = &admin.token_file else {
        return refuse(
            StatusCode::FORBIDDEN,
            "this proxy was started without --token-file; nothing can be changed here\n",
        );
    };
    // Read each time: the Secret may be another by now.
    let Ok(token) = tokio::fs::read_to_string(path).await else {
        return refuse(
            StatusCode::FORBIDDEN,
            "the token's file cannot be read; nothing can be changed here\n",
        );
    };
    let given = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let same =
        given.is_some_and(|given| constant_time_eq(given.as_bytes(), token.trim_end().as_bytes()));
    if same && !token.trim_end().is_empty() {
        Ok(())
    } else {
        refuse(
            StatusCode::UNAUTHORIZED,
            "give the token: Authorization: Bearer TOKEN\n",
        )
    }
}

/// Compares in a time that does not depend on where the two differ.
fn constant_time_eq(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .fold(0, |different, (a, b)| different | (a ^ b))
            == 0
}
