//! The alert rules, judged by Prometheus' own tool: they are well-formed, fire when they should,
//! and stay silent when they should. Needs `promtool` (Debian's package prometheus); `./dev test`
//! brings it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends with the first surprise"
)]

use std::process::Command;

use jiff::Timestamp;
use mrg_api::OrderServiceSet;
use mrg_operator::kinds::order_service_set::validate::{Desired, validate};
use mrg_operator::kinds::order_service_set::{alerts, build};
use serde_json::{Value, json};

fn desired(change: impl Fn(&mut Value)) -> Desired {
    let text = include_str!("../examples/mrg-platform.yaml");
    let mut set: Value = serde_saphyr::from_str(text.split("\n---\n").last().unwrap()).unwrap();
    set["metadata"]["namespace"] = json!("mrg");
    set["metadata"]["uid"] = json!("u");
    change(&mut set);
    let set: OrderServiceSet = serde_json::from_value(set).unwrap();
    validate(&set, None, Timestamp::UNIX_EPOCH).unwrap()
}

/// The rules as users get them: out of the ConfigMap.
fn rules() -> String {
    let objects = build::alerting(&desired(|_| {}));
    let config = objects
        .iter()
        .find(|object| object.name() == "mrg-alerts")
        .unwrap();
    config.0["data"]["rules.yaml"].as_str().unwrap().to_owned()
}

fn promtool(what: &[&str], folder: &std::path::Path) -> String {
    let output = Command::new("promtool")
        .args(what)
        .current_dir(folder)
        .output();
    let output = output
        .unwrap_or_else(|error| panic!("promtool does not start ({error}); run `./dev packages`"));
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn prometheus_takes_the_rules() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yaml"), rules()).unwrap();
    let said = promtool(&["check", "rules", "rules.yaml"], folder.path());
    assert!(said.contains("rules found"), "{said}");
}

#[test]
fn the_rule_of_the_analysis_has_its_words_severity_and_minute() {
    let all = alerts::rules(&desired(|_| {}), &desired(|_| {}).spec.alerting.unwrap());
    let rules: Vec<&Value> = all["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    let rule = rules
        .iter()
        .find(|rule| rule["alert"] == "OrderOrchestratorDown")
        .unwrap();
    assert_eq!(
        (
            &rule["for"],
            &rule["labels"]["severity"],
            &rule["labels"]["team"]
        ),
        (&json!("1m"), &json!("P0"), &json!("mrg"))
    );
    assert_eq!(rule["annotations"]["summary"], "Order Orchestrator DOWN");
    assert!(
        rule["annotations"]["description"]
            .as_str()
            .unwrap()
            .starts_with("Kegagalan total order")
    );
    assert_eq!(
        rules
            .iter()
            .filter(|rule| rule["alert"].as_str().unwrap().ends_with("Down"))
            .count(),
        12,
        "one for each service, and for Redis and RabbitMQ"
    );
}

#[test]
fn every_alert_has_a_runbook_that_its_address_leads_to() {
    let runbook = include_str!("../docs/runbooks/alerts.md");
    let headings: Vec<String> = runbook
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .flat_map(|line| line.split(", "))
        .map(str::to_owned)
        .collect();
    // One for all services stands under the name that they share.
    let covered = |name: &String| {
        headings.contains(name)
            || headings.iter().any(|heading| {
                heading
                    .strip_prefix('*')
                    .is_some_and(|end| name.ends_with(end))
            })
    };
    let missing: Vec<String> = alerts::names(&desired(|_| {}))
        .into_iter()
        .filter(|name| !covered(name))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/runbooks/alerts.md says nothing of {missing:?}"
    );
}

#[test]
fn an_installation_with_the_prometheus_operator_gets_its_objects_and_one_without_alerting_nothing()
{
    let with = desired(|set| set["spec"]["alerting"]["prometheusOperator"] = json!(true));
    let mut kinds: Vec<String> = build::alerting(&with)
        .iter()
        .map(mrg_kube_support::Manifest::kind)
        .collect();
    kinds.sort();
    assert_eq!(
        kinds,
        [
            "ConfigMap",
            "ConfigMap",
            "PodMonitor",
            "PodMonitor",
            "PrometheusRule"
        ]
    );
    let without = desired(|set| {
        set["spec"].as_object_mut().unwrap().remove("alerting");
    });
    assert!(build::alerting(&without).is_empty());
}

