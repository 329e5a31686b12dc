//! The dynamic configuration (`config` key), as Patroni defines it, and the election settings in
//! it.

use serde_json::{Map, Value};

use crate::tags::truth;
use mrg_base::Millis;
use mrg_election::{Failover, InvalidSettings, Mode, OnCrash, Replication, Settings};

/// The `config` key: JSON that the user may edit. Unknown keys are kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DynamicConfig(pub Map<String, Value>);

/// A value in the dynamic configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// Not a JSON object.
    #[error(
        "the config key is not a JSON object: {0}; write it again with `patronictl edit-config`"
    )]
    NotAnObject(String),
    /// Not even JSON.
    #[error(
        "the config key is not a JSON object: {0}; write it again with `patronictl edit-config`"
    )]
    NotJson(String),
    /// A field of the wrong kind.
    #[error("config: {field} is {value}, which is not {expected}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Values that do not fit together.
    #[error("config: {0}")]
    Settings(InvalidSettings),
}

impl DynamicConfig {
    /// Reads the key's value.
    ///
    /// # Errors
    /// If it is not JSON, or not an object.
    pub fn parse(value: &[u8]) -> Result<Self, InvalidConfig> {
        match serde_json::from_slice(value) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(other) => Err(InvalidConfig::NotAnObject(shown(&other))),
            Err(error) => Err(InvalidConfig::NotJson(error.to_string())),
        }
    }

    /// Merges as Patroni's `PATCH /config` does: objects are merged, `null` deletes.
    pub fn patch(&mut self, patch: &Map<String, Value>) {
        merge(&mut self.0, patch);
    }

    /// `postgresql.<name>`
    pub fn postgresql(&self, name: &str) -> Option<&Value> {
        self.0.get("postgresql")?.get(name)
    }

    /// `postgresql.parameters`
    pub fn parameters(&self) -> Map<String, Value> {
        self.postgresql("parameters")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    }

    /// `mrg.executable_settings`: the version of the mounted settings that this configuration goes
    /// with; `None` outside Kubernetes.
    pub fn executable_settings(&self) -> Option<&str> {
        self.0.get("mrg")?.get("executable_settings")?.as_str()
    }

    /// Lines of `postgresql.pg_hba`, if set.
    pub fn pg_hba(&self) -> Option<Vec<String>> {
        let lines = self.postgresql("pg_hba")?.as_array()?;
        Some(
            lines
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
        )
    }
}

/// The beginning of a value, for messages.
fn shown(value: &Value) -> String {
    const MOST: usize = 200;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text,
    }
}

