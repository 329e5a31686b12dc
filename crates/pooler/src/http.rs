//! Health checks for the kubelet, metrics for Prometheus, the whole state for people.

use std::collections::BTreeMap;
use std::fmt::Write;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use mrg_bounds::{Displaced, Limits};
use mrg_dcs::health::Health;
use mrg_pgbouncer::Pools;
use mrg_pool_core::Reason;

/// The state that is served as JSON.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Status {
    /// The pool.
    pub pool: String,
    /// Whether the first server was confirmed and PgBouncer listens.
    pub serving: bool,
    /// Why clients wait, or `Confirmed`.
    pub why: String,
    /// That in a sentence.
    pub because: String,
    /// For how long clients have waited; milliseconds.
    pub held_ms: u64,
    /// The members that clients reach.
    pub members: Vec<String>,
    /// Where that is.
    pub addresses: Vec<String>,
    /// How often clients were let through again, and how long they had waited in all; by cause.
    pub rewires: BTreeMap<String, (u64, u64)>,
    /// Which kinds of request to etcd fail at present, each with etcd's own words.
    pub etcd_errors: BTreeMap<&'static str, String>,
    /// How etcd answers.
    #[serde(skip)]
    pub etcd: Health,
    /// The pools.
    #[serde(skip)]
    pub pools: Pools,
    /// How often PgBouncer ended by itself.
    pub restarts: u64,
}

/// What the handlers share.
#[derive(Clone)]
struct Page {
    status: watch::Receiver<Status>,
    /// Connections that were closed because there were too many.
    displaced: Displaced,
}

/// Serves from a thread of its own until the process ends, so that no load of requests holds up the
/// pooler's loop. `open_files` is how many files the process may open.
///
/// # Errors
/// If the thread cannot be started.
pub(crate) fn serve(
    listener: TcpListener,
    status: watch::Receiver<Status>,
    open_files: u64,
) -> std::io::Result<()> {
    let (listener, displaced) = (listener.into_std()?, Displaced::default());
    let page = Page {
        status,
        displaced: displaced.clone(),
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/", get(whole))
        .with_state(page);
    let limits = Limits::default().within_open_files(open_files);
    mrg_bounds::serve_on_own_thread("http", listener, router, limits, displaced)
}

/// A pod whose clients wait is ready: they must find it when they are let through. One that turns
/// them away is not.
async fn ready(State(page): State<Page>) -> (StatusCode, String) {
    let status = page.status.borrow();
    let ready = status.serving && status.why != Reason::HeldTooLong.name();
    (
        if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        },
        status.because.clone(),
    )
}

async fn whole(State(page): State<Page>) -> String {
    mrg_dcs::wire::compact(&*page.status.borrow())
}

async fn metrics(State(page): State<Page>) -> String {
    text(&page.status.borrow(), page.displaced.count())
}

fn text(status: &Status, displaced: u64) -> String {
    let mut text = String::new();
    numbers(&mut text, status, displaced);
    states(&mut text, status);
    holds(&mut text, status);
    let labels = format!("pool=\"{}\"", status.pool);
    text += &status.etcd.metrics("mrg_pooler_", &labels);
    text
}

fn numbers(text: &mut String, status: &Status, displaced: u64) {
    let pool = &status.pool;
    let mut gauge = |name: &str, kind: &str, help: &str, value: f64| {
        let _ = writeln!(
            text,
            "# HELP mrg_pooler_{name} {help}\n# TYPE mrg_pooler_{name} {kind}\nmrg_pooler_{name}{{pool=\"{pool}\"}} {value}"
        );
    };
    gauge(
        "clients",
        "gauge",
        "Client connections.",
        status.pools.clients as f64,
    );
    gauge(
        "clients_waiting",
        "gauge",
        "Clients that wait for a server connection.",
        status.pools.waiting as f64,
    );
    gauge(
        "wait_seconds",
        "gauge",
        "How long the first of them has waited.",
        status.pools.longest_wait_us as f64 / 1e6,
    );
    gauge(
        "servers_active",
        "gauge",
        "Server connections in use.",
        status.pools.servers_active as f64,
    );
    gauge(
        "servers_idle",
        "gauge",
        "Server connections not in use.",
        status.pools.servers_idle as f64,
    );
    gauge(
        "targets",
        "gauge",
        "Servers that clients reach.",
        status.members.len() as f64,
    );
    gauge(
        "held_seconds",
        "gauge",
        "How long clients have been held; 0 while they work.",
        status.held_ms as f64 / 1e3,
    );
    gauge(
        "pgbouncer_restarts_total",
        "counter",
        "How often PgBouncer ended by itself.",
        status.restarts as f64,
    );
    gauge(
        "http_connections_closed_total",
        "counter",
        "Connections to this port that were closed because there were too many.",
        displaced as f64,
    );
}

fn states(text: &mut String, status: &Status) {
    let pool = &status.pool;
    text.push_str(
        "# HELP mrg_pooler_state Why clients wait, or Confirmed.\n# TYPE mrg_pooler_state gauge\n",
    );
    for why in Reason::ALL {
        let now = u8::from(status.why == why.name());
        let _ = writeln!(
            text,
            "mrg_pooler_state{{pool=\"{pool}\",why=\"{}\"}} {now}",
            why.name()
        );
    }
}

fn holds(text: &mut String, status: &Status) {
    let pool = &status.pool;
    text.push_str("# HELP mrg_pooler_rewires_total Holds that ended with a confirmed server.\n# TYPE mrg_pooler_rewires_total counter\n");
    for (cause, (count, _)) in &status.rewires {
        let _ = writeln!(
            text,
            "mrg_pooler_rewires_total{{pool=\"{pool}\",cause=\"{cause}\"}} {count}"
        );
    }
    text.push_str(
        "# HELP mrg_pooler_hold_seconds_total How long clients were held in all.\n# TYPE mrg_pooler_hold_seconds_total counter\n",
    );
    for (cause, (_, held)) in &status.rewires {
        let _ = writeln!(
            text,
            "mrg_pooler_hold_seconds_total{{pool=\"{pool}\",cause=\"{cause}\"}} {}",
            *held as f64 / 1e3
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_a_line_and_one_of_them_holds() {
        let status = Status {
            pool: "w".to_owned(),
            why: "LeaderGone".to_owned(),
            ..Status::default()
        };
        let page = text(&status, 0);
        let states: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("mrg_pooler_state{"))
            .collect();
        assert_eq!(states.len(), Reason::ALL.len());
        assert_eq!(states.iter().filter(|line| line.ends_with(" 1")).count(), 1);
        assert!(page.contains("mrg_pooler_state{pool=\"w\",why=\"LeaderGone\"} 1"));
    }
}
