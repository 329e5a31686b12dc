//! Alert rules: the analysis' own, with its thresholds, and those that what this operator runs
//! makes possible. Data and text; pure.

use serde_json::{Map, Value, json};

use super::validate::Desired;
use mrg_api::order_service_set::Alerting;
use mrg_platform_catalog::{Service, Tier};

/// An alert.
struct Alert {
    name: String,
    expr: String,
    lasting: &'static str,
    severity: &'static str,
    summary: String,
    description: String,
}

fn alert(
    name: impl Into<String>,
    expr: String,
    lasting: &'static str,
    severity: &'static str,
    summary: impl Into<String>,
    description: impl Into<String>,
) -> Alert {
    Alert {
        name: name.into(),
        expr,
        lasting,
        severity,
        summary: summary.into(),
        description: description.into(),
    }
}

/// How long something must last before somebody is told: the analysis' minute for P0, and longer
/// for what can wait.
fn patience(tier: Tier) -> &'static str {
    match tier {
        Tier::P0 => "1m",
        Tier::P1 => "2m",
        Tier::P2 => "5m",
    }
}

/// `orderorchestrator` is "Order Orchestrator", and its alert `OrderOrchestratorDown`.
fn camel(title: &str) -> String {
    title.chars().filter(char::is_ascii_alphanumeric).collect()
}

/// "Alert: `OrderOrchestratorDown`", and the like of it for each service. One pod that is away is no
/// incident; all of them are, and so is a service that nobody sees any more.
fn down(service: &Service, namespace: &str) -> Alert {
    let of = format!("job=\"{}\",namespace=\"{namespace}\"", service.name);
    alert(
        format!("{}Down", camel(service.title)),
        format!("max(up{{{of}}}) == 0 or absent(up{{{of}}})"),
        patience(service.tier.value),
        service.tier.value.name(),
        format!("{} DOWN", service.title),
        format!("{}. Flow: {}", service.impact.value, service.flows.value),
    )
}

/// What the sidecars see of a service: the share of failed answers that the analysis allows, 1 %.
fn errors(service: &Service, namespace: &str) -> Alert {
    let of = format!("workload=\"{}\",namespace=\"{namespace}\"", service.name);
    alert(
        format!("{}Errors", camel(service.title)),
        format!(
            "sum(rate(mrg_proxy_inbound_failed_total{{{of}}}[5m])) / sum(rate(mrg_proxy_inbound_latency_seconds_count{{{of}}}[5m])) > 0.01"
        ),
        "2m",
        service.tier.value.name(),
        format!("{}: more than 1% of the answers are errors", service.title),
        format!(
            "{}. Its sidecars count; `kubectl mrg breakers list` says whether it is what it calls",
            service.impact.value
        ),
    )
}

/// "Metrik Kritikal: Order Orchestrator", by the metrics of the service itself.
fn orchestrator(namespace: &str) -> Vec<Alert> {
    let of = format!("job=\"orderorchestrator\",namespace=\"{namespace}\"");
    vec![
        alert(
            "OrderOrchestratorSlow",
            format!(
                "max(orderorchestrator_request_duration_seconds{{quantile=\"0.95\",{of}}}) > 2"
            ),
            "2m",
            "P0",
            "Order Orchestrator: 95% of the answers take longer than 2 s",
            "Booking is slow for everybody; look at its breakers and at the database first",
        ),
        alert(
            "OrderOrchestratorErrorRate",
            format!(
                "sum(rate(orderorchestrator_errors_total{{{of}}}[5m])) / sum(rate(orderorchestrator_requests_total{{{of}}}[5m])) > 0.01"
            ),
            "2m",
            "P0",
            "Order Orchestrator: more than 1% of the requests fail, by its own count",
            "New bookings fail",
        ),
    ]
}

