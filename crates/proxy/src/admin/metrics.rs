//! Numbers for Prometheus.

use std::fmt::Write;

use crate::routes::route::{Route, Target};
use crate::routes::table::RouteTable;
use crate::server::inbound::InboundHandler;
use mrg_breaker::State;
use mrg_policy::Reason;

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Everything, in Prometheus' text format.
pub(crate) fn page(table: &RouteTable, inbound: Option<&InboundHandler>) -> String {
    let mut text = String::new();
    dependencies(&mut text, table);
    outcomes(&mut text, table);
    breakers(&mut text, table);
    requests(&mut text, table);
    breaker_counters(&mut text, table);
    if let Some(handler) = inbound {
        self::inbound(&mut text, &table.config.workload, handler);
    }
    text
}

fn dependencies(text: &mut String, table: &RouteTable) {
    for_routes(
        text,
        table,
        "mrg_proxy_in_flight",
        "gauge",
        "Requests under way.",
        |route, labels, text| {
            let _ = writeln!(
                text,
                "mrg_proxy_in_flight{{{labels}}} {}",
                route.shared.concurrency.now()
            );
        },
    );
    for_routes(
        text,
        table,
        "mrg_proxy_latency_seconds",
        "histogram",
        "Until an answer's head.",
        |route, labels, text| {
            route
                .shared
                .latencies
                .lines(text, "mrg_proxy_latency_seconds", labels);
        },
    );
}

fn outcomes(text: &mut String, table: &RouteTable) {
    for (name, help, of) in [
        (
            "mrg_proxy_retries_total",
            "Attempts after the first.",
            (|route: &Route| route.shared.retries.get()) as fn(&Route) -> u64,
        ),
        (
            "mrg_proxy_failovers_total",
            "Requests that another than the first provider served.",
            |route| route.shared.failovers.get(),
        ),
        (
            "mrg_proxy_fallbacks_total",
            "Answers from a fallback.",
            |route| route.shared.fallbacks.get(),
        ),
    ] {
        for_routes(text, table, name, "counter", help, |route, labels, text| {
            let _ = writeln!(text, "{name}{{{labels}}} {}", of(route));
        });
    }
    for_routes(
        text,
        table,
        "mrg_proxy_unserved_total",
        "counter",
        "Requests that nobody could serve.",
        |route, labels, text| {
            for (reason, count) in Reason::ALL.iter().zip(&route.shared.unserved) {
                let _ = writeln!(
                    text,
                    "mrg_proxy_unserved_total{{{labels},reason=\"{reason}\"}} {}",
                    count.get()
                );
            }
        },
    );
}

fn breakers(text: &mut String, table: &RouteTable) {
    for_targets(
        text,
        table,
        "mrg_proxy_breaker_state",
        "gauge",
        "1 for the state that the breaker is in.",
        |target, labels, text| {
            let (state, ..) = target.provider.status();
            for each in [State::Closed, State::HalfOpen, State::Open] {
                let now = u8::from(each == state);
                let _ = writeln!(
                    text,
                    "mrg_proxy_breaker_state{{{labels},state=\"{}\"}} {now}",
                    each.name()
                );
            }
        },
    );
}

fn requests(text: &mut String, table: &RouteTable) {
    for_targets(
        text,
        table,
        "mrg_proxy_requests_total",
        "counter",
        "Requests to a provider.",
        |target, labels, text| {
            let provider = &target.provider;
            for (outcome, count) in [
                ("success", &provider.successes),
                ("failure", &provider.failures),
                ("excluded", &provider.excluded),
                ("refused", &provider.refused),
            ] {
                let _ = writeln!(
                    text,
                    "mrg_proxy_requests_total{{{labels},outcome=\"{outcome}\"}} {}",
                    count.get()
                );
            }
        },
    );
}

fn breaker_counters(text: &mut String, table: &RouteTable) {
    for_targets(
        text,
        table,
        "mrg_proxy_shadow_refused_total",
        "counter",
        "What a shadowed breaker would have refused.",
        |target, labels, text| {
            let _ = writeln!(
                text,
                "mrg_proxy_shadow_refused_total{{{labels}}} {}",
                target.provider.shadow_refusals()
            );
        },
    );
    for_targets(
        text,
        table,
        "mrg_proxy_breaker_opened_total",
        "counter",
        "How often the breaker opened.",
        |target, labels, text| {
            let _ = writeln!(
                text,
                "mrg_proxy_breaker_opened_total{{{labels}}} {}",
                target.provider.opened.get()
            );
        },
    );
}

fn inbound(text: &mut String, workload: &str, handler: &InboundHandler) {
    let labels = format!("workload=\"{workload}\"");
    head(
        text,
        "mrg_proxy_inbound_in_flight",
        "gauge",
        "Requests to the workload under way.",
    );
    let _ = writeln!(
        text,
        "mrg_proxy_inbound_in_flight{{{labels}}} {}",
        handler.concurrency.now()
    );
    head(
        text,
        "mrg_proxy_inbound_refused_total",
        "counter",
        "Requests refused because too many were under way.",
    );
    let _ = writeln!(
        text,
        "mrg_proxy_inbound_refused_total{{{labels}}} {}",
        handler.refused.get()
    );
    head(
        text,
        "mrg_proxy_inbound_failed_total",
        "counter",
        "Answers with 5xx, and requests without an answer.",
    );
    let _ = writeln!(
        text,
        "mrg_proxy_inbound_failed_total{{{labels}}} {}",
        handler.failed.get()
    );
    head(
        text,
        "mrg_proxy_inbound_latency_seconds",
        "histogram",
        "Until an answer's head.",
    );
    handler
        .latencies
        .lines(text, "mrg_proxy_inbound_latency_seconds", &labels);
}

/// A metric with lines for every provider of every dependency.
fn for_targets(
    text: &mut String,
    table: &RouteTable,
    name: &str,
    kind: &str,
    help: &str,
    line: impl Fn(&Target, &str, &mut String),
) {
    for_routes(text, table, name, kind, help, |route, labels, text| {
        for target in &route.targets {
            let provider = target.name.to_str().unwrap_or_default();
            line(target, &format!("{labels},provider=\"{provider}\""), text);
        }
    });
}

/// A metric with lines for every dependency.
fn for_routes(
    text: &mut String,
    table: &RouteTable,
    name: &str,
    kind: &str,
    help: &str,
    mut line: impl FnMut(&Route, &str, &mut String),
) {
    head(text, name, kind, help);
    for route in &table.routes {
        let labels = format!(
            "workload=\"{}\",dependency=\"{}\"",
            table.config.workload, route.spec.name
        );
        line(route, &labels, text);
    }
}
