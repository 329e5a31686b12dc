//! What is generated is as generated: the definitions in crds/ and in the chart, and their reference pages. `just generate` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

use std::path::Path;

fn holds(path: &Path, text: &str) {
    if std::env::var_os("MRG_GENERATE").is_some() {
        std::fs::write(path, text).unwrap();
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(there == text, "{} is not what the code says; run `just generate`", path.display());
}

#[test]
fn the_definitions_in_the_tree_are_those_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, text) in mrg_operator::api::definition_files().unwrap() {
        for folder in ["crds", "charts/mrg-operator/files/crds"] {
            holds(&root.join(folder).join(&name), &text);
        }
    }
}

#[test]
fn the_reference_pages_are_those_of_the_code() {
    for (name, text) in mrg_operator::api::reference_pages() {
        holds(&Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference").join(name), &text);
    }
}
