//! The durable record of what this member promised to a leader without etcd. It stands on the data
//! volume, so that a restarted agent, also in a new pod, keeps the promise, and one that promised
//! nothing need not wait (ADR 2).

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::incarnation::{boot_id, write_durably};
use mrg_election::{PreviousIncarnation, Promise};

#[derive(Serialize, Deserialize)]
struct Record {
    boot: String,
    promise: Option<Promise>,
}

/// Writes the last promise down; returns when it would survive a crash of the machine.
fn record(path: &Path, promise: Option<Promise>) -> std::io::Result<()> {
    write_durably(
        path,
        &serde_json::to_vec(&Record {
            boot: boot_id(),
            promise,
        })?,
    )
}

/// Writes promises down in the order in which they were given, in a thread of its own: a disk that
/// hangs holds up nothing else.
pub(crate) struct Recorder(mpsc::Sender<Entry>);

type Entry = (Option<Promise>, oneshot::Sender<std::io::Result<()>>);

impl Recorder {
    pub(crate) fn new(path: PathBuf) -> Self {
        let (entries, queue) = mpsc::channel::<Entry>();
        std::thread::spawn(move || {
            while let Ok(first) = queue.recv() {
                // The last promise is all that the record holds: those that were given while the disk
                // was busy cost one write.
                let entries: Vec<Entry> = std::iter::once(first).chain(queue.try_iter()).collect();
                let newest = entries.iter().rev().find_map(|(promise, _)| *promise);
                // What was written down before stands.
                let written = if newest.is_none() && path.exists() {
                    Ok(())
                } else {
                    record(&path, newest)
                };
                for (_, done) in entries {
                    let same = |error: &std::io::Error| {
                        std::io::Error::new(error.kind(), error.to_string())
                    };
                    let _ = done.send(written.as_ref().copied().map_err(same));
                }
            }
        });
        Self(entries)
    }

    /// `None` begins the record, if there is none. Waits until the promise is written, and at most for `within`. After that it may still be.
    pub(crate) fn record(
        &self,
        promise: Option<Promise>,
        within: Duration,
    ) -> impl Future<Output = std::io::Result<()>> + use<> {
        let (done, written) = oneshot::channel();
        let _ = self.0.send((promise, done));
        async move {
            let written = tokio::time::timeout(within, written).await;
            let written = written.map_err(|_| std::io::ErrorKind::TimedOut)?;
            written.map_err(|_| std::io::ErrorKind::BrokenPipe)?
        }
    }
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

    #[tokio::test]
    async fn a_record_that_is_begun_leaves_a_promise_that_was_given_before_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.promise");
        let recorder = Recorder::new(path.clone());
        let within = Duration::from_secs(60);
        let promise = Promise {
            lease: LeaseId(7),
            until: Moment(5),
            round: 2,
        };
        let first = recorder.record(Some(promise), within);
        recorder.record(None, within).await.unwrap();
        first.await.unwrap();
        assert_eq!(recall(&path), PreviousIncarnation::Known(Some(promise)));
    }

    #[tokio::test]
    async fn of_promises_that_wait_for_the_disk_the_last_is_written_and_all_are_answered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.promise");
        let recorder = Recorder::new(path.clone());
        let promise = |round| Promise {
            lease: LeaseId(7),
            until: Moment(5),
            round,
        };
        let within = Duration::from_secs(60);
        let records: Vec<_> = (0..1_000)
            .map(|round| recorder.record(Some(promise(round)), within))
            .collect();
        for record in records {
            record.await.unwrap();
        }
        let last = PreviousIncarnation::Known(Some(promise(999)));
        assert_eq!(recall(&path), last);
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
