//! Whether the volume of the data takes writes, asked before anything that writes there: the agent
//! has one thread, and a write to a disk that hangs does not return.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::server::Error;

const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// The volume, by a file on it that holds nothing of interest.
pub(super) struct Disk {
    file: PathBuf,
    /// A write that was begun has not returned. One thread that hangs is enough.
    hangs: Arc<AtomicBool>,
}

impl Disk {
    pub(super) fn new(file: PathBuf) -> Self {
        Self {
            file,
            hangs: Arc::default(),
        }
    }

    /// Fails if a write is not done in time. One that fails is an answer: what comes after will say
    /// more about it.
    pub(super) async fn answers(&self) -> Result<(), Error> {
        if self.hangs.swap(true, Ordering::AcqRel) {
            return Err(Error::DiskHangs);
        }
        let (file, hangs) = (self.file.clone(), self.hangs.clone());
        let write = tokio::task::spawn_blocking(move || {
            let written = std::fs::File::create(file).and_then(|mut file| {
                file.write_all(b"1")?;
                file.sync_all()
            });
            hangs.store(false, Ordering::Release);
            written
        });
        match tokio::time::timeout(ANSWER_WITHIN, write).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::DiskHangs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_takes_writes_answers_again_and_again_and_one_that_fails_does_too() {
        let directory = tempfile::tempdir().unwrap();
        for path in ["data.alive", "absent/data.alive"] {
            let disk = Disk::new(directory.path().join(path));
            for _ in 0..2 {
                disk.answers().await.unwrap();
            }
        }
        assert!(directory.path().join("data.alive").exists());
    }

    #[tokio::test]
    async fn a_write_that_does_not_return_is_not_waited_for_twice() {
        let disk = Disk::new(PathBuf::from("/nonexistent/data.alive"));
        disk.hangs.store(true, Ordering::Release);
        assert!(matches!(disk.answers().await, Err(Error::DiskHangs)));
    }
}
