//! Names that are parsed once and then trusted.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidName {
    /// What the name was for.
    pub what: &'static str,
    /// The refused text.
    pub text: String,
}

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} `{}` must be 1 to 63 letters, digits, `-`, `_` or `.`, and start with a letter or digit",
            self.what, self.text
        )
    }
}

impl std::error::Error for InvalidName {}

fn check(what: &'static str, text: &str) -> Result<Arc<str>, InvalidName> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts_well = text
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric());
    if starts_well && text.len() <= 63 && text.chars().all(legal) {
        // Names are copied wherever they go; they are a handful, and never change.
        Ok(text.into())
    } else {
        Err(InvalidName {
            what,
            text: text.to_owned(),
        })
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Parses a name.
            ///
            /// # Errors
            /// If it is not legal; [`InvalidName`] says what is.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                check($what, text).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                (*name.0).to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// A member's name: unique in its scope, also its `application_name` in replication.
    MemberName,
    "member name"
);
name!(
    /// A cluster's name in the DCS.
    Scope,
    "scope"
);

impl MemberName {
    /// The member's replication slot on any other member: only lower-case letters, digits and `_`
    /// are legal there (Patroni's `slot_name_from_member_name`).
    pub fn slot_name(&self) -> String {
        self.0
            .to_ascii_lowercase()
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '_' {
                    c
                } else {
                    '_'
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_their_place_are_refused() {
        for text in ["", "-a", "a/b", "a b", "a\"b", &"a".repeat(64)] {
            assert!(MemberName::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_slot_name_holds_only_what_postgresql_allows() {
        assert_eq!(
            MemberName::new("Pg-Node.1").unwrap().slot_name(),
            "pg_node_1"
        );
    }
}
