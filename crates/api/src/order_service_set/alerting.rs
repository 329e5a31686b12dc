//! Who is told what, and in which words.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Rules for Prometheus, a dashboard for Grafana, and the words of an incident.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alerting {
    /// Rules and targets as objects of the Prometheus operator (`PrometheusRule`, `PodMonitor`), too.
    /// The rules are in a ConfigMap in any case.
    #[serde(default)]
    pub prometheus_operator: bool,
    /// Where the runbook of an alert is; `{alert}` stands for its name in small letters.
    #[serde(default = "runbook")]
    #[schemars(length(min = 8, max = 500))]
    pub runbook_url: String,
    /// The words in which an incident is told.
    #[serde(default)]
    pub language: Language,
    /// Who is on call, in the words of an incident.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub on_call: Option<String>,
    /// Labels on every alert, beside `severity` and `team: mrg`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

fn runbook() -> String {
    "https://git.bluebird.id/mybb-ms/mrg-operator/docs/runbooks/alerts.md#{alert}".to_owned()
}

impl Default for Alerting {
    fn default() -> Self {
        Self {
            prometheus_operator: false,
            runbook_url: runbook(),
            language: Language::default(),
            on_call: None,
            labels: BTreeMap::new(),
        }
    }
}

/// The words in which an incident is told.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum Language {
    /// As in the analysis.
    #[default]
    Indonesian,
    /// English.
    English,
}
