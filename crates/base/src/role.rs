//! Names of databases and of their owners, as far as they must not be others' names.

use std::fmt;

/// The roles that an agent uses itself, by their names in the server.
#[derive(Clone, Copy, Debug)]
pub struct AgentRoles<'a> {
    /// For everything local.
    pub superuser: &'a str,
    /// For streaming and base backups.
    pub replication: &'a str,
    /// For `pg_rewind`, if there is a role for it.
    pub rewind: Option<&'a str>,
}

/// Keys of the agent's own passwords in a Secret, each as `<key>-password`. An owner of that name
/// would have the same password.
pub const AGENT_PASSWORDS: [&str; 4] = ["superuser", "replication", "rewind", "rest"];

/// Names that PostgreSQL does not give to a role, besides those that begin with `pg_`.
const RESERVED_ROLES: [&str; 2] = ["public", "none"];
/// Databases that every cluster has.
const EVERY_CLUSTERS: [&str; 3] = ["postgres", "template0", "template1"];
/// PostgreSQL cuts a name after so many bytes.
const LENGTH_MAX: usize = 63;

/// A name that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnusableName {
    /// The name.
    pub name: String,
    /// Why not, and what to do.
    pub why: String,
}

impl fmt::Display for UnusableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.name.escape_debug(), self.why)
    }
}

impl std::error::Error for UnusableName {}

fn unusable(name: &str, why: impl Into<String>) -> UnusableName {
    UnusableName {
        name: name.to_owned(),
        why: why.into(),
    }
}

fn check_form(name: &str) -> Result<(), UnusableName> {
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(unusable(
            name,
            "is empty or has a control character; choose another name",
        ));
    }
    if name.len() > LENGTH_MAX {
        let why = format!(
            "is longer than the {LENGTH_MAX} bytes that PostgreSQL keeps; choose a shorter name"
        );
        return Err(unusable(name, why));
    }
    Ok(())
}

/// Checks the name of a database's owner.
///
/// # Errors
/// If it is a role of the agent's, has the agent's own password's name, or is PostgreSQL's.
pub fn check_owner(owner: &str, agent: AgentRoles<'_>) -> Result<(), UnusableName> {
    check_form(owner)?;
    let refuse = |why: &str| Err(unusable(owner, format!("{why}; choose another name")));
    if AGENT_PASSWORDS.contains(&owner) {
        return refuse("would have the agent's own password of that name in the Secret");
    }
    if owner == agent.superuser {
        return refuse("is the superuser, as which no application must log in");
    }
    if owner == agent.replication || Some(owner) == agent.rewind {
        return refuse("is a role that the agent makes for itself");
    }
    if owner.starts_with("pg_") || RESERVED_ROLES.contains(&owner) {
        return refuse("is reserved by PostgreSQL");
    }
    Ok(())
}

/// Checks the names of databases to create.
///
/// # Errors
/// If one is there twice, or in every cluster.
pub fn check_databases<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<(), UnusableName> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        check_form(name)?;
        if EVERY_CLUSTERS.contains(&name) {
            return Err(unusable(
                name,
                "is in every cluster and cannot be created; choose another name",
            ));
        }
        if !seen.insert(name) {
            return Err(unusable(name, "is there twice; remove one"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: AgentRoles<'_> = AgentRoles {
        superuser: "postgres",
        replication: "replicator",
        rewind: Some("rewinder"),
    };

    #[test]
    fn an_owner_is_nobody_that_is_there_already() {
        for owner in ["app", "a-b", "a_b", "Superuser", "restaurant", "pgbench"] {
            assert_eq!(check_owner(owner, AGENT), Ok(()), "{owner}");
        }
        for (owner, why) in [
            ("superuser", "password"),
            ("replication", "password"),
            ("rewind", "password"),
            ("rest", "password"),
            ("postgres", "is the superuser"),
            ("replicator", "makes for itself"),
            ("rewinder", "makes for itself"),
            ("pg_monitor", "reserved"),
            ("public", "reserved"),
            ("none", "reserved"),
            ("", "empty"),
            ("a\nb", "control character"),
            (&"a".repeat(64), "longer"),
        ] {
            let refusal = check_owner(owner, AGENT).unwrap_err().to_string();
            assert!(refusal.contains(why), "{owner}: {refusal}");
        }
        let without = AgentRoles {
            rewind: None,
            ..AGENT
        };
        assert_eq!(check_owner("rewinder", without), Ok(()));
    }

    #[test]
    fn a_database_is_created_once() {
        assert_eq!(check_databases(["a", "b"]), Ok(()));
        for names in [["a", "a"], ["a", "postgres"], ["template1", "a"], ["", "a"]] {
            assert!(check_databases(names).is_err(), "{names:?}");
        }
    }
}
