//! Random text: every character that some grammar gives a meaning to, and any other but NUL.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// What a parser could take for the end of a value, an escape, a comment or a name of its own.
const PIECES: &[&str] = &[
    "'",
    "\"",
    "\\",
    "''",
    "\"\"",
    "\\\\",
    "\\'",
    "\\\"",
    "\\n",
    "\\x41",
    "\\101",
    "#",
    "=",
    "$",
    "$$",
    "$1",
    "%",
    "%%",
    "%25",
    ":",
    "::",
    ";",
    "--",
    "/*",
    "*/",
    "/",
    "@",
    "+",
    "*",
    ",",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "~",
    "`",
    "|",
    "&",
    "!",
    "?",
    " ",
    "  ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\\\n",
    "\u{b}",
    "\u{c}",
    "\u{1b}",
    "\u{7f}",
    "\u{85}",
    "\u{a0}",
    "\u{2028}",
    "\u{feff}",
    "é",
    "e\u{301}",
    "ß",
    "ﬁ",
    "Ⅷ",
    "日本",
    "🐘",
    "\u{ad}",
    "\u{200b}",
    "\u{202e}",
    "all",
    "user",
    "replication",
    "include",
    "E'",
    "U&'",
    "md5",
    "SCRAM-SHA-256$",
    "host=",
    " host=x",
    "0",
    "1",
];

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => select(PIECES).prop_map(str::to_owned),
        2 => proptest::char::range(' ', '~').prop_map(String::from),
        1 => proptest::char::range('\u{1}', '\u{1f}').prop_map(String::from),
        1 => any::<char>().prop_filter("NUL", |c| *c != '\0').prop_map(String::from),
    ]
}

/// Text of any kind, sometimes empty.
pub(crate) fn text() -> impl Strategy<Value = String> {
    proptest::collection::vec(piece(), 0..12).prop_map(|pieces| pieces.concat())
}

/// Text that `fits`; what does not fit is refused where it enters.
pub(crate) fn fitting(fits: impl Fn(&str) -> bool) -> impl Strategy<Value = String> {
    text().prop_filter("does not fit", move |text| fits(text))
}

/// A name that PostgreSQL keeps: not empty, and not longer than 63 bytes.
pub(crate) fn name() -> impl Strategy<Value = String> {
    fitting(|text| !text.is_empty() && text.len() <= 63)
}

/// So many values for this run's seed.
pub(crate) fn many<T>(count: usize, of: impl Strategy<Value = T>) -> Vec<T> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed().to_le_bytes());
    let config = Config {
        max_local_rejects: 10_000_000,
        ..Config::default()
    };
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, random);
    (0..count)
        .map(|_| of.new_tree(&mut runner).unwrap().current())
        .collect()
}

fn seed() -> u64 {
    std::env::var("MRG_SEED").map_or(1, |text| text.parse().expect("MRG_SEED is a number"))
}

/// Fails with the shortest of the cases that went wrong.
pub(crate) fn report(mut wrong: Vec<String>) {
    wrong.sort_by_key(String::len);
    if let Some(shortest) = wrong.first() {
        panic!(
            "MRG_SEED={}: {} cases, among them: {shortest}",
            seed(),
            wrong.len()
        );
    }
}
