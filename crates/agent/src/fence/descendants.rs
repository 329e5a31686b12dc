//! Kills everything that descends from this process. Backends call `setsid()`, so a process group
//! is not enough.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

use mrg_base::{Millis, Moment};

/// Between two looks at a process that was killed: waiting for it would not end if it cannot die.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// A process that was killed may take this long to die before it is asked whether it can.
const DYING_TAKES: Millis = Millis(500);

/// Every living descendant of `root`, read from `/proc`.
fn descendants(root: Pid) -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        if let Some((state, parent)) = state_and_parent(&stat)
            && state != 'Z'
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut open = vec![root.as_raw()];
    while let Some(pid) = open.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                open.push(*child);
            }
        }
    }
    found
}

/// State and parent from a line of `/proc/PID/stat`; the command in it may hold blanks and
/// brackets.
fn state_and_parent(stat: &str) -> Option<(char, i32)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_past_return(pid: i32) -> bool {
    u32::try_from(pid).is_ok_and(mrg_postgres::is_past_return)
}

/// What became of a process that was killed.
enum End {
    Reaped(WaitStatus),
    /// Another process is its parent, or it is gone.
    NotOurs,
    /// It cannot die, and never runs again.
    PastReturn,
}

/// Waits for the end of a process. Until the moment `dying_until` it may be on its way; what sleeps
/// uninterruptibly then is not waited for.
fn wait_for(pid: i32, dying_until: Moment) -> End {
    let is_past_return = || mrg_clock::now() >= dying_until && is_past_return(pid);
    loop {
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) if is_past_return() => {
                return End::PastReturn;
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => std::thread::sleep(POLL_INTERVAL),
            Ok(status) => return End::Reaped(status),
            Err(_) if is_past_return() => return End::PastReturn,
            Err(_) => return End::NotOurs,
        }
    }
}

/// Kills every descendant but those in `spare` and theirs, and returns when they are gone. `reaped` is
/// called with every child that ended. Blocks. Orphans become children of this process only if it is
/// a subreaper or PID 1.
///
/// # Guarantees
/// None of them runs again. Those that are given back are still there: killed, in a sleep that no
/// signal ends, as over a write to a disk that hangs. `known` are those that were given back before.
pub(crate) fn kill_descendants(
    spare: &BTreeSet<i32>,
    known: &BTreeSet<i32>,
    mut reaped: impl FnMut(WaitStatus),
) -> BTreeSet<i32> {
    let dying_until = mrg_clock::now() + DYING_TAKES;
    let mut past_return = known.clone();
    past_return.retain(|pid| is_past_return(*pid));
    loop {
        let mut doomed = descendants(getpid());
        for pid in spare {
            doomed.remove(pid);
            for pid in descendants(Pid::from_raw(*pid)) {
                doomed.remove(&pid);
            }
        }
        doomed.retain(|pid| !past_return.contains(pid));
        for pid in &doomed {
            // Gone already is as good as killed.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        // A grandchild becomes our child when its parent is gone, so a round ends with the end of a
        // child.
        for pid in &doomed {
            match wait_for(*pid, dying_until) {
                End::Reaped(status) => reaped(status),
                End::PastReturn => drop(past_return.insert(*pid)),
                End::NotOurs => {}
            }
        }
        let none_left = loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => break doomed.is_empty(),
                Ok(status) => reaped(status),
                Err(Errno::EINTR) => {}
                Err(_) => break true,
            }
        };
        if none_left {
            return past_return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_brackets_does_not_hide_its_parent() {
        assert_eq!(
            state_and_parent("42 (postgres: a) (b) S 7 42 42 0"),
            Some(('S', 7))
        );
        assert_eq!(state_and_parent("42 nonsense"), None);
    }
}
