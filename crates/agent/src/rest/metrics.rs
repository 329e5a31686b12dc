//! `GET /metrics`: Patroni's names, so that its dashboards work, and extensions under `mrg_`.

use std::fmt::Write;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::config::AgentConfig;
use crate::context::Status;
use crate::rest::Api;
use crate::rest::reports::{PATRONI_VERSION, is_sync, leads};
use mrg_dcs::tags;
use mrg_election::{Mode, Postgres, Primary, Standby, WalReceiver};
use mrg_postgres::ServerFacts;

/// A page in Prometheus' text format.
struct Page {
    labels: String,
    text: String,
}

impl Page {
    fn metric(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        let _ = write!(
            self.text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{}}} {value}\n",
            self.labels
        );
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.metric(name, "gauge", help, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.metric(name, "counter", help, value);
    }

    fn flag(&mut self, name: &str, help: &str, value: bool) {
        self.gauge(name, help, u8::from(value));
    }
}

/// What the metrics are about.
struct Sources<'a> {
    config: &'a AgentConfig,
    status: &'a Status,
    facts: Option<&'a ServerFacts>,
    /// Connections to the REST API that were closed because there were too many.
    displaced: u64,
}

impl Sources<'_> {
    fn primary(&self) -> Option<&Primary> {
        match &self.status.postgres {
            Postgres::Primary(primary) => Some(primary),
            _ => None,
        }
    }

    fn standby(&self) -> Option<&Standby> {
        match &self.status.postgres {
            Postgres::Standby(standby) => Some(standby),
            _ => None,
        }
    }
}

pub(super) async fn metrics(State(api): State<Api>) -> Response {
    let (status, facts) = (api.context.status(), api.context.server.facts());
    let sources = Sources {
        config: &api.context.config,
        status: &status,
        facts: facts.as_ref(),
        displaced: api.displaced.count(),
    };
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        page(&sources),
    )
        .into_response()
}

fn page(sources: &Sources<'_>) -> String {
    let config = sources.config;
    let mut page = Page {
        labels: format!("scope=\"{}\",name=\"{}\"", config.scope, config.name),
        text: String::new(),
    };
    role(&mut page, sources);
    wal(&mut page, sources);
    cluster(&mut page, sources);
    extensions(&mut page, sources);
    page.text
}

fn role(page: &mut Page, sources: &Sources<'_>) {
    let (primary, standby) = (sources.primary(), sources.standby());
    let version: u32 = PATRONI_VERSION
        .split('.')
        .filter_map(|part| part.parse::<u32>().ok())
        .fold(0, |all, part| all * 100 + part);
    page.gauge(
        "patroni_version",
        "Patroni version without periods.",
        version,
    );
    page.flag(
        "patroni_postgres_running",
        "Value is 1 if Postgres is running, 0 otherwise.",
        primary.is_some() || standby.is_some(),
    );
    page.flag(
        "patroni_primary",
        "Value is 1 if this node is the leader, 0 otherwise.",
        leads(sources.status),
    );
    page.counter(
        "patroni_xlog_location",
        "Current location of the Postgres transaction log, 0 if this node is not the leader.",
        primary.map_or(0, |primary| primary.position.flushed.0),
    );
    page.flag(
        "patroni_standby_leader",
        "Value is 1 if this node is the standby_leader, 0 otherwise.",
        false,
    );
    page.flag(
        "patroni_replica",
        "Value is 1 if this node is a replica, 0 otherwise.",
        standby.is_some(),
    );
    let status = sources.status;
    let sync = is_sync(&status.cluster, &sources.config.name) && standby.is_some();
    let quorum_mode = status.settings.replication.mode == Mode::Quorum;
    page.flag(
        "patroni_sync_standby",
        "Value is 1 if this node is a sync standby, 0 otherwise.",
        sync && !quorum_mode,
    );
    page.flag(
        "patroni_quorum_standby",
        "Value is 1 if this node is a quorum standby, 0 otherwise.",
        sync && quorum_mode,
    );
}

