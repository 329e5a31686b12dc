//! What is generated is as generated: the definitions in crds/ and in the chart, and their
//! reference pages. `just generate` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

use std::fmt::Write as _;
use std::path::Path;

use mrg_agent::{PatroniPlace, Support};
use mrg_election::{Part, RULES};

fn holds(path: &Path, text: &str) {
    if std::env::var_os("MRG_GENERATE").is_some() {
        std::fs::write(path, text).unwrap();
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        there == text,
        "{} is not what the code says; run `just generate`",
        path.display()
    );
}

#[test]
fn the_definitions_in_the_tree_are_those_of_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, text) in mrg_api::definition_files().unwrap() {
        for folder in ["crds", "charts/mrg-operator/files/crds"] {
            holds(&root.join(folder).join(&name), &text);
        }
    }
}

#[test]
fn the_reference_pages_are_those_of_the_code() {
    for (name, text) in mrg_api::reference_pages() {
        holds(
            &Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("docs/reference")
                .join(name),
            &text,
        );
    }
}

/// The rules as a diagram and a table.
fn rules() -> String {
    let parts = [
        (Part::Always, "always"),
        (Part::Leading, "the leader key is ours"),
        (Part::Following, "another member leads"),
        (Part::Leaderless, "no member leads"),
    ];
    let mut text = String::from("```mermaid\nflowchart LR\n");
    for (number, (part, title)) in parts.iter().enumerate() {
        writeln!(text, "  subgraph p{number}[\"{title}\"]\n    direction TB").unwrap();
        let names: Vec<String> = RULES
            .iter()
            .enumerate()
            .filter(|(_, rule)| rule.part == *part)
            .map(|(index, rule)| format!("r{index}[{}]", rule.reason.label()))
            .collect();
        writeln!(text, "    {}\n  end", names.join(" --> ")).unwrap();
    }
    text.push_str(
        "  p0 -->|ours| p1\n  p0 -->|another's| p2\n  p0 -->|gone| p3\n```\n\n| | when | reason | what the log says |\n|---|---|---|---|\n",
    );
    for (number, rule) in RULES.iter().enumerate() {
        let title = parts.iter().find(|(part, _)| *part == rule.part).unwrap().1;
        writeln!(
            text,
            "| {} | {title} | `{}` | {} |",
            number + 1,
            rule.reason.label(),
            rule.reason.sentence()
        )
        .unwrap();
    }
    text
}

fn quoted(values: &[&str]) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
    values.join(", ")
}

/// The three lists of Patroni's settings.
fn settings() -> String {
    let (mut done, mut harmless, mut refused) = (String::new(), String::new(), String::new());
    let file = PatroniPlace::File.keys().map(|key| ("", key));
    let dynamic = PatroniPlace::Dynamic.keys();
    for (place, key) in file.chain(dynamic.map(|key| ("bootstrap.dcs.", key))) {
        let path = format!("`{place}{}`", key.path);
        match key.support {
            Support::Done(note) => writeln!(done, "| {path} | {note} |"),
            Support::Harmless { instead, unless } => {
                let unless = quoted(unless);
                writeln!(harmless, "| {path} | {unless} | {instead} |")
            }
            Support::Refused(refusal) => {
                let (why, instead) = (refusal.why, refusal.instead);
                let unless = quoted(refusal.unless);
                writeln!(refused, "| {path} | {unless} | {why} | {instead} |")
            }
        }
        .unwrap();
    }
    format!(
        "### Supported\n\n| setting | |\n|---|---|\n{done}\n### Ignored\n\n| setting | but for | instead |\n|---|---|---|\n{harmless}\n### Refused\n\n| setting | but for | why | what to do |\n|---|---|---|---|\n{refused}\n"
    )
}

/// What stands between the marks of this name in a document is what the code says.
fn holds_between(document: &str, what: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let old = std::fs::read_to_string(&path).unwrap();
    let begin = format!("<!-- {what}: generated -->\n");
    let end = format!("<!-- end of the {what} -->");
    let (before, rest) = old.split_once(&begin).expect("a mark before it");
    let (_, after) = rest.split_once(&end).expect("a mark after it");
    holds(&path, &format!("{before}{begin}{text}{end}{after}"));
}

#[test]
fn the_rules_in_the_document_are_those_of_the_code() {
    holds_between("docs/ha.md", "rules", &rules());
}

#[test]
fn the_settings_in_the_document_are_those_of_the_code() {
    holds_between("docs/patroni.md", "settings", &settings());
}
