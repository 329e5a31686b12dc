//! When a provider is not called at all.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use mrg_base::{Duration, Millis};
use mrg_breaker::{Mode, Ratio, Settings};

/// When a provider is not asked at all. The defaults are the analysis' `tpg-bbd`; the semantics are
/// gobreaker's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BreakerPolicy {
    /// So many requests are let through half-open, and so many successes in a row close it.
    pub max_requests: NonZeroU32,
    /// How long a closed breaker counts before it starts over; `0s`: it never does.
    pub interval: Duration,
    /// The window rolls in steps of this length; if not given it is fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<Duration>,
    /// How long it stays open.
    pub timeout: Duration,
    /// It opens no earlier than after so many requests.
    pub min_requests: u32,
    /// It opens when this share of them failed.
    // The API server takes 0 for no number below the minimum.
    #[cfg_attr(
        feature = "schema",
        schemars(
            with = "f64",
            range(max = 1.0),
            extend("x-kubernetes-validations" = [{
                "rule": "self > 0.0",
                "message": "failureRatio is a share above 0 and at most 1, such as 0.5"
            }])
        )
    )]
    pub failure_ratio: Ratio,
    /// `Enforce`: it refuses. `Shadow`: it counts and says when it would have refused. `Off`:
    /// neither.
    pub mode: Mode,
    /// Statuses below 500 that count as failures, such as 429. 5xx do, except 501.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(
        feature = "schema",
        schemars(length(max = 20), inner(range(min = 400, max = 499)))
    )]
    pub failure_statuses: Vec<u16>,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        let settings = Settings::default();
        Self {
            max_requests: settings.max_requests,
            interval: Duration(settings.interval),
            bucket: None,
            timeout: Duration(settings.timeout),
            min_requests: settings.min_requests,
            failure_ratio: settings.failure_ratio,
            mode: Mode::Enforce,
            failure_statuses: Vec::new(),
        }
    }
}

impl BreakerPolicy {
    /// For the machine.
    pub fn settings(&self) -> Settings {
        Settings {
            max_requests: self.max_requests,
            interval: self.interval.0,
            bucket: self.bucket.map_or(Millis(0), |bucket| bucket.0),
            timeout: self.timeout.0,
            min_requests: self.min_requests,
            failure_ratio: self.failure_ratio,
        }
    }
}
