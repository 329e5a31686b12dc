//! The proxy's file, and what is pushed to it.

use serde::{Deserialize, Serialize};

use super::{Dependency, Url};
use mrg_base::Duration;

/// Everything that a proxy does for its workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The workload, in metrics and logs.
    pub workload: String,
    /// What it calls.
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
    /// What people have forced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<OverrideSpec>,
    /// What calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<Inbound>,
}

/// A breaker that is forced open or closed, for a reason and for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OverrideSpec {
    /// Whose breaker: a dependency's name.
    pub dependency: String,
    /// Which provider's; all of them if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// What is forced.
    pub state: Forced,
    /// Why; shown wherever the breaker is.
    #[cfg_attr(feature = "schema", schemars(length(min = 3, max = 300)))]
    pub reason: String,
    /// Until when, as `2026-11-22T18:00:00Z`. Then the breaker decides again by itself.
    #[cfg_attr(feature = "schema", schemars(extend("format" = "date-time")))]
    pub until: String,
}

/// What is forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Forced {
    /// Nothing is let through.
    Open,
    /// Everything is.
    Closed,
}

/// What is done for those who call the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Inbound {
    /// Where the proxy listens for them.
    #[cfg_attr(feature = "schema", schemars(range(min = 1024, max = 65535)))]
    pub port: u16,
    /// Where the workload itself listens.
    #[serde(default = "eight_thousand_eighty")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 65535)))]
    pub target_port: u16,
    /// So many requests may be under way; more get 503 at once.
    #[serde(default = "two_hundred_fifty_six")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = 100_000)))]
    pub max_concurrent: u32,
    /// How long the workload may take for an answer's head.
    #[serde(default = "thirty_seconds")]
    pub timeout: Duration,
    /// Another version of the workload, which gets a share of the requests. Written by an
    /// OrderServiceSet while it tries a change out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// Reads that others answer for the workload, by their path; the first that fits. Written by an
    /// OrderServiceSet that splits order reads.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = 20)))]
    pub routes: Vec<Route>,
}

/// Reads (GET and HEAD) that somebody else answers: a share of them, and all of them with a share
/// of 100. While its breaker is open, or it cannot be reached, the workload answers as before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Paths, such as `/orders/{id}/history`; a word in braces stands for one part that is not
    /// empty.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 20)))]
    pub paths: Vec<String>,
    /// Who answers, and how much of it.
    pub to: Canary,
}

impl Route {
    /// Whether a path is one of its own.
    pub fn takes(&self, path: &str) -> bool {
        let fits = |pattern: &String| {
            let (mut wanted, mut found) = (pattern.split('/'), path.split('/'));
            loop {
                match (wanted.next(), found.next()) {
                    (None, None) => return true,
                    (Some(wanted), Some(found)) if wanted.starts_with('{') && !found.is_empty() => {
                    }
                    (Some(wanted), Some(found)) if wanted == found => {}
                    _ => return false,
                }
            }
        };
        self.paths.iter().any(fits)
    }
}

/// Another version of the workload, beside it, and its share of the requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Canary {
    /// Where it is.
    pub url: Url,
    /// Percent of the requests that it gets.
    #[cfg_attr(feature = "schema", schemars(range(min = 0, max = 100)))]
    pub share: u8,
    /// Names the trial: with another one, what is counted of both versions starts over.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = 100)))]
    pub trial: String,
}

impl Canary {
    /// Whether the request of this number is one of its share. Of any hundred in a row exactly that
    /// share is, spread evenly.
    pub fn takes(&self, number: u64) -> bool {
        let share = u64::from(self.share.min(100));
        let at = number % 100;
        (at + 1) * share / 100 != at * share / 100
    }
}

fn eight_thousand_eighty() -> u16 {
    8080
}

fn two_hundred_fifty_six() -> u32 {
    256
}

fn thirty_seconds() -> Duration {
    Duration::seconds(30)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_takes_its_paths_and_no_others() {
        let url = Url {
            tls: false,
            host: "x".to_owned(),
            port: 8080,
            base: String::new(),
        };
        let to = Canary {
            url,
            share: 100,
            trial: "t".to_owned(),
        };
        let route = Route {
            paths: vec![
                "/orders/active".to_owned(),
                "/orders/{id}/active".to_owned(),
            ],
            to,
        };
        for (path, taken) in [
            ("/orders/active", true),
            ("/orders/7/active", true),
            ("/orders//active", false),
            ("/orders/7/active/", false),
            ("/orders/7/history", false),
            ("/orders", false),
            ("/v2/orders/7/active", false),
            ("/orders/7/8/active", false),
        ] {
            assert_eq!(route.takes(path), taken, "{path}");
        }
    }

    #[test]
    fn of_any_hundred_requests_exactly_the_share_goes_to_the_canary_spread_evenly() {
        let url = Url {
            tls: false,
            host: "x".to_owned(),
            port: 8080,
            base: String::new(),
        };
        for share in 0..=100 {
            let canary = Canary {
                url: url.clone(),
                share,
                trial: "t".to_owned(),
            };
            for start in [0, 37, u64::MAX - 200] {
                let taken = (start..start + 100)
                    .filter(|number| canary.takes(*number))
                    .count();
                assert!(
                    taken.abs_diff(usize::from(share)) <= usize::from(start > 100) * 2,
                    "{share}: {taken} from {start}"
                );
            }
            for ten in 0..10_u64 {
                let taken = (ten * 10..ten * 10 + 10)
                    .filter(|number| canary.takes(*number))
                    .count();
                assert!(
                    taken.abs_diff(usize::from(share) / 10) <= 1,
                    "{share}: {taken} of the ten from {ten}0"
                );
            }
        }
    }
}
