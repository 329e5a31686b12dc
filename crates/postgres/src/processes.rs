//! PostgreSQL's processes on this machine, found by the directory that they run in.
//!
//! A postmaster changes into its data directory, and its children stay there: a process whose
//! program is `postgres` and whose working directory is the data directory belongs to a server of
//! that data, whichever process started it and whatever `postmaster.pid` says. Processes of another pod are
//! not visible; a volume that two pods share is not protected by this.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::path::Path;

/// Whether a process will never run again, although it is still there: it was killed, and waits in
/// the kernel for what may not come, as a write to a disk that hangs.
pub fn is_past_return(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| is_killed_in_sleep(&status))
}

/// State `D`, uninterruptible, with SIGKILL pending: such a process returns from the kernel only to
/// die.
fn is_killed_in_sleep(status: &str) -> bool {
    const SIGKILL: u64 = 1 << 8;
    let field = |name: &str| {
        let mut lines = status.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.trim()))
    };
    let pending = |name| {
        let mask = field(name).and_then(|mask| u64::from_str_radix(mask, 16).ok());
        mask.is_some_and(|mask| mask & SIGKILL != 0)
    };
    field("State:").is_some_and(|state| state.starts_with('D'))
        && (pending("SigPnd:") || pending("ShdPnd:"))
}

/// A process of a server that runs on the data directory; its postmaster where that can be told.
/// One that was killed and only waits to die is none.
pub fn server_in(data_directory: &Path) -> Option<u32> {
    let directory = std::fs::canonicalize(data_directory).ok()?;
    let postmaster = postmaster_in_file(&directory);
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut found = None;
    for process in processes {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let runs_there = is_postgres(&process.path())
            && match std::fs::read_link(process.path().join("cwd")) {
                Ok(cwd) => cwd == directory,
                // Another user's process does not show where it runs.
                Err(error) => {
                    error.kind() == std::io::ErrorKind::PermissionDenied && postmaster == Some(pid)
                }
            };
        let runs_there = runs_there && !is_past_return(pid);
        if runs_there && (found.is_none() || postmaster == Some(pid)) {
            found = Some(pid);
        }
    }
    found
}

/// The process id in the first line of `postmaster.pid`; PostgreSQL writes it negative for a
/// standalone backend.
fn postmaster_in_file(data_directory: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(data_directory.join("postmaster.pid")).ok()?;
    let pid: i64 = text.lines().next()?.trim().parse().ok()?;
    u32::try_from(pid.unsigned_abs()).ok()
}

/// By the program's name, which a changed process title leaves alone.
fn is_postgres(process: &Path) -> bool {
    std::fs::read_to_string(process.join("comm"))
        .is_ok_and(|name| matches!(name.trim_end(), "postgres" | "postmaster"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    #[test]
    fn only_a_killed_process_in_uninterruptible_sleep_is_past_return() {
        let status = |state: &str, own: &str, shared: &str| {
            format!(
                "Name:\tpostgres\nState:\t{state}\nPid:\t7\nSigPnd:\t{own}\nShdPnd:\t{shared}\nSigBlk:\t0000000000000100\n"
            )
        };
        let (none, kill, term) = ("0000000000000000", "0000000000000100", "0000000000004000");
        for (state, own, shared, expected) in [
            ("D (disk sleep)", kill, none, true),
            ("D (disk sleep)", none, kill, true),
            ("D (disk sleep)", none, none, false),
            ("D (disk sleep)", term, term, false),
            ("S (sleeping)", kill, kill, false),
            ("R (running)", kill, none, false),
        ] {
            let text = status(state, own, shared);
            assert_eq!(is_killed_in_sleep(&text), expected, "{text}");
        }
        assert!(!is_past_return(std::process::id()));
    }

    /// A program of the given name that waits in a directory.
    fn program(name: &str, directory: &Path) -> Child {
        let path = directory.join(name);
        std::fs::copy("/bin/sleep", &path).unwrap();
        let child = Command::new(&path).arg("60").current_dir(directory).spawn();
        std::fs::remove_file(&path).unwrap();
        let child = child.unwrap();
        // The new program runs a moment before it bears its name.
        let comm = format!("/proc/{}/comm", child.id());
        while std::fs::read_to_string(&comm).unwrap().trim_end() != name {
            std::thread::yield_now();
        }
        child
    }

    #[test]
    fn a_server_is_found_by_where_it_runs_and_not_by_the_number_in_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let lock = directory.path().join("postmaster.pid");
        std::fs::write(&lock, format!("{}\n", std::process::id())).unwrap();
        let mut others = [
            program("sleeper", directory.path()),
            program("postgres", elsewhere.path()),
        ];
        assert_eq!(
            server_in(directory.path()),
            None,
            "a number that was reused"
        );
        let mut server = program("postgres", directory.path());
        assert_eq!(server_in(directory.path()), Some(server.id()));
        server.kill().unwrap();
        server.wait().unwrap();
        assert_eq!(server_in(directory.path()), None);
        assert_eq!(server_in(Path::new("/nonexistent")), None);
        for other in &mut others {
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }
}
