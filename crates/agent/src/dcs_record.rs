//! How far etcd had come, for the process after this one: an etcd that was emptied or restored from a
//! backup while no agent ran is not believed about who leads.

use std::path::PathBuf;

use crate::context::Status;
use crate::incarnation::write_durably;
use mrg_dcs::wire;
use mrg_dcs_etcd::Mark;
use mrg_election::Revision;
use mrg_telemetry::chain;

/// The record, and what it was written for.
pub(crate) struct DcsRecord {
    path: PathBuf,
    /// The revisions of the leader key and of `/sync` that it is newer than.
    written: Option<(Option<Revision>, Option<Revision>)>,
}

impl DcsRecord {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            written: None,
        }
    }

    /// What the process before this one knew; `None` without a record that can be read.
    pub(crate) fn load(&self) -> Option<Mark> {
        serde_json::from_slice(&std::fs::read(&self.path).ok()?).ok()
    }

    /// Writes it when what decides about leadership has changed, which is rare. Not while etcd is
    /// not believed: the next process must not believe it either.
    pub(crate) fn keep(&mut self, status: &Status, mark: Mark) {
        let cluster = &status.cluster;
        let leader = cluster.leader.as_ref().map(|key| key.created);
        let sync = cluster.sync.as_ref().map(|(revision, _)| *revision);
        let decides = (leader, sync);
        if status.dcs_reset || leader.is_none() || self.written == Some(decides) {
            return;
        }
        match write_durably(&self.path, wire::compact(&mark).as_bytes()) {
            Ok(()) => self.written = Some(decides),
            Err(error) => tracing::warn!(
                error = chain(&error),
                path = %self.path.display(),
                "it cannot be written down how far etcd has come"
            ),
        }
    }
}
