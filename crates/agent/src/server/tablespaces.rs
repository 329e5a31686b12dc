//! Which tablespaces' locations are this member's own, and how a copy gets into them.
//! `pg_basebackup` refuses a location that is not empty, so its copy is made inside and put in place
//! after that.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::place::Place;

/// The locations that a data directory's links name. A tablespace inside the data directory is no
/// link.
pub(super) fn linked(data: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let entries = match std::fs::read_dir(data.join("pg_tblspc")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let mut locations = BTreeSet::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_symlink() {
            locations.insert(std::fs::read_link(entry.path())?);
        }
    }
    Ok(locations)
}

/// Those of the locations that hold something; into the others `pg_basebackup` copies by itself.
pub(super) fn occupied(locations: BTreeSet<PathBuf>) -> Vec<Place> {
    let holds_something =
        |path: &PathBuf| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some());
    locations
        .into_iter()
        .filter(holds_something)
        .map(|location| Place::of_tablespace(&location))
        .collect()
}

/// The argument of `pg_basebackup` that sends a tablespace's copy inside its location. It reads
/// `\=` as an equals sign of a path.
pub(super) fn mapping(place: &Place) -> String {
    let escaped = |path: &Path| path.display().to_string().replace('=', "\\=");
    format!(
        "--tablespace-mapping={}={}",
        escaped(place.path()),
        escaped(&place.fresh())
    )
}

/// Puts the copies in place that were made, and lets the links of the new data directory name the
/// locations again.
pub(super) fn install(places: &[Place], fresh_data: &Path) -> io::Result<()> {
    for place in places.iter().filter(|place| place.fresh().exists()) {
        place.install()?;
    }
    let links = fresh_data.join("pg_tblspc");
    for entry in std::fs::read_dir(links)? {
        let link = entry?.path();
        let Ok(target) = std::fs::read_link(&link) else {
            continue;
        };
        if let Some(place) = places.iter().find(|place| place.fresh() == target) {
            std::fs::remove_file(&link)?;
            std::os::unix::fs::symlink(place.path(), &link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_with_an_equals_sign_is_mapped_as_a_whole() {
        let place = Place::of_tablespace(Path::new("/a=b"));
        assert_eq!(
            mapping(&place),
            "--tablespace-mapping=/a\\=b=/a\\=b/.mrg-new"
        );
    }

    #[test]
    fn a_copy_takes_the_location_and_the_link_names_it_again() {
        let root = tempfile::tempdir().unwrap();
        let (location, data) = (root.path().join("ts"), root.path().join("data.new"));
        for directory in ["ts/PG_17_1", "ts/.mrg-new/PG_17_1", "data.new/pg_tblspc"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        std::fs::write(location.join(".mrg-new/PG_17_1/1"), "new").unwrap();
        let link = data.join("pg_tblspc/16384");
        std::os::unix::fs::symlink(location.join(".mrg-new"), &link).unwrap();
        let places = occupied(BTreeSet::from([location.clone(), root.path().join("gone")]));
        assert_eq!(places, [Place::of_tablespace(&location)]);
        install(&places, &data).unwrap();
        assert_eq!(linked(&data).unwrap(), BTreeSet::from([location.clone()]));
        assert_eq!(
            std::fs::read_to_string(link.join("PG_17_1/1")).unwrap(),
            "new"
        );
        assert!(places[0].replaced().join("PG_17_1").exists());
    }
}