/// "Metrik Kritikal: Optimasi Order Detail".
fn order_detail(namespace: &str) -> Vec<Alert> {
    let of = format!("namespace=\"{namespace}\"");
    vec![
        alert(
            "OrderDetailActiveSlow",
            format!(
                "histogram_quantile(0.95, sum by (le) (rate(order_detail_latency_bucket{{type=\"active\",{of}}}[5m]))) > 0.2"
            ),
            "2m",
            "P1",
            "Active orders: 95% of the answers take longer than 200 ms",
            "Tracking is slow; look at the primary's load and at its pool",
        ),
        alert(
            "OrderDetailCacheHitRateLow",
            format!("avg(order_detail_cache_hit_rate{{type=\"history\",{of}}}) < 0.8"),
            "10m",
            "P2",
            "Order history: less than 80% of the answers come from the cache",
            "Standbys and the archive carry what the cache should; look at Redis",
        ),
        alert(
            "OrderDetailReplicaLag",
            format!("max(order_detail_replica_lag_seconds{{{of}}}) > 5"),
            "1m",
            "P1",
            "Order history: standbys are more than 5 s behind",
            "They are not asked any more, and the primary has few places for history",
        ),
        alert(
            "OrderDetailUnavailable",
            format!("sum(rate(order_detail_unavailable_total{{{of}}}[5m])) > 0"),
            "2m",
            "P1",
            "Order queries that nobody could answer",
            "Neither cache, standby, archive nor primary had an answer",
        ),
    ]
}

/// Database and pools.
fn database(namespace: &str) -> Vec<Alert> {
    let of = format!("namespace=\"{namespace}\"");
    vec![
        alert(
            "PostgresLeaderMissing",
            format!(
                "max by (scope) (patroni_primary{{{of}}}) == 0 or absent(patroni_primary{{{of}}})"
            ),
            "30s",
            "P0",
            "PostgreSQL has no leader",
            "Nothing can be written. An election takes a second, or the lease's time when a node is lost: who still waits after half a minute needs a person",
        ),
        alert(
            "PostgresReplicaLag",
            format!(
                "max by (scope) (patroni_xlog_location{{{of}}}) - on (scope) group_right() (patroni_xlog_replayed_location{{{of}}} and on (scope, name) patroni_replica{{{of}}} == 1) > 16777216"
            ),
            "2m",
            "P1",
            "A standby is more than 16 MiB behind",
            "It does not count for reads, and takes longer to take over",
        ),
        alert(
            "PostgresSynchronousStandbyMissing",
            format!("max by (scope) (mrg_sync_degraded{{{of}}}) == 1"),
            "1m",
            "P1",
            "Nobody could take over from the leader without loss",
            "Synchronous replication is asked for, and no standby keeps up",
        ),
        alert(
            "PostgresEtcdFails",
            format!("max by (scope) (mrg_etcd_failing{{request=~\"read|write\",{of}}}) == 1"),
            "1m",
            "P1",
            "etcd does not do what the database's members ask of it",
            "While reads fail the leader goes on by its members' promises; while writes fail a crash is answered in place, and no other member can take over",
        ),
        alert(
            "PoolHoldsClients",
            format!("max by (pool) (mrg_pooler_held_seconds{{{of}}}) > 5"),
            "0s",
            "P0",
            "A pool has held its clients for more than 5 s",
            "Its server is not confirmed; see `kubectl mrg status`",
        ),
    ]
}

