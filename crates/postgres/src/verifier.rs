//! SCRAM verifiers: what stands in SQL and in `pg_authid` in place of a password.

#![deny(clippy::indexing_slicing, clippy::panic)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use postgres_protocol::password;
use sha2::Sha256;

/// A verifier of a password, for `CREATE ROLE … PASSWORD`: statements go over the wire, and into
/// logs.
pub fn verifier(password: &str) -> String {
    password::scram_sha_256(password.as_bytes())
}

/// Whether `pg_authid.rolpassword` is a SCRAM verifier, the only kind that the agent's own lines of
/// `pg_hba.conf` admit.
pub fn is_scram(stored: &str) -> bool {
    Scram::parse(stored).is_some()
}

/// Whether the role of this name logs in with the password, by what `pg_authid.rolpassword` says.
pub fn accepts(stored: &str, user: &str, password: &str) -> bool {
    if stored.starts_with("md5") {
        return stored == password::md5(password.as_bytes(), user);
    }
    Scram::parse(stored).is_some_and(|stored| stored.accepts(password).unwrap_or(false))
}

/// `SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>`
struct Scram<'a> {
    iterations: &'a str,
    salt: &'a str,
    server_key: Vec<u8>,
}

impl<'a> Scram<'a> {
    fn parse(stored: &'a str) -> Option<Self> {
        let (parameters, keys) = stored.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (_, server_key) = keys.split_once(':')?;
        Some(Self {
            iterations,
            salt,
            server_key: BASE64.decode(server_key).ok()?,
        })
    }

    /// Plays the server (RFC 5802): a client with the right password finds the server's signature
    /// right. `None` if the verifier is not one that a client understands.
    fn accepts(&self, password: &str) -> Option<bool> {
        let mut client = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        let first = String::from_utf8(client.message().to_vec()).ok()?;
        let first = first.strip_prefix("n,,")?;
        let (_, nonce) = first.split_once("r=")?;
        let challenge = format!("r={nonce}server,s={},i={}", self.salt, self.iterations);
        client.update(challenge.as_bytes()).ok()?;
        let last = String::from_utf8(client.message().to_vec()).ok()?;
        let (last, _) = last.split_once(",p=")?;
        let mut signature = Hmac::<Sha256>::new_from_slice(&self.server_key).ok()?;
        signature.update(format!("{first},{challenge},{last}").as_bytes());
        let signature = BASE64.encode(signature.finalize().into_bytes());
        Some(client.finish(format!("v={signature}").as_bytes()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_accepts_its_password_and_no_other() {
        for right in ["secret", "it's \\ a:secret", "pässwörd", "\u{ad}soft", ""] {
            let stored = verifier(right);
            assert!(is_scram(&stored));
            assert!(accepts(&stored, "app", right), "{right}");
            assert!(!accepts(&stored, "app", "another"), "{right}");
            assert!(!stored.contains(right) || right.is_empty());
        }
    }

    #[test]
    fn what_postgresql_stores_is_understood() {
        let md5 = password::md5(b"secret", "app");
        assert!(accepts(&md5, "app", "secret") && !is_scram(&md5));
        assert!(!accepts(&md5, "other", "secret"));
        // The keys of the password `pencil`, by RFC 7677.
        let rfc = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
        assert!(accepts(rfc, "app", "pencil") && !accepts(rfc, "app", "pencils"));
    }

    #[test]
    fn nonsense_accepts_nothing() {
        for stored in [
            "",
            "secret",
            "md5",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-256$4096:$:",
            "SCRAM-SHA-256$x:W22ZaJ0SNY7soEsUEjb6gQ==$a:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
            "SCRAM-SHA-256$4294967295:W22ZaJ0SNY7soEsUEjb6gQ==$a:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
        ] {
            assert!(!accepts(stored, "app", "secret"), "{stored}");
        }
    }
}
