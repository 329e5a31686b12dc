//! What is generated is as generated: the definitions in crds/ and in the chart. `just generate` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

use std::path::Path;

#[test]
fn the_definitions_in_the_tree_are_those_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let write = std::env::var_os("MRG_GENERATE").is_some();
    for (name, text) in mrg_operator::api::definition_files().unwrap() {
        for folder in ["crds", "charts/mrg-operator/files/crds"] {
            let path = root.join(folder).join(&name);
            if write {
                std::fs::write(&path, &text).unwrap();
            }
            let there = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(there == text, "{} is not what the code says; run `just generate`", path.display());
        }
    }
}