/// What the resilience of services and the rollout show.
fn platform(desired: &Desired) -> Vec<Alert> {
    let of = format!("namespace=\"{}\"", desired.namespace);
    let set = format!("set=\"{}\",{of}", desired.name);
    let mut all = Vec::new();
    for tier in Tier::ALL {
        let names: Vec<&str> = desired
            .services
            .iter()
            .filter(|service| service.catalog.tier.value == tier)
            .map(|service| service.catalog.name)
            .collect();
        if names.is_empty() {
            continue;
        }
        // A breaker contains a failure: it is told one tier lower than an outage, except where
        // customers order and pay.
        all.push(alert(
            format!("BreakerOpen{}", tier.name()),
            format!(
                "max by (workload, dependency, provider) (mrg_proxy_breaker_state{{state=\"open\",workload=~\"{}\",{of}}}) == 1",
                names.join("|")
            ),
            patience(tier),
            tier.name(),
            "A breaker of {{ $labels.workload }} is open: {{ $labels.dependency }}/{{ $labels.provider }}",
            "It does not answer well, and is left alone; the fallback serves. `kubectl mrg breakers list` says why and until when",
        ));
    }
    // By the blast radius: carts and sessions are in Redis (70 %), sagas wait for RabbitMQ (40 %).
    for (store, name, severity, without) in [
        (
            "redis",
            "Redis",
            "P0",
            "Carts and sessions are lost or slow: up to 70% of the platform, 10% where it fails over by itself",
        ),
        (
            "rabbitmq",
            "RabbitMq",
            "P1",
            "Sagas and jobs wait: up to 40% of the platform",
        ),
    ] {
        let expr = format!("max(mrg_store_up{{store=\"{store}\",{set}}}) == 0");
        all.push(alert(
            format!("{name}Down"),
            expr,
            "1m",
            severity,
            format!("{name} does not answer"),
            without,
        ));
    }
    all.push(alert(
        "QueueOld",
        format!("max by (workload) (time() - mrg_queue_oldest_timestamp_seconds{{{of}}}) > 900"),
        "1m",
        "P1",
        "Requests of {{ $labels.workload }} have waited for more than 15 minutes",
        "Orders or payments that were promised have not been made; `kubectl mrg queue list {{ $labels.workload }}`",
    ));
    all.push(alert(
        "QueueNeedsPeople",
        format!("max by (workload) (mrg_queue_inquiry{{{of}}}) > 0"),
        "5m",
        "P1",
        "Requests of {{ $labels.workload }} may have been processed or not: people must decide",
        "`kubectl mrg queue list {{ $labels.workload }}`, then replay or discard each",
    ));
    all.push(alert(
        "RolloutAborted",
        format!("max by (service) (mrg_rollout_phase{{phase=\"Aborted\",{set}}}) == 1"),
        "0s",
        "P2",
        "The change of {{ $labels.service }} was taken back",
        "It was worse than what serves; `kubectl mrg rollout` says by what. The old pods serve",
    ));
    all.push(alert(
        "RolloutPaused",
        format!("max by (service) (mrg_rollout_phase{{phase=\"Paused\",{set}}}) == 1"),
        "15m",
        "P2",
        "The change of {{ $labels.service }} waits for a person",
        "`kubectl mrg rollout`, then promote, resume or abort",
    ));
    all.push(alert(
        "ObjectiveMissed",
        format!("max by (part) (mrg_objective_met{{{set}}}) == 0"),
        "0s",
        "P2",
        "{{ $labels.part }} was away for longer than its objective",
        "`kubectl mrg status` shows how long; write the post-mortem",
    ));
    all
}

fn everything(desired: &Desired) -> Vec<(&'static str, Vec<Alert>)> {
    let namespace = desired.namespace.as_str();
    let services = || desired.services.iter().map(|service| service.catalog);
    let mut critical: Vec<Alert> = services().map(|service| down(service, namespace)).collect();
    if services().any(|service| service.name == "orderorchestrator") {
        critical.extend(orchestrator(namespace));
    }
    let mut groups = vec![
        ("mrg_critical_spof", critical),
        (
            "mrg_service_errors",
            services()
                .map(|service| errors(service, namespace))
                .collect(),
        ),
    ];
    if desired.spec.database.is_some() {
        groups.push(("mrg_database", database(namespace)));
        groups.push(("mrg_order_detail", order_detail(namespace)));
    }
    groups.push(("mrg_platform", platform(desired)));
    groups
}

