//! What is written down beside the data: which cluster it is of, and where its tablespaces are. Read
//! at a start while etcd's keys are missing, and before a copy replaces what is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::guarded::Guarded;
use super::provisioning::remove_if_there;
use crate::incarnation::write_durably;
use crate::server::{Error, Server, tablespaces};
use mrg_postgres::DataState;
use mrg_telemetry::chain;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DataRecord {
    scope: String,
    system_id: u64,
    /// Locations outside the data directory.
    #[serde(default)]
    tablespaces: BTreeSet<PathBuf>,
}

impl DataRecord {
    fn write(&self, file: &Path) -> std::io::Result<()> {
        write_durably(file, mrg_dcs::wire::compact(self).as_bytes())
    }
}

/// What this process knows to be written.
#[derive(Default)]
pub(super) struct Recorded {
    record: Arc<Guarded<Option<DataRecord>>>,
    /// The cluster's system identifier, as etcd has it; `None` until it is known.
    cluster: Guarded<Option<u64>>,
    /// Tablespaces are being looked at. One thread that hangs is enough.
    looks: Arc<AtomicBool>,
}

impl Server {
    /// Takes note of the cluster's system identifier. If the local data has it, the data is finished
    /// and recorded to be of this cluster.
    pub(crate) fn note_system(&self, system_id: u64) {
        let Recorded {
            record, cluster, ..
        } = &self.recorded;
        cluster.change(|known| *known = Some(system_id));
        let is_recorded = record.read(|record| {
            record
                .as_ref()
                .is_some_and(|record| record.system_id == system_id)
        });
        if is_recorded && !self.is_unfinished() || !self.is_of(system_id) {
            return;
        }
        let new = DataRecord {
            scope: self.config.scope.to_string(),
            system_id,
            tablespaces: tablespaces::linked(self.data()).unwrap_or_default(),
        };
        let written = new
            .write(&self.config.system_file())
            .and_then(|()| remove_if_there(&self.unfinished_mark()));
        match written {
            Ok(()) => record.change(|record| *record = Some(new)),
            Err(error) => warn(&error),
        }
    }

    /// Takes note of the locations that the data's tablespaces have now, beside the agent's only
    /// thread. Cheap enough for each time that anything happens: one directory is listed.
    pub(crate) fn note_tablespaces(&self) {
        let Recorded { record, looks, .. } = &self.recorded;
        let Some(known) = record.read(Clone::clone) else {
            return;
        };
        if looks.swap(true, Ordering::AcqRel) {
            return;
        }
        let (record, looks) = (record.clone(), looks.clone());
        let (data, file) = (self.data().to_owned(), self.config.system_file());
        tokio::task::spawn_blocking(move || {
            let found = match DataState::read(&data) {
                DataState::Present(control) if control.data.system_id == known.system_id => {
                    tablespaces::linked(&data)
                }
                // What its links named is still its own.
                _ => Ok(known.tablespaces.clone()),
            };
            match found {
                Ok(found) if found != known.tablespaces => {
                    let new = DataRecord {
                        tablespaces: found,
                        ..known
                    };
                    match new.write(&file) {
                        Ok(()) => record.change(|record| *record = Some(new)),
                        Err(error) => warn(&error),
                    }
                }
                Ok(_) => {}
                Err(error) => warn(&error),
            }
            looks.store(false, Ordering::Release);
        });
    }

    /// The locations of tablespaces that are this member's by its data, or by the record beside it.
    pub(super) fn own_tablespaces(&self) -> Result<BTreeSet<PathBuf>, Error> {
        let Some(record) = self.record() else {
            return Ok(BTreeSet::new());
        };
        let mut locations = record.tablespaces;
        if self.is_of(record.system_id) {
            let linked = tablespaces::linked(self.data());
            locations.extend(linked.map_err(Error::file("pg_tblspc"))?);
        }
        Ok(locations)
    }

    /// The system identifier of the data, if the data is recorded to be of the cluster of this name.
    pub(crate) fn recorded_system(&self) -> Option<u64> {
        let record = self.record()?;
        self.is_of(record.system_id).then_some(record.system_id)
    }

    /// Whether the record beside the data is of this cluster, by name and by the system identifier
    /// that the cluster is known to have.
    pub(crate) fn is_recorded(&self) -> bool {
        let known = self.recorded.cluster.read(|system| *system);
        known.is_some() && self.record().map(|record| record.system_id) == known
    }

    /// The record beside the data, if it is of a cluster of this name.
    fn record(&self) -> Option<DataRecord> {
        let bytes = std::fs::read(self.config.system_file()).ok()?;
        let record: DataRecord = serde_json::from_slice(&bytes).ok()?;
        (record.scope == self.config.scope.to_string()).then_some(record)
    }

    fn is_of(&self, system_id: u64) -> bool {
        matches!(DataState::read(self.data()), DataState::Present(control) if control.data.system_id == system_id)
    }
}

fn warn(error: &std::io::Error) {
    tracing::warn!(
        error = chain(error),
        "the record of which cluster the data is of, and where its tablespaces are, cannot be written"
    );
}
