//! The REST API on port 8008, with Patroni's routes, status codes and texts (Patroni 4.1,
//! `patroni/api.py`), so that its tools, health checks and dashboards work. Unsafe methods require
//! the credentials if any are configured.
//!
//! It is served from a thread and a runtime of its own, so that no load of requests holds up the
//! agent's loop, its lease or its sessions with etcd and PostgreSQL. Handlers read the status, and
//! reach everything else by [`Core`].

mod body;
mod control;
mod guard;
mod health;
mod metrics;
mod reinitialize;
pub(crate) mod reports;
mod restart;
mod runtime;
mod unsupported;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::config::AgentConfig;
use crate::context::Context;
use crate::peers::{FailsafeRequest, VoteAnswer, Withdrawal};
use mrg_bounds::{Displaced, Limits};
use mrg_election::VoteRefusal;

pub use body::RestBody;
pub(crate) use runtime::Core;

/// Requests that the agent's loop answers.
pub(crate) enum Ask {
    /// A candidate requests this member's vote.
    Vote(oneshot::Sender<Result<VoteAnswer, VoteRefusal>>),
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
    /// What runs on the agent's own runtime.
    pub core: Core,
    /// Connections that were closed because there were too many.
    pub displaced: Displaced,
}

/// Serves until the process ends. `open_files` is how many files the process may open.
///
/// # Errors
/// If the thread for it cannot be started.
pub(crate) fn serve(listener: TcpListener, api: Api, open_files: u64) -> std::io::Result<()> {
    let limits = Limits {
        // Each route has less: `guard`.
        request: guard::LONGEST,
        ..Limits::default().within_open_files(open_files)
    };
    let displaced = api.displaced.clone();
    let listener = listener.into_std()?;
    mrg_bounds::serve_on_own_thread("rest", listener, router(api), limits, displaced)
}

fn router(api: Api) -> Router {
    let credentials = api.context.credentials.clone();
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
        .with_state(api);
    guard::guarded(router, credentials)
}
