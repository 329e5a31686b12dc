//! Which dynamic configuration is in force. Pure.

use mrg_dcs::{ClusterSnapshot, DynamicConfig, InvalidConfig, settings};
use mrg_election::{Revision, Settings};

/// The dynamic configuration that is in force, as far as snapshots have shown it.
#[derive(Default)]
pub(super) struct Dynamic {
    /// The last valid value of the `config` key, with its revision.
    read: Option<(Revision, DynamicConfig)>,
    /// The settings that were taken over last.
    settings: Option<Settings>,
}

/// What follows from a snapshot.
#[derive(Debug, PartialEq)]
pub(super) struct InForce {
    /// Settings to take over.
    pub(super) settings: Option<Settings>,
    /// Why what the snapshot says is refused, if it is. The last valid one stays in force.
    pub(super) refused: Option<InvalidConfig>,
    pub(super) config: DynamicConfig,
    /// The revision of the key that `config` was read from; `None` if there was none so far.
    pub(super) revision: Option<Revision>,
}

impl Dynamic {
    /// Takes over what the keys say. `bootstrap` is what a new cluster begins with.
    pub(super) fn observe(
        &mut self,
        snapshot: &ClusterSnapshot,
        bootstrap: &DynamicConfig,
    ) -> InForce {
        let (mut taken, mut refused) = (None, None);
        let known = self.read.as_ref().map(|(revision, _)| *revision);
        let key = snapshot.config();
        if let Some(key) = key.filter(|key| known != Some(key.modified)) {
            match validated(&key.value) {
                Ok((settings, config)) => {
                    taken = Some(settings);
                    self.read = Some((key.modified, config));
                }
                Err(error) => refused = Some(error),
            }
        }
        if let Some((revision, config)) = &self.read {
            // If the key is gone, what it said stays in force: to fall back to what the cluster
            // began with could turn synchronous replication off.
            self.settings = taken.or(self.settings);
            return InForce {
                settings: taken,
                refused,
                config: config.clone(),
                revision: Some(*revision),
            };
        }
        let config = snapshot.config_without_key(bootstrap);
        match settings(&config) {
            Ok(settings) if self.settings != Some(settings) => taken = Some(settings),
            Ok(_) => {}
            Err(error) => refused = Some(error),
        }
        self.settings = taken.or(self.settings);
        InForce {
            settings: taken,
            refused,
            config,
            revision: None,
        }
    }
}

fn validated(
    value: &Result<DynamicConfig, InvalidConfig>,
) -> Result<(Settings, DynamicConfig), InvalidConfig> {
    let config = value.clone()?;
    Ok((settings(&config)?, config))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use mrg_base::Millis;
    use mrg_dcs::wire::Entry;

    type Entries = BTreeMap<String, Entry>;

    fn config(json: &str) -> DynamicConfig {
        DynamicConfig::parse(json.as_bytes()).unwrap()
    }

    fn key(revision: i64, json: &str) -> Entries {
        let entry = Entry {
            value: json.as_bytes().to_vec(),
            created: 1,
            modified: revision,
            lease: 0,
        };
        [("config".to_owned(), entry)].into()
    }

    /// The ttl to take over in seconds, whether the key is refused, the revision in force.
    type Row = (&'static str, Entries, Option<u64>, bool, Option<i64>);

    fn check(rows: Vec<Row>) {
        let bootstrap = config(r#"{"ttl": 40}"#);
        let mut dynamic = Dynamic::default();
        for (case, entries, ttl, refused, revision) in rows {
            let snapshot = ClusterSnapshot::parse(Revision(9), &entries);
            let in_force = dynamic.observe(&snapshot, &bootstrap);
            let taken = in_force.settings.map(|settings| settings.failover.ttl);
            assert_eq!(taken, ttl.map(Millis::seconds), "{case}");
            assert_eq!(in_force.refused.is_some(), refused, "{case}");
            assert_eq!(in_force.revision, revision.map(Revision), "{case}");
        }
    }

    #[test]
    fn the_last_valid_configuration_stays_in_force() {
        check(vec![
            ("no key yet", Entries::new(), Some(40), false, None),
            ("still none", Entries::new(), None, false, None),
            ("no JSON", key(2, "x"), None, true, None),
            ("valid", key(3, r#"{"ttl": 30}"#), Some(30), false, Some(3)),
            ("the same", key(3, r#"{"ttl": 30}"#), None, false, Some(3)),
            (
                "out of range",
                key(4, r#"{"ttl": "x"}"#),
                None,
                true,
                Some(3),
            ),
            (
                "written again",
                key(5, r#"{"ttl": 30}"#),
                Some(30),
                false,
                Some(5),
            ),
            ("deleted", Entries::new(), None, false, Some(5)),
        ]);
    }

    #[test]
    fn an_invalid_key_from_the_start_leaves_the_bootstrap_configuration_in_force() {
        check(vec![
            ("no JSON", key(2, "x"), Some(40), true, None),
            ("still no JSON", key(2, "x"), None, true, None),
        ]);
    }

    #[test]
    fn a_deleted_key_does_not_change_the_configuration() {
        let mut dynamic = Dynamic::default();
        let quorum = r#"{"synchronous_mode": "quorum"}"#;
        let present = ClusterSnapshot::parse(Revision(3), &key(3, quorum));
        dynamic.observe(&present, &DynamicConfig::default());
        let deleted = ClusterSnapshot::parse(Revision(4), &Entries::new());
        let in_force = dynamic.observe(&deleted, &DynamicConfig::default());
        assert_eq!(in_force.config, config(quorum));
    }
}
