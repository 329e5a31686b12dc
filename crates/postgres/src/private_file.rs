//! Files that only their owner may read.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Mutex;

use mrg_base::lock;

/// Held while a file is written: two that write the same one would tear it.
static WRITING: Mutex<()> = Mutex::new(());

/// Replaces a file whole, readable by its owner only. On return the content survives a crash of the
/// machine, where the file system does.
///
/// # Errors
/// If the file cannot be written, or another user has put something in the way.
pub fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let _writing = lock(&WRITING);
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".mrg-tmp");
    let temporary = Path::new(&temporary);
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A new file: one that is there may be another user's, or a link to somewhere else.
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_private_file_is_replaced_whole_and_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        std::fs::write(&path, "open to all").unwrap();
        let elsewhere = directory.path().join("elsewhere");
        std::fs::write(&elsewhere, "untouched").unwrap();
        symlink(&elsewhere, directory.path().join("pgpass.mrg-tmp")).unwrap();
        write_private(&path, "secret").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "secret");
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "untouched");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
