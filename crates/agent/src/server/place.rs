//! Puts a complete new directory in the place of the one that is there, and keeps what it replaced
//! until the new one has proved good.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use mrg_postgres::OWN_ENTRY;

/// The entry that makes a directory a database cluster: it leaves first and comes last.
const GLOBAL: &str = "global";

/// A directory that is replaced as a whole: that of the data, or a tablespace's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Renamed as a whole: if there was one, there is one at every moment.
    Directory,
    /// It stays, since a mount point cannot be renamed, and its entries are moved.
    MountPoint,
    /// It stays where the link says, and what the copy has is moved: the location may hold another
    /// version's, or another server's.
    Tablespace,
}

impl Place {
    /// A data directory. A symbolic link stays one; what it points to is replaced.
    pub(super) fn of_data(path: &Path) -> Self {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let kind = if is_mount_point(&path) {
            Kind::MountPoint
        } else {
            Kind::Directory
        };
        Self { path, kind }
    }

    /// The location of a tablespace.
    pub(super) fn of_tablespace(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            kind: Kind::Tablespace,
        }
    }

    /// Whether its entries are moved one by one.
    pub(super) fn is_fixed(&self) -> bool {
        self.kind != Kind::Directory
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the new one is made: on the same volume.
    pub(super) fn fresh(&self) -> PathBuf {
        self.with("new")
    }

    /// Where what was replaced is kept.
    pub(super) fn replaced(&self) -> PathBuf {
        self.with("replaced")
    }

    /// A file of the agent's own on the same volume.
    pub(super) fn alive(&self) -> PathBuf {
        self.with("alive")
    }

    fn with(&self, what: &str) -> PathBuf {
        match self.kind {
            Kind::Directory => {
                let mut name = self.path.file_name().unwrap_or_default().to_os_string();
                name.push(format!(".{what}"));
                self.path.with_file_name(name)
            }
            Kind::MountPoint | Kind::Tablespace => self.path.join(format!("{OWN_ENTRY}{what}")),
        }
    }

    /// Puts the new one in this place. What was here is kept, unless something is kept already: that
    /// is older, and what is here never proved good.
    pub(super) fn install(&self) -> io::Result<()> {
        match self.kind {
            Kind::Directory => self.exchange(),
            Kind::MountPoint | Kind::Tablespace => self.move_entries(),
        }
    }

    fn exchange(&self) -> io::Result<()> {
        let fresh = self.fresh();
        if !self.path.exists() {
            return std::fs::rename(fresh, &self.path);
        }
        let flags = RenameFlags::RENAME_EXCHANGE;
        renameat2(AT_FDCWD, &fresh, AT_FDCWD, &self.path, flags)?;
        if self.replaced().exists() {
            std::fs::remove_dir_all(fresh)
        } else {
            std::fs::rename(fresh, self.replaced())
        }
    }

    fn move_entries(&self) -> io::Result<()> {
        let (fresh, replaced) = (self.fresh(), self.replaced());
        if replaced.exists() {
            self.remove_entries()?;
        } else {
            std::fs::create_dir(&replaced)?;
            for name in self.displaced()? {
                std::fs::rename(self.path.join(&name), replaced.join(&name))?;
            }
        }
        for name in entries(&fresh)? {
            std::fs::rename(fresh.join(&name), self.path.join(&name))?;
        }
        std::fs::File::open(&self.path)?.sync_all()?;
        std::fs::remove_dir(fresh)
    }

    /// What gives way to the new one, in this order.
    fn displaced(&self) -> io::Result<Vec<OsString>> {
        let mut names = entries(&self.path)?;
        if self.kind == Kind::Tablespace {
            let coming = entries(&self.fresh())?;
            names.retain(|name| coming.contains(name));
        }
        names.reverse();
        Ok(names)
    }

    /// Removes what is here; a directory that cannot be renamed stays, empty.
    pub(super) fn remove(&self) -> io::Result<()> {
        match self.kind {
            Kind::Directory => remove_directory_if_there(&self.path),
            Kind::MountPoint | Kind::Tablespace => self.remove_entries(),
        }
    }

    fn remove_entries(&self) -> io::Result<()> {
        for name in self.displaced()? {
            let path = self.path.join(name);
            if path.symlink_metadata()?.is_dir() {
                std::fs::remove_dir_all(path)?;
            } else {
                std::fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Removes what a copy that was not finished left.
    pub(super) fn discard_fresh(&self) -> io::Result<()> {
        remove_directory_if_there(&self.fresh())
    }

    /// Removes what was replaced.
    pub(super) fn discard_replaced(&self) -> io::Result<()> {
        remove_directory_if_there(&self.replaced())
    }
}

/// What is in a directory, in an order that ends with what makes it a database cluster; without
/// what is not PostgreSQL's.
fn entries(directory: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let own = name.as_bytes().starts_with(OWN_ENTRY.as_bytes());
        if !own && name != OsStr::new("lost+found") {
            names.push(name);
        }
    }
    names.sort_by_key(|name| name == OsStr::new(GLOBAL));
    Ok(names)
}

fn remove_directory_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether something is mounted on a directory, also another one of the same file system.
fn is_mount_point(path: &Path) -> bool {
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    is_mounted_on(path, &mounts)
}

/// Reads `mountinfo` (proc(5)): the fifth field of a line is the mount point, with blanks,
/// backslashes and line ends as octal numbers.
fn is_mounted_on(path: &Path, mounts: &[u8]) -> bool {
    mounts
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .any(|field| OsString::from_vec(unescaped(field)) == path.as_os_str())
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = after.first_chunk::<3>().filter(|_| *first == b'\\');
        let code = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = code.map_or(after, |_| after.get(3..).unwrap_or_default());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(path: &Path, file: &str) -> String {
        std::fs::read_to_string(path.join(file)).unwrap_or_default()
    }

    fn fill(path: &Path, text: &str) {
        for directory in ["global", "base"] {
            std::fs::create_dir_all(path.join(directory)).unwrap();
        }
        std::fs::write(path.join("global/pg_control"), text).unwrap();
        std::fs::write(path.join("PG_VERSION"), text).unwrap();
    }

    fn places(root: &Path) -> [Place; 2] {
        let path = root.join("data");
        [Kind::Directory, Kind::MountPoint].map(|kind| Place {
            path: path.clone(),
            kind,
        })
    }

    #[test]
    fn what_was_there_is_kept_until_the_new_one_has_proved_good() {
        for number in 0..2 {
            let root = tempfile::tempdir().unwrap();
            let place = &places(root.path())[number];
            fill(&place.path, "first");
            for (copy, kept) in [("second", "first"), ("third", "first")] {
                fill(&place.fresh(), copy);
                place.install().unwrap();
                assert_eq!(holds(&place.path, "global/pg_control"), copy);
                assert_eq!(holds(&place.replaced(), "PG_VERSION"), kept);
                assert!(!place.fresh().exists());
            }
            place.discard_replaced().unwrap();
            assert!(!place.replaced().exists());
            fill(&place.fresh(), "fourth");
            place.install().unwrap();
            assert_eq!(holds(&place.replaced(), "global/pg_control"), "third");
        }
    }

    #[test]
    fn a_copy_takes_an_empty_place_and_an_absent_one() {
        let root = tempfile::tempdir().unwrap();
        let [directory, _] = places(root.path());
        fill(&directory.fresh(), "first");
        directory.install().unwrap();
        assert_eq!(holds(&directory.path, "PG_VERSION"), "first");
        assert!(!directory.replaced().exists());

        let root = tempfile::tempdir().unwrap();
        let [_, mounted] = places(root.path());
        std::fs::create_dir_all(mounted.path.join("lost+found")).unwrap();
        fill(&mounted.fresh(), "first");
        mounted.install().unwrap();
        assert_eq!(holds(&mounted.path, "PG_VERSION"), "first");
        assert!(mounted.path.join("lost+found").exists());
        mounted.remove().unwrap();
        assert!(!mounted.path.join("PG_VERSION").exists());
        assert!(mounted.path.join("lost+found").exists());
    }

    #[test]
    fn of_a_tablespace_only_what_the_copy_has_gives_way() {
        let root = tempfile::tempdir().unwrap();
        let place = Place::of_tablespace(root.path());
        let file = |directory: &str| root.path().join(directory).join("1");
        for (directory, text) in [
            ("PG_16_1", "another server's"),
            ("PG_17_2", "old"),
            (".mrg-new/PG_17_2", "new"),
        ] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
            std::fs::write(file(directory), text).unwrap();
        }
        place.install().unwrap();
        for (directory, text) in [
            ("PG_16_1", "another server's"),
            ("PG_17_2", "new"),
            (".mrg-replaced/PG_17_2", "old"),
        ] {
            assert_eq!(std::fs::read_to_string(file(directory)).unwrap(), text);
        }
    }

    #[test]
    fn what_makes_a_database_cluster_leaves_first_and_comes_last() {
        let root = tempfile::tempdir().unwrap();
        fill(root.path(), "x");
        std::fs::create_dir(root.path().join(".mrg-new")).unwrap();
        let names = entries(root.path()).unwrap();
        assert_eq!(names.len(), 3);
        assert_eq!(names.last().unwrap(), "global");
    }

    #[test]
    fn a_link_stays_and_what_it_points_to_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let disk = root.path().join("disk");
        fill(&disk, "first");
        let link = root.path().join("data");
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        let place = Place::of_data(&link);
        fill(&place.fresh(), "second");
        place.install().unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(holds(&link, "PG_VERSION"), "second");
        assert_eq!(holds(&place.replaced(), "PG_VERSION"), "first");
    }

    #[test]
    fn a_mount_point_is_found_by_its_whole_name() {
        let mounts = b"36 35 98:0 / /var/lib/pg\\040data rw,noatime shared:1 - ext4 /dev/sda rw\n\
                       37 35 98:0 / /srv\\134x rw - ext4 /dev/sda rw\n";
        for (path, mounted) in [
            ("/var/lib/pg data", true),
            ("/srv\\x", true),
            ("/var/lib", false),
            ("/var/lib/pg data/base", false),
        ] {
            assert_eq!(is_mounted_on(Path::new(path), mounts), mounted, "{path}");
        }
        assert!(is_mount_point(Path::new("/proc")));
    }
}
