//! Words of the wire formats as enums. A word that is not among ours is kept as it was read: it may
//! come from Patroni, or from a newer program.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$of:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$of])* $variant,)+
            /// Another word.
            Unknown(String),
        }

        impl $name {
            /// The word on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $($name::$variant => $text,)+
                    $name::Unknown(text) => text,
                }
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => $name::$variant,)+
                    other => $name::Unknown(other.to_owned()),
                }
            }
        }

        text_format!($name);
    };
}

macro_rules! text_format {
    ($name:ident) => {
        impl Default for $name {
            fn default() -> Self {
                $name::Unknown(String::new())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer).map(|text| $name::from(text.as_str()))
            }
        }
    };
}

words! {
    /// The state of a member's server. Patroni has more words for states in which it does not
    /// accept connections.
    MemberState {
        /// It accepts connections.
        Running = "running",
        /// It was started and does not yet.
        Starting = "starting",
        /// It does not run.
        Stopped = "stopped",
        /// There is no data directory yet.
        CreatingReplica = "creating replica",
    }
}

words! {
    /// The role of a member's server.
    MemberRole {
        /// It accepts writes.
        Primary = "primary",
        /// The same, as Patroni before version 4 has it.
        Master = "master",
        /// A standby, or one that does not run.
        Replica = "replica",
        /// There is no data directory yet.
        Uninitialized = "uninitialized",
    }
}

words! {
    /// Where a standby's WAL comes from.
    ReplicationState {
        /// From another server.
        Streaming = "streaming",
        /// From the archive, or from nowhere.
        InArchiveRecovery = "in archive recovery",
    }
}

/// A pooler's reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolerReason {
    /// One of those that this program knows.
    Known(mrg_pool_core::Reason),
    /// Another word, from another version.
    Unknown(String),
}

impl PoolerReason {
    /// The word on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            PoolerReason::Known(why) => why.name(),
            PoolerReason::Unknown(text) => text,
        }
    }

    /// The reason, if this program knows it.
    pub fn known(&self) -> Option<mrg_pool_core::Reason> {
        match self {
            PoolerReason::Known(why) => Some(*why),
            PoolerReason::Unknown(_) => None,
        }
    }
}

impl From<mrg_pool_core::Reason> for PoolerReason {
    fn from(why: mrg_pool_core::Reason) -> Self {
        PoolerReason::Known(why)
    }
}

impl From<&str> for PoolerReason {
    fn from(text: &str) -> Self {
        mrg_pool_core::Reason::by_name(text).map_or_else(
            || PoolerReason::Unknown(text.to_owned()),
            PoolerReason::Known,
        )
    }
}

text_format!(PoolerReason);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_read_and_written_as_it_stands() {
        for text in ["running", "creating replica", "start failed", ""] {
            let json = serde_json::to_string(text).unwrap();
            let state: MemberState = serde_json::from_str(&json).unwrap();
            assert_eq!(serde_json::to_string(&state).unwrap(), json);
        }
        assert_eq!(MemberRole::from("master"), MemberRole::Master);
        for text in ["Confirmed", "OfAnotherVersion"] {
            let json = serde_json::to_string(text).unwrap();
            let reason: PoolerReason = serde_json::from_str(&json).unwrap();
            assert_eq!(serde_json::to_string(&reason).unwrap(), json);
            assert_eq!(reason.known().is_some(), text == "Confirmed");
        }
        assert!(serde_json::from_str::<MemberState>("null").is_err());
    }
}