fn wal(page: &mut Page, sources: &Sources<'_>) {
    let standby = sources.standby();
    let received = standby
        .and_then(|standby| standby.position)
        .map_or(0, |position| position.flushed.0);
    page.counter(
        "patroni_xlog_received_location",
        "Current location of the received transaction log.",
        received,
    );
    let replayed = sources
        .facts
        .and_then(|facts| facts.replayed)
        .filter(|_| standby.is_some())
        .map_or(0, |lsn| lsn.0);
    page.counter(
        "patroni_xlog_replayed_location",
        "Current location of the replayed transaction log.",
        replayed,
    );
    let streaming = standby.is_some_and(|standby| standby.receiver == WalReceiver::Streaming);
    page.flag(
        "patroni_postgres_streaming",
        "Value is 1 if Postgres is streaming, 0 otherwise.",
        streaming,
    );
}

fn cluster(page: &mut Page, sources: &Sources<'_>) {
    let (status, facts) = (sources.status, sources.facts);
    page.gauge(
        "patroni_postgres_server_version",
        "Version of Postgres (if running), 0 otherwise.",
        facts.map_or(0, |facts| facts.version),
    );
    page.flag(
        "patroni_cluster_unlocked",
        "Value is 1 if the cluster is unlocked, 0 if locked.",
        status.cluster.leader.is_none(),
    );
    page.flag(
        "patroni_failsafe_mode_is_active",
        "Value is 1 if failsafe mode is active, 0 otherwise.",
        status.may_write && !status.holds_key,
    );
    let position = sources
        .primary()
        .map(|primary| primary.position)
        .or_else(|| sources.standby().and_then(|standby| standby.position));
    page.gauge(
        "patroni_postgres_timeline",
        "Postgres timeline of this node (if running), 0 otherwise.",
        position.map_or(0, |position| position.timeline.0),
    );
    page.gauge(
        "patroni_dcs_last_seen",
        "Epoch timestamp when the DCS was last contacted.",
        status.dcs_last_seen / 1000,
    );
    page.flag(
        "patroni_pending_restart",
        "Value is 1 if the node needs a restart, 0 otherwise.",
        facts.is_some_and(|facts| !facts.pending_restart.is_empty()),
    );
    page.flag(
        "patroni_is_paused",
        "Value is 1 if auto failover is disabled, 0 otherwise.",
        status.settings.paused,
    );
    page.gauge(
        "patroni_failover_priority",
        "Failover priority of this node.",
        tags::priority(&status.tags).unwrap_or(0),
    );
}

fn extensions(page: &mut Page, sources: &Sources<'_>) {
    let status = sources.status;
    let remaining = status
        .leads_until
        .max(status.promised_until)
        .map_or(0, |until| until.since(mrg_clock::now()).0);
    page.gauge(
        "mrg_lease_remaining_milliseconds",
        "Time until the fence kills postgres unless the lease is kept, or the members' promises are renewed; 0 without either.",
        remaining,
    );
    let sync = status.cluster.sync.as_ref();
    let degraded =
        status.settings.is_synchronous() && sync.is_none_or(|(_, stored)| stored.voters.is_empty());
    page.flag("mrg_sync_degraded", "Value is 1 if synchronous replication is asked for and nobody could take over without loss.", degraded);
    page.text += &status.etcd.metrics("mrg_", &page.labels);
    page.counter(
        "mrg_rest_connections_closed_total",
        "Connections to the REST API that were closed because there were too many.",
        sources.displaced,
    );
    let _ = writeln!(
        page.text,
        "# HELP mrg_decision_total How often each reason was given.\n# TYPE mrg_decision_total counter"
    );
    for (why, count) in &status.reasons {
        let _ = writeln!(
            page.text,
            "mrg_decision_total{{{},why=\"{}\"}} {count}",
            page.labels,
            why.label()
        );
    }
}
