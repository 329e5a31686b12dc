//! Which dynamic configuration is in force. Pure.

use mrg_dcs::{DynamicConfig, InvalidConfig, settings};
use mrg_election::{Revision, Settings};

/// The dynamic configuration that is in force, as far as snapshots have shown it.
#[derive(Default)]
pub(super) struct Dynamic {
    /// The last valid value of the `config` key, with its revision.
    read: Option<(Revision, DynamicConfig)>,
    /// The settings that were taken over last.
    settings: Option<Settings>,
}

/// The revision of what was read before a reset.
const BEFORE_RESET: Revision = Revision(0);

/// The `config` key: its revision and value.
pub(super) type Key = (Revision, Result<DynamicConfig, InvalidConfig>);

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
    /// etcd went back in time: a key of a revision that was read before may say something else.
    pub(super) fn reset(&mut self) {
        if let Some((revision, _)) = &mut self.read {
            *revision = BEFORE_RESET;
        }
    }

    /// Takes over what a snapshot says: the `config` key's revision and value, if there is one, and
    /// what is in force where no value was read yet. `doubted`: etcd went back in time, and nothing
    /// written since settles who leads; what the key says may be older than what was read.
    pub(super) fn observe(
        &mut self,
        key: Option<Key>,
        without_key: DynamicConfig,
        doubted: bool,
    ) -> InForce {
        let key = key.filter(|_| !doubted || self.read.is_none());
        let (mut taken, mut refused) = (None, None);
        let known = self.read.as_ref().map(|(revision, _)| *revision);
        if let Some((revision, value)) = key.filter(|(revision, _)| known != Some(*revision)) {
            match value.and_then(|config| Ok((settings(&config)?, config))) {
                Ok((settings, config)) => {
                    taken = Some(settings);
                    self.read = Some((revision, config));
                }
                Err(error) => refused = Some(error),
            }
        }
        // If the key is gone, what it said stays in force: to fall back to what the cluster began
        // with could turn synchronous replication off.
        let (revision, config) = match &self.read {
            Some((revision, config)) => (Some(*revision), config.clone()),
            None => (None, without_key),
        };
        if revision.is_none() {
            match settings(&config) {
                Ok(settings) if self.settings != Some(settings) => taken = Some(settings),
                Ok(_) => {}
                Err(error) => refused = Some(error),
            }
        }
        self.settings = taken.or(self.settings);
        InForce {
            settings: taken,
            refused,
            config,
            revision,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_base::Millis;

    fn config(json: &str) -> DynamicConfig {
        DynamicConfig::parse(json.as_bytes()).unwrap()
    }

    fn written(revision: i64, json: &str) -> Key {
        (Revision(revision), DynamicConfig::parse(json.as_bytes()))
    }

    /// The ttl to take over in seconds, whether the key is refused, the revision in force.
    type Row = (&'static str, Option<Key>, Option<u64>, bool, Option<i64>);

    fn check(rows: Vec<Row>) {
        let bootstrap = config(r#"{"ttl": 40}"#);
        let mut dynamic = Dynamic::default();
        for (case, key, ttl, refused, revision) in rows {
            let in_force = dynamic.observe(key, bootstrap.clone(), false);
            let taken = in_force.settings.map(|settings| settings.failover.ttl);
            assert_eq!(taken, ttl.map(Millis::seconds), "{case}");
            assert_eq!(in_force.refused.is_some(), refused, "{case}");
            assert_eq!(in_force.revision, revision.map(Revision), "{case}");
        }
    }

    #[test]
    fn the_last_valid_configuration_stays_in_force() {
        check(vec![
            ("no key yet", None, Some(40), false, None),
            ("still none", None, None, false, None),
            ("no JSON", Some(written(2, "x")), None, true, None),
            (
                "valid",
                Some(written(3, r#"{"ttl": 30}"#)),
                Some(30),
                false,
                Some(3),
            ),
            (
                "the same",
                Some(written(3, r#"{"ttl": 30}"#)),
                None,
                false,
                Some(3),
            ),
            (
                "out of range",
                Some(written(4, r#"{"ttl": "x"}"#)),
                None,
                true,
                Some(3),
            ),
            (
                "written again",
                Some(written(5, r#"{"ttl": 30}"#)),
                Some(30),
                false,
                Some(5),
            ),
            ("deleted", None, None, false, Some(5)),
        ]);
    }

    #[test]
    fn an_invalid_key_from_the_start_leaves_the_bootstrap_configuration_in_force() {
        check(vec![
            ("no JSON", Some(written(2, "x")), Some(40), true, None),
            ("still no JSON", Some(written(2, "x")), None, true, None),
        ]);
    }

    #[test]
    fn while_etcd_is_in_doubt_what_was_read_stays_in_force() {
        let mut dynamic = Dynamic::default();
        let none = DynamicConfig::default();
        let (old, new) = (r#"{"ttl": 40}"#, r#"{"ttl": 30}"#);
        dynamic.observe(Some(written(4, new)), none.clone(), false);
        dynamic.reset();
        let in_force = dynamic.observe(Some(written(4, old)), none.clone(), true);
        assert_eq!((in_force.config, in_force.settings), (config(new), None));
        let in_force = dynamic.observe(Some(written(4, old)), none, false);
        assert_eq!(in_force.config, config(old), "a person restored that");
        assert_eq!(in_force.revision, Some(Revision(4)));
    }

    #[test]
    fn in_doubt_a_process_that_knows_no_configuration_takes_what_there_is() {
        let mut dynamic = Dynamic::default();
        let key = Some(written(4, r#"{"ttl": 40}"#));
        let in_force = dynamic.observe(key, DynamicConfig::default(), true);
        assert_eq!(in_force.revision, Some(Revision(4)));
    }

    #[test]
    fn a_deleted_key_does_not_change_the_configuration() {
        let mut dynamic = Dynamic::default();
        let quorum = r#"{"synchronous_mode": "quorum"}"#;
        dynamic.observe(Some(written(3, quorum)), DynamicConfig::default(), false);
        let in_force = dynamic.observe(None, DynamicConfig::default(), false);
        assert_eq!(in_force.config, config(quorum));
    }
}
