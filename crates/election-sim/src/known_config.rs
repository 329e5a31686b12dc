//! The dynamic configuration as a member remembers it.

use crate::etcd::Keys;
use mrg_dcs::DynamicConfig;
use mrg_election::{Revision, Settings};

/// The last that was read, with its revision; 0 if etcd went back since.
#[derive(Debug, Default)]
pub(super) struct KnownConfig(Option<(Revision, DynamicConfig)>);

impl KnownConfig {
    pub(crate) fn reset(&mut self) {
        if let Some((revision, _)) = &mut self.0 {
            *revision = Revision(0);
        }
    }

    /// The settings that a snapshot brings. Those of an etcd that went back may be older than what
    /// was read.
    pub(crate) fn observe(&mut self, keys: &Keys, doubted: bool) -> Option<Settings> {
        let (revision, config) = keys.config().filter(|_| !doubted || self.0.is_none())?;
        if self.0.as_ref().is_none_or(|(read, _)| *read != revision) {
            self.0 = Some((revision, config.clone()));
        }
        keys.settings
    }

    pub(crate) fn remembered(&self) -> Option<&DynamicConfig> {
        self.0.as_ref().map(|(_, config)| config)
    }
}
