//! Numbers for Prometheus.

use std::fmt::Write;

use crate::routes::table::{Route, RouteTable};
use crate::server::inbound::Admission;
use mrg_breaker::State;
use mrg_policy::Reason;

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Everything, in Prometheus' text format.
pub(crate) fn page(table: &RouteTable, inbound: Option<&Admission>) -> String {
    let mut text = String::new();
    dependencies(&mut text, table);
    providers(&mut text, table);
    if let Some(admission) = inbound {
        self::inbound(&mut text, &table.config.workload, admission);
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

fn providers(text: &mut String, table: &RouteTable) {
    for_routes(
        text,
        table,
        "mrg_proxy_breaker_state",
        "gauge",
        "1 for the state that the breaker is in.",
        |route, labels, text| {
            for target in &route.targets {
                let name = target.name.to_str().unwrap_or_default();
                let (state, ..) = target.provider.status();
                for each in [State::Closed, State::HalfOpen, State::Open] {
                    let now = u8::from(each == state);
                    let _ = writeln!(
                        text,
                        "mrg_proxy_breaker_state{{{labels},provider=\"{name}\",state=\"{}\"}} {now}",
                        each.name()
                    );
                }
            }
        },
    );
    for_routes(
        text,
        table,
        "mrg_proxy_requests_total",
        "counter",
        "Requests to a provider.",
        |route, labels, text| {
            for target in &route.targets {
                let (name, provider) = (target.name.to_str().unwrap_or_default(), &target.provider);
                for (outcome, count) in [
                    ("success", &provider.successes),
                    ("failure", &provider.failures),
                    ("excluded", &provider.excluded),
                    ("refused", &provider.refused),
                ] {
                    let _ = writeln!(
                        text,
                        "mrg_proxy_requests_total{{{labels},provider=\"{name}\",outcome=\"{outcome}\"}} {}",
                        count.get()
                    );
                }
            }
        },
    );
    for_routes(
        text,
        table,
        "mrg_proxy_shadow_refused_total",
        "counter",
        "What a shadowed breaker would have refused.",
        |route, labels, text| {
            for target in &route.targets {
                let name = target.name.to_str().unwrap_or_default();
                let _ = writeln!(
                    text,
                    "mrg_proxy_shadow_refused_total{{{labels},provider=\"{name}\"}} {}",
                    target.provider.shadow_refusals()
                );
            }
        },
    );
    for_routes(
        text,
        table,
        "mrg_proxy_breaker_opened_total",
        "counter",
        "How often the breaker opened.",
        |route, labels, text| {
            for target in &route.targets {
                let name = target.name.to_str().unwrap_or_default();
                let _ = writeln!(
                    text,
                    "mrg_proxy_breaker_opened_total{{{labels},provider=\"{name}\"}} {}",
                    target.provider.opened.get()
                );
            }
        },
    );
}

fn inbound(text: &mut String, workload: &str, admission: &Admission) {
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
        admission.concurrency.now()
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
        admission.refused.get()
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
        admission.failed.get()
    );
    head(
        text,
        "mrg_proxy_inbound_latency_seconds",
        "histogram",
        "Until an answer's head.",
    );
    admission
        .latencies
        .lines(text, "mrg_proxy_inbound_latency_seconds", &labels);
}

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
