//! Who may depend on whom: the tables of docs/architecture.md, checked against the manifest of
//! every crate.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Table = BTreeMap<String, BTreeSet<String>>;

/// Crates that have serde alone from outside, so that nothing in them can reach a clock, a socket
/// or a file.
const PURE: [&str; 7] = [
    "base",
    "breaker",
    "election",
    "election-sim",
    "platform-catalog",
    "policy",
    "pool-core",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of each crate, by its name without `mrg-`.
fn crates() -> BTreeMap<String, PathBuf> {
    let folders = std::fs::read_dir(root().join("crates")).unwrap().flatten();
    let of = |path: PathBuf| {
        (
            path.file_name().unwrap().to_string_lossy().into_owned(),
            path,
        )
    };
    folders
        .map(|entry| of(entry.path()))
        .chain([("operator".to_owned(), root().to_owned())])
        .collect()
}

/// What the programs link: the names under `[dependencies]`.
fn dependencies(folder: &Path) -> BTreeSet<String> {
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let section = manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['));
    let name = |line: &str| {
        line.split(['.', ' ', '='])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    section
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(name)
        .collect()
}

/// The rows of the document's table whose second column has this heading.
fn table(heading: &str) -> Table {
    let text = std::fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let names = |cell: &str| {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect::<BTreeSet<_>>()
    };
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix('|')?.split('|').collect();
        Some((
            names(cells.first()?).into_iter().next()?,
            names(cells.get(1)?),
        ))
    };
    let rows = text
        .lines()
        .skip_while(|line| !line.contains(heading))
        .take_while(|line| line.starts_with('|'));
    let table: Table = rows.filter_map(row).collect();
    assert!(
        table.len() >= 10,
        "docs/architecture.md has no table `{heading}`"
    );
    table
}

#[test]
fn crates_depend_only_on_what_the_table_of_the_architecture_allows() {
    let table = table("| may depend on |");
    for (name, folder) in crates() {
        let allowed = table
            .get(&name)
            .unwrap_or_else(|| panic!("crates/{name} is not in the table of docs/architecture.md"));
        let used = dependencies(&folder)
            .iter()
            .filter_map(|dependency| dependency.strip_prefix("mrg-").map(str::to_owned))
            .collect();
        assert_eq!(
            allowed, &used,
            "left: what docs/architecture.md says of `{name}`; right: what its Cargo.toml says"
        );
    }
}

#[test]
fn external_crates_that_reach_a_system_are_used_only_where_the_table_allows() {
    let table = table("| used by |");
    let mut used: Table = table
        .keys()
        .map(|external| (external.clone(), BTreeSet::new()))
        .collect();
    for (name, folder) in crates() {
        for dependency in dependencies(&folder) {
            if let Some(users) = used.get_mut(&dependency) {
                users.insert(name.clone());
            }
        }
    }
    assert_eq!(
        table, used,
        "left: docs/architecture.md; right: the manifests"
    );
}

#[test]
fn pure_crates_have_serde_alone_from_outside() {
    let crates = crates();
    for name in PURE {
        let outside = dependencies(&crates[name])
            .into_iter()
            .filter(|dependency| !dependency.starts_with("mrg-"));
        let others: Vec<String> = outside
            .filter(|dependency| !["serde", "schemars"].contains(&dependency.as_str()))
            .collect();
        assert!(
            others.is_empty(),
            "`{name}` is pure and may not depend on {others:?}"
        );
    }
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn no_file_outgrows_its_subject() {
    let mut files = Vec::new();
    for folder in crates().values() {
        rust_files(&folder.join("src"), &mut files);
    }
    for file in files {
        let lines = std::fs::read_to_string(&file).unwrap().lines().count();
        assert!(lines <= 700, "{} has {lines} lines", file.display());
    }
}