/// Series, what is to fire at a time, and what must not.
struct Case {
    series: Vec<(&'static str, &'static str)>,
    at: &'static str,
    fires: Vec<&'static str>,
    silent: Vec<&'static str>,
}

/// Series, and what fires for them.
#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<Case> {
    let up = |pod: &str| -> &'static str {
        format!("up{{job=\"orderorchestrator\",namespace=\"mrg\",pod=\"{pod}\"}}").leak()
    };
    vec![
        // All pods away: after a minute. One of three: never.
        Case {
            series: vec![(up("a"), "1 1 0x20"), (up("b"), "1 1 0x20")],
            at: "3m",
            fires: vec!["OrderOrchestratorDown"],
            silent: vec![],
        },
        Case {
            series: vec![(up("a"), "1 1 0x20"), (up("b"), "1x20")],
            at: "8m",
            fires: vec![],
            silent: vec!["OrderOrchestratorDown"],
        },
        Case {
            series: vec![(up("a"), "1 1 0 0 1x20")],
            at: "5m",
            fires: vec![],
            silent: vec!["OrderOrchestratorDown"],
        },
        Case {
            series: vec![("up{job=\"fds\",namespace=\"mrg\"}", "1x20")],
            at: "5m",
            fires: vec!["OrderOrchestratorDown"],
            silent: vec!["FDSFraudDetectionSystemDown"],
        },
        Case {
            series: vec![(
                "orderorchestrator_request_duration_seconds{quantile=\"0.95\",job=\"orderorchestrator\",namespace=\"mrg\"}",
                "2.5x20",
            )],
            at: "5m",
            fires: vec!["OrderOrchestratorSlow"],
            silent: vec![],
        },
        Case {
            series: vec![
                (
                    "orderorchestrator_errors_total{job=\"orderorchestrator\",namespace=\"mrg\"}",
                    "0+2x20",
                ),
                (
                    "orderorchestrator_requests_total{job=\"orderorchestrator\",namespace=\"mrg\"}",
                    "0+100x20",
                ),
            ],
            at: "10m",
            fires: vec!["OrderOrchestratorErrorRate"],
            silent: vec!["OrderOrchestratorSlow"],
        },
        Case {
            series: vec![
                (
                    "order_detail_latency_bucket{type=\"active\",le=\"0.2\",namespace=\"mrg\"}",
                    "0+90x20",
                ),
                (
                    "order_detail_latency_bucket{type=\"active\",le=\"0.5\",namespace=\"mrg\"}",
                    "0+100x20",
                ),
                (
                    "order_detail_latency_bucket{type=\"active\",le=\"+Inf\",namespace=\"mrg\"}",
                    "0+100x20",
                ),
                (
                    "order_detail_cache_hit_rate{type=\"history\",namespace=\"mrg\"}",
                    "0.95x20",
                ),
                (
                    "order_detail_replica_lag_seconds{namespace=\"mrg\"}",
                    "0.4 0.4 6x20",
                ),
            ],
            at: "10m",
            fires: vec!["OrderDetailActiveSlow", "OrderDetailReplicaLag"],
            silent: vec!["OrderDetailCacheHitRateLow"],
        },
        Case {
            series: vec![
                (
                    "patroni_primary{scope=\"s\",name=\"a\",namespace=\"mrg\"}",
                    "1 1 0x20",
                ),
                (
                    "patroni_primary{scope=\"s\",name=\"b\",namespace=\"mrg\"}",
                    "0 0 0x20",
                ),
            ],
            at: "4m",
            fires: vec!["PostgresLeaderMissing"],
            silent: vec![],
        },
        Case {
            series: vec![
                (
                    "patroni_primary{scope=\"s\",name=\"a\",namespace=\"mrg\"}",
                    "1x20",
                ),
                (
                    "patroni_xlog_location{scope=\"s\",name=\"a\",namespace=\"mrg\"}",
                    "50000000x20",
                ),
                (
                    "patroni_xlog_location{scope=\"s\",name=\"b\",namespace=\"mrg\"}",
                    "0x20",
                ),
                (
                    "patroni_replica{scope=\"s\",name=\"b\",namespace=\"mrg\"}",
                    "1x20",
                ),
                (
                    "patroni_xlog_replayed_location{scope=\"s\",name=\"a\",namespace=\"mrg\"}",
                    "0x20",
                ),
                (
                    "patroni_xlog_replayed_location{scope=\"s\",name=\"b\",namespace=\"mrg\"}",
                    "10000000x20",
                ),
            ],
            at: "10m",
            fires: vec!["PostgresReplicaLag"],
            silent: vec!["PostgresLeaderMissing"],
        },
        Case {
            series: vec![
                (
                    "mrg_etcd_failing{scope=\"s\",name=\"a\",request=\"write\",namespace=\"mrg\"}",
                    "0 1x20",
                ),
                (
                    "mrg_etcd_failing{scope=\"s\",name=\"a\",request=\"read\",namespace=\"mrg\"}",
                    "0x20",
                ),
                (
                    "mrg_etcd_failing{scope=\"t\",name=\"b\",request=\"grant\",namespace=\"mrg\"}",
                    "1x20",
                ),
            ],
            at: "5m",
            fires: vec!["PostgresEtcdFails"],
            silent: vec![],
        },
        Case {
            series: vec![(
                "mrg_proxy_breaker_state{workload=\"taxipartnergateway\",dependency=\"tpg-bbd\",provider=\"bbd\",state=\"open\",namespace=\"mrg\"}",
                "0 1x20",
            )],
            at: "5m",
            fires: vec!["BreakerOpenP0"],
            silent: vec!["BreakerOpenP2", "BreakerOpenP1"],
        },
        Case {
            series: vec![
                (
                    "mrg_queue_oldest_timestamp_seconds{workload=\"taxipartnergateway\",namespace=\"mrg\"}",
                    "0x60",
                ),
                (
                    "mrg_queue_inquiry{workload=\"taxipartnergateway\",namespace=\"mrg\"}",
                    "0x60",
                ),
            ],
            at: "20m",
            fires: vec!["QueueOld"],
            silent: vec!["QueueNeedsPeople"],
        },
        Case {
            series: vec![
                (
                    "mrg_rollout_phase{phase=\"Aborted\",service=\"fds\",set=\"mrg\",namespace=\"mrg\"}",
                    "0 1x20",
                ),
                (
                    "mrg_objective_met{part=\"redis\",set=\"mrg\",namespace=\"mrg\"}",
                    "1x20",
                ),
                (
                    "mrg_objective_met{part=\"fds\",set=\"mrg\",namespace=\"mrg\"}",
                    "1 0x20",
                ),
            ],
            at: "5m",
            fires: vec!["RolloutAborted", "ObjectiveMissed"],
            silent: vec!["RolloutPaused"],
        },
    ]
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yaml"), rules()).unwrap();
    for case in &cases() {
        // What fires is asked of ALERTS, so that a test names alerts and not their words.
        let one = |name: &&str, fires: bool| {
            let samples = if fires {
                json!([{ "labels": "{}", "value": 1 }])
            } else {
                json!([])
            };
            json!({ "expr": format!("count(count by (alertname) (ALERTS{{alertname=\"{name}\",alertstate=\"firing\"}}))"), "eval_time": case.at, "exp_samples": samples })
        };
        let expressions: Vec<Value> = case
            .fires
            .iter()
            .map(|name| one(name, true))
            .chain(case.silent.iter().map(|name| one(name, false)))
            .collect();
        let series: Vec<Value> = case
            .series
            .iter()
            .map(|(series, values)| json!({ "series": series, "values": values }))
            .collect();
        let test = json!({
            "rule_files": ["rules.yaml"], "evaluation_interval": "30s",
            "tests": [{ "interval": "30s", "input_series": series, "promql_expr_test": expressions }],
        });
        std::fs::write(folder.path().join("test.yaml"), test.to_string()).unwrap();
        promtool(&["test", "rules", "test.yaml"], folder.path());
    }
}
