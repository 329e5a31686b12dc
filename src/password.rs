//! Passwords that the operator generates.

use rand::Rng;
use rand::distr::Alphanumeric;

/// 32 letters and digits by the system's randomness: 190 bits, and nothing to quote in a URL.
pub(crate) fn generate() -> String {
    let characters = rand::rng().sample_iter(Alphanumeric).take(32);
    characters.map(char::from).collect()
}
