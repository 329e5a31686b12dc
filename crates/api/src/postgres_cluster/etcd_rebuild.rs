//! The rebuild of a managed etcd that lost its quorum for good: how it is requested, and how far it
//! has come.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The annotation on a `PostgresCluster` that requests a rebuild; its value is a [`RebuildRequest`].
/// `kubectl mrg etcd rebuild` writes it.
pub const REBUILD_ETCD_ANNOTATION: &str = "mrg.bluebird.id/rebuild-etcd";

/// What a rebuild is requested with: `TOKEN`, or `TOKEN,force`. Each token is acted on once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildRequest {
    /// Tells this request from the one before. Not empty.
    pub token: String,
    /// Whether it is done although etcd has its quorum, no primary runs, or failsafe mode is off.
    pub force: bool,
}

/// A value of the annotation that requests nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidRebuildRequest;

const FORCE: &str = "force";

impl FromStr for RebuildRequest {
    type Err = InvalidRebuildRequest;

    fn from_str(text: &str) -> Result<Self, InvalidRebuildRequest> {
        let (token, force) = match text.split_once(',') {
            None => (text, false),
            Some((token, FORCE)) => (token, true),
            Some(_) => return Err(InvalidRebuildRequest),
        };
        if token.is_empty() {
            return Err(InvalidRebuildRequest);
        }
        Ok(Self {
            token: token.to_owned(),
            force,
        })
    }
}

impl fmt::Display for RebuildRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, force } = self;
        write!(f, "{token}{}", if *force { ",force" } else { "" })
    }
}

/// The last rebuild of the managed etcd that was requested.
#[derive(JsonSchema, Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdRebuild {
    /// The token of the request.
    pub request: String,
    /// How far it has come.
    pub phase: EtcdRebuildPhase,
    /// When the phase began, in RFC 3339.
    pub since: String,
    /// What it waits for, why it was refused, or what came of it.
    pub message: String,
}

/// How far a rebuild has come.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum EtcdRebuildPhase {
    /// Nothing was done.
    Refused,
    /// The members of the old etcd end. Their data stays.
    StoppingMembers,
    /// The members of the new etcd start, each with an empty data directory beside the old one.
    StartingMembers,
    /// The new etcd has its quorum, and the primary writes the cluster's keys into it.
    RestoringKeys,
    /// A member leads by the new etcd.
    Done,
}

impl EtcdRebuildPhase {
    /// Whether there is something left to do.
    pub const fn is_under_way(self) -> bool {
        matches!(
            self,
            Self::StoppingMembers | Self::StartingMembers | Self::RestoringKeys
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reads_back_and_nothing_else_is_one() {
        for text in ["1764263000", "1764263000,force"] {
            let request: RebuildRequest = text.parse().unwrap();
            assert_eq!(request.to_string(), text);
            assert_eq!(request.force, text.ends_with("force"));
        }
        for text in ["", ",force", "1,gently", "1,force,", "1,"] {
            assert_eq!(text.parse::<RebuildRequest>(), Err(InvalidRebuildRequest));
        }
    }
}