fn merge(target: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (key, value) in patch {
        match (target.get_mut(key), value) {
            (_, Value::Null) => {
                target.shift_remove(key);
            }
            (Some(Value::Object(old)), Value::Object(new)) => merge(old, new),
            _ => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

fn seconds(
    config: &DynamicConfig,
    field: &'static str,
    default: u64,
) -> Result<Millis, InvalidConfig> {
    number(config, field, default).map(Millis::seconds)
}

fn number(config: &DynamicConfig, field: &'static str, default: u64) -> Result<u64, InvalidConfig> {
    whole(config.0.get(field), field, default)
}

fn whole(value: Option<&Value>, field: &'static str, default: u64) -> Result<u64, InvalidConfig> {
    match value {
        None | Some(Value::Null) => Ok(default),
        Some(value) => {
            let text = value.as_str().and_then(|text| text.parse().ok());
            let invalid = || InvalidConfig::Field {
                field,
                value: shown(value),
                expected: "a whole number",
            };
            value.as_u64().or(text).ok_or_else(invalid)
        }
    }
}

/// Under the name that Patroni gave it before 3.0, too.
fn primary_start_timeout(config: &DynamicConfig) -> Result<Millis, InvalidConfig> {
    let default = Settings::default().failover.primary_start_timeout.0 / 1_000;
    let former = number(config, "master_start_timeout", default)?;
    seconds(config, "primary_start_timeout", former)
}

fn flag(config: &DynamicConfig, field: &'static str, default: bool) -> Result<bool, InvalidConfig> {
    match config.0.get(field) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => truth(value).ok_or_else(|| InvalidConfig::Field {
            field,
            value: shown(value),
            expected: "true or false",
        }),
    }
}

/// The election settings in a dynamic configuration; Patroni's defaults where it is silent.
///
/// # Errors
/// The first field whose value has no meaning, or settings that do not fit together.
pub fn settings(config: &DynamicConfig) -> Result<Settings, InvalidConfig> {
    let mode = match config.0.get("synchronous_mode") {
        None | Some(Value::Null) => Mode::Async,
        Some(Value::String(text)) if text.eq_ignore_ascii_case("quorum") => Mode::Quorum,
        Some(value) => match truth(value) {
            Some(true) => Mode::Sync,
            Some(false) => Mode::Async,
            None => {
                let expected = "on, off or quorum";
                return Err(InvalidConfig::Field {
                    field: "synchronous_mode",
                    value: shown(value),
                    expected,
                });
            }
        },
    };
    let own = |name: &str| config.0.get("mrg").and_then(|own| own.get(name));
    let on_crash = match own("on_crash").and_then(Value::as_str) {
        Some("Failover") => OnCrash::Failover,
        Some("Restart") => OnCrash::Restart,
        _ => OnCrash::Auto,
    };
    let defaults = Settings::default().failover;
    let settings = Settings {
        failover: Failover {
            ttl: seconds(config, "ttl", 30)?,
            loop_wait: seconds(config, "loop_wait", 10)?,
            retry_timeout: seconds(config, "retry_timeout", 10)?,
            maximum_lag_bytes: number(config, "maximum_lag_on_failover", 1_048_576)?,
            on_crash,
            primary_start_timeout: primary_start_timeout(config)?,
            unresponsive_after: whole(
                own("unresponsive_after"),
                "mrg.unresponsive_after",
                defaults.unresponsive_after.0 / 1_000,
            )
            .map(Millis::seconds)?,
            failsafe: flag(config, "failsafe_mode", true)?,
        },
        replication: Replication {
            mode,
            count: usize::try_from(number(config, "synchronous_node_count", 1)?)
                .unwrap_or(usize::MAX),
            strict: flag(config, "synchronous_mode_strict", false)?,
        },
        paused: flag(config, "pause", false)?,
        use_rewind: config
            .postgresql("use_pg_rewind")
            .and_then(truth)
            .unwrap_or(true),
        standby_cluster: is_standby_cluster(config.0.get("standby_cluster")),
    };
    settings.check().map_err(InvalidConfig::Settings)?;
    Ok(settings)
}

/// As Patroni decides it (`GlobalConfig.is_standby_cluster`): by what a member could follow.
fn is_standby_cluster(section: Option<&Value>) -> bool {
    ["host", "port", "restore_command"]
        .iter()
        .filter_map(|key| section?.get(key))
        .any(|value| !matches!(value, Value::Null) && value != "" && value != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ClusterSnapshot;
    use mrg_election::Revision;

    fn parsed(text: &str) -> Result<Settings, InvalidConfig> {
        settings(&DynamicConfig::parse(text.as_bytes())?)
    }

    #[test]
    fn the_analysis_own_values_are_understood() {
        let text = r#"{"ttl":30,"loop_wait":10,"retry_timeout":10,"maximum_lag_on_failover":1048576,"synchronous_mode":"quorum","synchronous_mode_strict":false,"postgresql":{"use_pg_rewind":true}}"#;
        let settings = parsed(text).unwrap();
        assert_eq!(
            settings.replication,
            Replication {
                mode: Mode::Quorum,
                count: 1,
                strict: false
            }
        );
        assert_eq!(settings.failover.ttl, Millis::seconds(30));
    }

    #[test]
    fn a_standby_cluster_is_one_that_names_what_it_follows() {
        for (text, expected) in [
            ("{}", false),
            (r#"{"standby_cluster":null}"#, false),
            (r#"{"standby_cluster":{"host":"","port":null}}"#, false),
            (
                r#"{"standby_cluster":{"create_replica_methods":["basebackup"]}}"#,
                false,
            ),
            (r#"{"standby_cluster":{"host":"10.0.0.1"}}"#, true),
            (r#"{"standby_cluster":{"port":5432}}"#, true),
            (r#"{"standby_cluster":{"restore_command":"cp"}}"#, true),
        ] {
            assert_eq!(parsed(text).unwrap().standby_cluster, expected, "{text}");
        }
    }

    #[test]
    fn how_long_a_leader_may_not_serve_is_read_by_either_name() {
        let limits = |text| {
            let failover = parsed(text).unwrap().failover;
            (
                failover.primary_start_timeout.0 / 1_000,
                failover.unresponsive_after.0 / 1_000,
            )
        };
        for (text, expected) in [
            ("{}", (300, 20)),
            (r#"{"primary_start_timeout":0}"#, (0, 20)),
            (r#"{"master_start_timeout":"60"}"#, (60, 20)),
            (
                r#"{"master_start_timeout":60,"primary_start_timeout":10}"#,
                (10, 20),
            ),
            (r#"{"mrg":{"unresponsive_after":0}}"#, (300, 0)),
        ] {
            assert_eq!(limits(text), expected, "{text}");
        }
        let refused = parsed(r#"{"mrg":{"unresponsive_after":"soon"}}"#).unwrap_err();
        assert!(refused.to_string().contains("mrg.unresponsive_after"));
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named() {
        let message = parsed(r#"{"ttl":"soon"}"#).unwrap_err().to_string();
        assert!(
            message.contains("ttl") && message.contains("soon"),
            "{message}"
        );
        assert!(parsed(r#"{"synchronous_mode":"maybe"}"#).is_err());
        let message = parsed(r#"{"ttl":18446744073709551615}"#).unwrap_err();
        let message = message.to_string();
        assert!(
            message.contains("ttl") && message.contains("86400s"),
            "{message}"
        );
        assert!(parsed("[]").is_err());
    }

    #[test]
    fn a_value_of_any_size_is_shown_in_few_words_and_no_number_of_seconds_wraps() {
        for text in [
            format!(r#"{{"ttl":"{}"}}"#, "é".repeat(100_000)),
            format!("[{}1]", "1,".repeat(100_000)),
        ] {
            let message = parsed(&text).unwrap_err().to_string();
            assert!(message.contains('…') && message.len() < 700, "{message}");
        }
        // 2^64 / 1000 + 1 seconds would be less than one.
        for field in ["ttl", "loop_wait", "retry_timeout"] {
            let text = format!(r#"{{"ttl":30,"{field}":18446744073709552}}"#);
            assert!(parsed(&text).is_err(), "{field}");
        }
    }

    #[test]
    fn a_patch_merges_and_null_deletes() {
        let mut config =
            DynamicConfig::parse(br#"{"ttl":30,"postgresql":{"parameters":{"work_mem":"4MB"}}}"#)
                .unwrap();
        let patch = DynamicConfig::parse(
            br#"{"ttl":null,"postgresql":{"parameters":{"max_connections":100}}}"#,
        )
        .unwrap();
        config.patch(&patch.0);
        assert!(!config.0.contains_key("ttl"));
        assert_eq!(config.parameters().len(), 2);
    }

    #[test]
    fn without_a_config_key_a_stored_sync_still_says_who_may_take_over() {
        let bootstrap = DynamicConfig::parse(br#"{"ttl":30}"#).unwrap();
        let entry = crate::wire::Entry {
            value: br#"{"leader":"a","quorum":1,"sync_standby":"b,c"}"#.to_vec(),
            lease: 0,
            created: 3,
            modified: 5,
        };
        let with_sync = ClusterSnapshot::parse(Revision(9), &[("sync".to_owned(), entry)].into());
        for (snapshot, mode) in [
            (with_sync, Mode::Quorum),
            (ClusterSnapshot::default(), Mode::Async),
        ] {
            let config = snapshot.config_without_key(&bootstrap);
            assert_eq!(settings(&config).unwrap().replication.mode, mode);
        }
    }
}
