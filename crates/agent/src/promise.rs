//! The durable record of what this member promised to a leader without etcd. It stands on the data
//! volume, so that a restarted agent, also in a new pod, keeps the promise, and one that promised
//! nothing need not wait (ADR 2).

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::incarnation::{boot_id, write_durably};
use mrg_election::{PreviousIncarnation, Promise};

#[derive(Serialize, Deserialize)]
struct Record {
    boot: String,
    promise: Option<Promise>,
}

/// Writes the last promise down; returns when it would survive a crash of the machine.
pub(crate) fn record(path: &Path, promise: Option<Promise>) -> std::io::Result<()> {
    write_durably(
        path,
        &serde_json::to_vec(&Record {
            boot: boot_id(),
            promise,
        })?,
    )
}

/// What the record says. A promise whose end was measured by the clock of another boot cannot be
/// compared, and counts as forgotten.
pub(crate) fn recall(path: &Path) -> PreviousIncarnation {
    let record = std::fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok());
    match record {
        Some(Record { promise: None, .. }) => PreviousIncarnation::Known(None),
        Some(Record { boot, promise }) if boot == boot_id() => PreviousIncarnation::Known(promise),
        _ => PreviousIncarnation::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_base::Moment;
    use mrg_election::LeaseId;

    #[test]
    fn a_promise_survives_a_restart_and_its_absence_does_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.promise");
        assert_eq!(recall(&path), PreviousIncarnation::Unknown);
        record(&path, None).unwrap();
        assert_eq!(recall(&path), PreviousIncarnation::Known(None));
        let promise = Promise {
            lease: LeaseId(7),
            until: Moment(5),
            round: 2,
        };
        record(&path, Some(promise)).unwrap();
        assert_eq!(recall(&path), PreviousIncarnation::Known(Some(promise)));
    }

    #[test]
    fn a_promise_of_another_boot_counts_as_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.promise");
        std::fs::write(&path, r#"{"boot":"earlier","promise":[7,5]}"#).unwrap();
        assert_eq!(recall(&path), PreviousIncarnation::Unknown);
        std::fs::write(&path, "garbage").unwrap();
        assert_eq!(recall(&path), PreviousIncarnation::Unknown);
    }
}
