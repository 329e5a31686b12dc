//! Who provides a dependency: where it is, which requests are for it, how its health is checked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Url;
use mrg_base::Duration;

/// One who provides a dependency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    /// Its name in status, metrics and logs.
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 1, max = 40),
            regex(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
        )
    )]
    pub name: String,
    /// Where it is: `http://host:port` or `https://host/base`.
    pub url: Url,
    /// Headers that are set on every request to it, in place of what the workload sent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// A header from a Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Only requests whose header has one of these values are for it; if not given, all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepts: Option<Accepts>,
    /// It is asked for its health all the time, and tried last while it is not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

/// A header whose value stands in a Secret of the workload's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Credentials {
    /// The Secret.
    #[cfg_attr(
        feature = "schema",
        schemars(
            length(min = 1, max = 253),
            regex(pattern = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
        )
    )]
    pub secret_name: String,
    /// The key in it.
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1, max = 253), regex(pattern = "^[A-Za-z0-9._-]+$"))
    )]
    pub key: String,
    /// The header.
    #[serde(default = "authorization")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 100)))]
    pub header: String,
    /// What stands before the value, such as `Bearer `.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 100)))]
    pub prefix: String,
}

fn authorization() -> String {
    "authorization".to_owned()
}

/// Which requests a provider is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Accepts {
    /// The header, such as the payment method.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 100)))]
    pub header: String,
    /// Its values.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 50)))]
    pub values: Vec<String>,
}

/// How a provider is asked for its health.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HealthCheck {
    /// GET; any status below 500 is well.
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1, max = 500), regex(pattern = "^/"))
    )]
    pub path: String,
    /// How often.
    #[serde(default = "ten_seconds")]
    pub interval: Duration,
    /// How long the answer may take.
    #[serde(default = "two_seconds")]
    pub timeout: Duration,
    /// So many in a row change the mind.
    #[serde(default = "two")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 10)))]
    pub threshold: u32,
}

fn ten_seconds() -> Duration {
    Duration::seconds(10)
}

fn two_seconds() -> Duration {
    Duration::seconds(2)
}

fn two() -> u32 {
    2
}
