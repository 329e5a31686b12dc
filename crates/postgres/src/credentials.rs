//! The agent's roles in the server, and how libpq is given their passwords: in a passfile, never in
//! a connection string, an argument or an environment, which the server logs and `/proc` shows.

#![deny(clippy::indexing_slicing, clippy::panic)]

use serde::{Deserialize, Serialize};

use mrg_base::Address;

/// A role and its password. `Debug` hides the password.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The role's name.
    pub username: String,
    /// The password; empty for none.
    #[serde(default)]
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:***", self.username)
    }
}

/// The roles that the agent uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authentication {
    /// For everything local, and for `pg_rewind` without a role of its own.
    pub superuser: Credentials,
    /// For streaming and base backups.
    pub replication: Credentials,
    /// For `pg_rewind`; `None` if the superuser does that.
    pub rewind: Option<Credentials>,
}

impl Authentication {
    /// The role that reads another member's files for `pg_rewind`.
    pub fn rewinds(&self) -> &Credentials {
        self.rewind.as_ref().unwrap_or(&self.superuser)
    }

    /// Every role.
    pub fn roles(&self) -> impl Iterator<Item = &Credentials> {
        [&self.superuser, &self.replication]
            .into_iter()
            .chain(&self.rewind)
    }
}

/// Whether a name or a password can stand in a passfile, which has one line for each.
pub fn fits_passfile(text: &str) -> bool {
    !text.contains(['\n', '\r', '\0'])
}

/// The text of a passfile (PostgreSQL's manual, "The Password File") with the passwords of these
/// roles, for every server. Roles without a password are left out, and so is what does not fit: see
/// [`fits_passfile`].
pub fn passfile<'a>(roles: impl IntoIterator<Item = &'a Credentials>) -> String {
    // A star alone would stand for every name.
    let escaped = |text: &str| {
        let text = text.replace('\\', "\\\\");
        text.replace(':', "\\:").replace('*', "\\*")
    };
    let line = |role: &Credentials| {
        let (user, password) = (escaped(&role.username), escaped(&role.password));
        format!("*:*:*:{user}:{password}\n")
    };
    roles
        .into_iter()
        .filter(|role| !role.password.is_empty())
        .filter(|role| fits_passfile(&role.username) && fits_passfile(&role.password))
        .map(line)
        .collect()
}

/// A libpq connection string without a password.
pub fn conninfo(to: &Address, user: &str, options: &[(&str, &str)]) -> String {
    let port = to.port.to_string();
    let server = [("host", to.host.as_str()), ("port", &port), ("user", user)];
    let quoted = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    server
        .iter()
        .chain(options)
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(username: &str, password: &str) -> Credentials {
        Credentials {
            username: username.to_owned(),
            password: password.to_owned(),
        }
    }

    #[test]
    fn quotes_cannot_break_out_of_a_connection_string() {
        let to = Address {
            host: "h".into(),
            port: 1,
        };
        assert_eq!(
            conninfo(&to, "it's", &[("application_name", r"a'b\c")]),
            r"host='h' port='1' user='it\'s' application_name='a\'b\\c'"
        );
    }

    #[test]
    fn a_passfile_has_a_line_for_each_role_with_a_password_that_fits() {
        let roles = [
            role("postgres", r"a:b\c'd"),
            role("re:pl", "x"),
            role("*", "y*"),
            role("nobody", ""),
            role("broken", "two\nlines"),
        ];
        assert_eq!(
            passfile(&roles),
            "*:*:*:postgres:a\\:b\\\\c'd\n*:*:*:re\\:pl:x\n*:*:*:\\*:y\\*\n"
        );
    }

    #[test]
    fn a_password_does_not_show_in_what_is_printed_for_people() {
        let authentication = Authentication {
            superuser: role("postgres", "one-secret"),
            replication: role("replicator", "two-secret"),
            rewind: Some(role("rewinder", "three-secret")),
        };
        let text = format!("{authentication:?}");
        assert!(
            text.contains("rewinder") && !text.contains("secret"),
            "{text}"
        );
    }
}
