//! PostgreSQL's processes on this machine, found by the directory that they run in.
//!
//! A postmaster changes into its data directory, and its children stay there: a process whose
//! program is `postgres` and whose working directory is the data directory belongs to a server of
//! that data, whoever started it and whatever `postmaster.pid` says. Processes of another pod are
//! not visible; a volume that two pods share is not protected by this.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::path::Path;

/// A process of a server that runs on the data directory; its postmaster where that can be told.
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

    /// A program of the given name that waits in a directory.
    fn program(name: &str, directory: &Path) -> Child {
        let path = directory.join(name);
        std::fs::copy("/bin/sleep", &path).unwrap();
        let child = Command::new(&path).arg("60").current_dir(directory).spawn();
        std::fs::remove_file(&path).unwrap();
        child.unwrap()
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
