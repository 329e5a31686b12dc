//! How far etcd had come, for the process after this one: an etcd that was emptied or restored from a
//! backup while no agent ran is not believed about who leads.

use std::path::PathBuf;

use tokio::task::JoinHandle;

use crate::context::Status;
use crate::incarnation::write_durably;
use mrg_dcs::wire;
use mrg_dcs_etcd::Mark;
use mrg_election::Revision;
use mrg_telemetry::chain;

/// The revisions of the leader key and of `/sync`: what decides about leadership.
type Decides = (Option<Revision>, Option<Revision>);

/// The record, and what it was written for.
pub(crate) struct DcsRecord {
    path: PathBuf,
    /// What it is newer than.
    written: Option<Decides>,
    /// A write that was begun. The agent has one thread, which a disk that hangs must not stop, and
    /// one write that hangs is enough.
    under_way: Option<(Decides, JoinHandle<std::io::Result<()>>)>,
}

impl DcsRecord {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            written: None,
            under_way: None,
        }
    }

    /// What the process before this one knew; `None` without a record that can be read.
    pub(crate) fn load(&self) -> Option<Mark> {
        serde_json::from_slice(&std::fs::read(&self.path).ok()?).ok()
    }

    /// Begins to write it when what decides about leadership has changed, which is rare. Not while
    /// etcd is not believed: the next process must not believe it either.
    pub(crate) async fn keep(&mut self, status: &Status, mark: Mark) {
        self.finish().await;
        let cluster = &status.cluster;
        let leader = cluster.leader.as_ref().map(|key| key.created);
        let sync = cluster.sync.as_ref().map(|(revision, _)| *revision);
        let decides = (leader, sync);
        let current = self.under_way.is_some() || self.written == Some(decides);
        if status.dcs_reset || leader.is_none() || current {
            return;
        }
        let path = self.path.clone();
        let write = move || write_durably(&path, wire::compact(&mark).as_bytes());
        self.under_way = Some((decides, tokio::task::spawn_blocking(write)));
    }

    /// Takes what came of the write, if it has ended.
    async fn finish(&mut self) {
        let ended = self.under_way.take_if(|(_, write)| write.is_finished());
        let Some((decides, write)) = ended else {
            return;
        };
        match write.await.unwrap_or_else(|error| Err(error.into())) {
            Ok(()) => self.written = Some(decides),
            Err(error) => tracing::warn!(
                error = chain(&error),
                path = %self.path.display(),
                "it cannot be written down how far etcd has come"
            ),
        }
    }
}
