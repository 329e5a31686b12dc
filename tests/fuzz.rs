//! The checks of `fuzz/`, with their seeds and some thousand changes to each: so that they are
//! never out of date.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends with the first surprise"
)]

use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

#[path = "../fuzz/checks.rs"]
mod checks;

/// Bytes that somebody has tampered with.
fn changed(seed: &[u8], other: &[u8], chance: &mut SmallRng) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..chance.random_range(1..6) {
        let at = chance.random_range(0..=bytes.len());
        let to = chance.random_range(at..=bytes.len());
        match chance.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..to)),
            2 => bytes
                .splice(
                    at..at,
                    other[chance.random_range(0..=other.len())..]
                        .iter()
                        .copied(),
                )
                .for_each(drop),
            3 => bytes.splice(at..at, bytes[at..to].to_vec()).for_each(drop),
            4 => bytes
                .splice(at..at, b"99999999999999999999".iter().copied())
                .for_each(drop),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = chance.random();
                }
            }
        }
        bytes.truncate(1 << 16);
    }
    bytes
}

/// Bytes of no sense at all, and JSON that is deep or long.
fn senseless(chance: &mut SmallRng) -> Vec<u8> {
    let length = chance.random_range(0..1 << 12);
    match chance.random_range(0..5) {
        0 => (0..length).map(|_| chance.random()).collect(),
        1 => vec![b'['; length],
        2 => br#"{"a":"#.repeat(length),
        3 => {
            let fields = (0..length).map(|field| format!(r#""{field}":{field}"#));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(",")).into_bytes()
        }
        _ => format!(r#"{{"{}":1}}"#, "é".repeat(length)).into_bytes(),
    }
}

#[test]
fn nothing_that_comes_from_outside_brings_a_program_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    for (name, check) in checks::ALL {
        let seeds: Vec<Vec<u8>> = std::fs::read_dir(root.join(name))
            .unwrap()
            .map(|file| std::fs::read(file.unwrap().path()).unwrap())
            .collect();
        assert!(!seeds.is_empty(), "{name} has no seeds");
        let mut chance = SmallRng::seed_from_u64(1);
        for _ in 0..200 {
            check(&senseless(&mut chance));
        }
        for seed in &seeds {
            check(seed);
            for _ in 0..4_000 {
                let other = &seeds[chance.random_range(0..seeds.len())];
                check(&changed(seed, other, &mut chance));
            }
        }
    }
}