/// The rules, as Prometheus reads them.
pub fn rules(desired: &Desired, alerting: &Alerting) -> Value {
    let rule = |alert: &Alert| {
        let mut labels: Map<String, Value> = alerting
            .labels
            .iter()
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect();
        labels.insert("severity".to_owned(), json!(alert.severity));
        labels.insert("team".to_owned(), json!("mrg"));
        json!({
            "alert": alert.name, "expr": alert.expr, "for": alert.lasting, "labels": labels,
            "annotations": {
                "summary": alert.summary, "description": alert.description,
                "runbook_url": alerting.runbook_url.replace("{alert}", &alert.name.to_ascii_lowercase()),
            },
        })
    };
    let group = |(name, alerts): &(&str, Vec<Alert>)| json!({ "name": name, "interval": "30s", "rules": alerts.iter().map(rule).collect::<Vec<_>>() });
    json!({ "groups": everything(desired).iter().map(group).collect::<Vec<_>>() })
}

/// The names of all alerts, for the runbooks' test.
pub fn names(desired: &Desired) -> Vec<String> {
    everything(desired)
        .into_iter()
        .flat_map(|(_, alerts)| alerts)
        .map(|alert| alert.name)
        .collect()
}

/// A dashboard: what the on-call looks at first, from top to bottom.
pub fn dashboard(desired: &Desired) -> Value {
    let of = format!("namespace=\"{}\"", desired.namespace);
    let panels: [(&str, String, &str); 10] = [
        (
            "Services without any pod",
            format!("count(max by (job) (up{{{of}}}) == 0) or vector(0)"),
            "short",
        ),
        (
            "Leader, by cluster",
            format!("patroni_primary{{{of}}} == 1"),
            "short",
        ),
        (
            "Open breakers",
            format!(
                "sum by (workload, dependency, provider) (mrg_proxy_breaker_state{{state=\"open\",{of}}}) > 0"
            ),
            "short",
        ),
        (
            "Errors, of all answers",
            format!(
                "sum by (workload) (rate(mrg_proxy_inbound_failed_total{{{of}}}[5m])) / sum by (workload) (rate(mrg_proxy_inbound_latency_seconds_count{{{of}}}[5m]))"
            ),
            "percentunit",
        ),
        (
            "p95 of answers",
            format!(
                "histogram_quantile(0.95, sum by (workload, le) (rate(mrg_proxy_inbound_latency_seconds_bucket{{{of}}}[5m])))"
            ),
            "s",
        ),
        (
            "Clients held",
            format!("max by (pool) (mrg_pooler_held_seconds{{{of}}})"),
            "s",
        ),
        (
            "Standbys behind",
            format!(
                "max by (scope) (patroni_xlog_location{{{of}}}) - on (scope) group_right() patroni_xlog_replayed_location{{{of}}}"
            ),
            "bytes",
        ),
        (
            "Requests that wait",
            format!("sum by (workload) (mrg_queue_depth{{{of}}})"),
            "short",
        ),
        (
            "Order detail: where answers come from",
            format!("sum by (type, source) (rate(order_detail_answers_total{{{of}}}[5m]))"),
            "reqps",
        ),
        (
            "Rollout",
            format!("max by (service) (mrg_rollout_weight{{{of}}})"),
            "percent",
        ),
    ];
    let panel = |(index, (title, expr, unit)): (usize, &(&str, String, &str))| {
        json!({
            "id": index + 1, "title": title, "type": "timeseries", "datasource": { "type": "prometheus", "uid": "${datasource}" },
            "gridPos": { "h": 8, "w": 12, "x": 12 * (index % 2), "y": 8 * (index / 2) },
            "fieldConfig": { "defaults": { "unit": unit }, "overrides": [] },
            "targets": [{ "expr": expr, "refId": "A" }],
        })
    };
    json!({
        "title": format!("MRG {}", desired.name), "uid": format!("mrg-{}-{}", desired.namespace, desired.name).chars().take(40).collect::<String>(),
        "schemaVersion": 39, "refresh": "10s", "time": { "from": "now-1h", "to": "now" }, "tags": ["mrg"],
        "templating": { "list": [{ "name": "datasource", "type": "datasource", "query": "prometheus" }] },
        "panels": panels.iter().enumerate().map(panel).collect::<Vec<_>>(),
    })
}
