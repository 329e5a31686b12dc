//! The REST API on port 8008, with Patroni's routes, status codes and texts (Patroni 4.1,
//! `patroni/api.py`), so that its tools, health checks and dashboards work. Unsafe methods require
//! the credentials if any are configured.

mod body;
mod control;
mod health;
mod metrics;
mod reinitialize;
pub(crate) mod reports;
mod restart;
mod unsupported;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::config::AgentConfig;
use crate::context::Context;
use crate::peers::{FailsafeRequest, VoteAnswer, Withdrawal};
use mrg_postgres::Credentials;

pub use control::Request as SwitchoverBody;

/// Requests that the agent's loop answers.
pub(crate) enum Ask {
    /// A candidate requests this member's vote.
    Vote(oneshot::Sender<Result<VoteAnswer, String>>),
    /// A leader requests this member's promise not to race.
    Promise(FailsafeRequest, oneshot::Sender<Result<(), String>>),
    /// A leader frees this member of its promise.
    Withdraw(Withdrawal),
    /// A client requests a restart of postgres.
    Restart,
    /// A client requests a fresh copy of the leader's data, at once if it is `forced`.
    Reinitialize {
        /// Whether what is under way is begun again.
        forced: bool,
        /// Whether it begins, or why not.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// The file was read again.
    Reload(Box<AgentConfig>),
}

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Api {
    pub context: Arc<Context>,
    /// To the agent's loop.
    pub asks: mpsc::Sender<Ask>,
}

/// Serves until the process ends.
pub(crate) async fn serve(listener: TcpListener, api: Api) -> std::io::Result<()> {
    let router = Router::new()
        .route("/patroni", get(reports::patroni))
        .route("/cluster", get(reports::cluster))
        .route("/history", get(reports::history))
        .route("/metrics", get(metrics::metrics))
        .route(
            "/config",
            get(control::get_config)
                .patch(control::patch_config)
                .put(control::put_config),
        )
        .route(
            "/switchover",
            post(control::switchover).delete(control::cancel),
        )
        .route("/failover", post(control::failover))
        .route("/restart", post(restart::restart).delete(restart::cancel))
        .route("/reload", post(control::reload))
        .route("/reinitialize", post(reinitialize::reinitialize))
        .route("/mpp", post(unsupported::citus))
        .route("/citus", post(unsupported::citus))
        .route(
            "/failsafe",
            get(control::failsafe_members).post(control::failsafe),
        )
        .route("/mrg/vote", post(control::vote))
        .route("/mrg/withdraw", post(control::withdraw))
        .route("/mrg/received", get(control::received))
        .fallback(health::check)
        .layer(middleware::from_fn_with_state(api.clone(), authorize))
        .with_state(api);
    axum::serve(
        listener.tap_io(|stream| {
            let _ = stream.set_nodelay(true);
        }),
        router,
    )
    .await
}

/// Whether the request carries the credentials.
fn is_authorized(headers: &HeaderMap, expected: &Credentials) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Basic "));
    let expected = BASE64.encode(format!("{}:{}", expected.username, expected.password));
    // Every byte is compared, so that the time does not reveal how many agree.
    given.is_some_and(|given| {
        given.len() == expected.len()
            && given
                .bytes()
                .zip(expected.bytes())
                .fold(0, |all, (a, b)| all | (a ^ b))
                == 0
    })
}

/// Whether the request carries the credentials, or those before them. Both are compared, so that the
/// time does not reveal which ones agree.
fn is_known(headers: &HeaderMap, current: &Credentials, former: Option<&Credentials>) -> bool {
    let by_former = former.is_some_and(|former| is_authorized(headers, former));
    is_authorized(headers, current) | by_former
}

async fn authorize(State(api): State<Api>, request: Request, next: Next) -> Response {
    let safe = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS
    );
    match api.context.credentials.rest(mrg_clock::now()) {
        Some((current, former))
            if !safe && !is_known(request.headers(), &current, former.as_ref()) =>
        {
            let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"mrg-agent\"")];
            (
                StatusCode::UNAUTHORIZED,
                challenge,
                "no auth header received, or the wrong one",
            )
                .into_response()
        }
        _ => next.run(request).await,
    }
}
