//! Passwords in a directory, as Kubernetes mounts a Secret: `<key>-password`, which changes while the
//! agent runs.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::path::PathBuf;

use mrg_base::AGENT_PASSWORDS;
use mrg_postgres::{Authentication, Credentials, fits_passfile};

/// The directory; nothing is mounted without one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mounted(Option<PathBuf>);

impl Mounted {
    pub(crate) fn new(directory: Option<PathBuf>) -> Self {
        Self(directory)
    }

    /// Whether there is a directory.
    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// The password of this key. `None` if it is not there or empty, cannot be read, or cannot be a
    /// password: a directory that is being changed leaves what was read before in force.
    pub(crate) fn password(&self, key: &str) -> Option<String> {
        let path = self.0.as_ref()?.join(format!("{key}-password"));
        let text = std::fs::read_to_string(path).ok()?;
        let password = text.trim_end_matches('\n');
        (!password.is_empty() && fits_passfile(password)).then(|| password.to_owned())
    }

    /// Puts the mounted passwords in the place of others.
    pub(crate) fn fill(&self, authentication: &mut Authentication, rest: Option<&mut Credentials>) {
        let Authentication {
            superuser,
            replication,
            rewind,
        } = authentication;
        let own = [Some(superuser), Some(replication), rewind.as_mut(), rest];
        for (key, credentials) in AGENT_PASSWORDS.iter().zip(own) {
            if let Some(credentials) = credentials
                && let Some(password) = self.password(key)
            {
                credentials.password = password;
            }
        }
    }
}
