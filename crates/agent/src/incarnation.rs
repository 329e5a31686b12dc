//! The record of this agent's lease, for the agent that comes after it: if the processes that could
//! act under the lease are dead, the leader key may be cleared without waiting for the lease to end.

use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use mrg_base::lock;
use mrg_election::LeaseId;

/// An agent, as its successor must know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Incarnation {
    pub lease: LeaseId,
    /// `/proc/sys/kernel/random/boot_id` at the time.
    pub boot: String,
    /// The processes that could still act under the lease, with their start times in clock ticks
    /// since boot.
    pub processes: Vec<(u32, u64)>,
}

/// The id of the running boot; empty if the kernel does not tell it.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// When a process started, in clock ticks since boot; `None` if there is no such process.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?
        .1
        .split_ascii_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// Held while a file is written: two that write the same one would tear it.
static WRITING: Mutex<()> = Mutex::new(());

/// Replaces a file whole. Blocks for as long as the disk does. On return the content survives a crash of the machine.
pub(crate) fn write_durably(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let _writing = lock(&WRITING);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |directory| {
        std::fs::File::open(directory)?.sync_all()
    })
}

impl Incarnation {
    /// The running processes of these ids (the agent and its fence), with a lease.
    pub(crate) fn of(lease: LeaseId, pids: &[u32]) -> Self {
        let processes = pids
            .iter()
            .filter_map(|pid| Some((*pid, start_time(*pid)?)))
            .collect();
        Self {
            lease,
            boot: boot_id(),
            processes,
        }
    }

    /// Writes the record. On return it survives a crash of the machine.
    pub(crate) fn store(&self, path: &Path) -> std::io::Result<()> {
        write_durably(path, &serde_json::to_vec(self)?)
    }

    /// The record of the incarnation before this one; `None` if there is none that can be read.
    pub(crate) fn load(path: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Whether nothing of it can act any more: an earlier container of the same pod is dead, and so
    /// is everything of an earlier boot; on a host the processes must be gone.
    pub(crate) fn is_dead(&self, in_container: bool) -> bool {
        in_container
            || self.boot != boot_id()
            || self
                .processes
                .iter()
                .all(|(pid, started)| start_time(*pid) != Some(*started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_not_taken_for_dead() {
        let alive = Incarnation::of(LeaseId(7), &[std::process::id()]);
        assert!(!alive.is_dead(false));
        assert!(alive.is_dead(true));
        let reused = Incarnation {
            processes: vec![(std::process::id(), 1)],
            ..alive.clone()
        };
        assert!(reused.is_dead(false));
        let rebooted = Incarnation {
            boot: "earlier".to_owned(),
            ..alive
        };
        assert!(rebooted.is_dead(false));
    }

    #[test]
    fn the_record_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("incarnation");
        let record = Incarnation::of(LeaseId(7), &[std::process::id()]);
        record.store(&path).unwrap();
        assert_eq!(Incarnation::load(&path), Some(record));
        std::fs::write(&path, "garbage").unwrap();
        assert_eq!(Incarnation::load(&path), None);
    }
}
