//! Checksums that other processes compare, today and after an upgrade.

use mrg_base::hex;
use sha2::{Digest, Sha256};

/// The first `bytes` bytes of the text's SHA-256, in hexadecimal digits.
pub(crate) fn checksum(text: &str, bytes: usize) -> String {
    let mut digits = hex(&Sha256::digest(text.as_bytes()));
    digits.truncate(2 * bytes);
    digits
}

#[cfg(test)]
mod tests {
    use super::checksum;

    #[test]
    fn a_checksum_is_the_beginning_of_sha_256() {
        assert_eq!(checksum("abc", 5), "ba7816bf8f");
    }
}
