//! Why clients wait, or do not.

use std::fmt;

/// The closed list of reasons. One is the log line, the metric label, the status and the heading in
/// the runbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// The server is confirmed.
    Confirmed,
    /// The pooler has just started and knows no server yet.
    Starting,
    /// The leader asked for a pause before it hands over.
    PauseAsked,
    /// The leader key is gone.
    LeaderGone,
    /// Another leadership began.
    LeaderChanged,
    /// The server closed its connections and does not answer as the primary.
    ServerLost,
    /// No standby is near enough, and the pool may not use the primary.
    NoReplica,
    /// Held for so long that clients are turned away.
    HeldTooLong,
}

impl Why {
    /// The reason as one word.
    pub fn name(self) -> &'static str {
        match self {
            Why::Confirmed => "Confirmed",
            Why::Starting => "Starting",
            Why::PauseAsked => "PauseAsked",
            Why::LeaderGone => "LeaderGone",
            Why::LeaderChanged => "LeaderChanged",
            Why::ServerLost => "ServerLost",
            Why::NoReplica => "NoReplica",
            Why::HeldTooLong => "HeldTooLong",
        }
    }

    /// The reason by its word.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|why| why.name() == name)
    }

    /// Every reason.
    pub const ALL: [Self; 8] = [
        Why::Confirmed,
        Why::Starting,
        Why::PauseAsked,
        Why::LeaderGone,
        Why::LeaderChanged,
        Why::ServerLost,
        Why::NoReplica,
        Why::HeldTooLong,
    ];
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Confirmed => "the server is confirmed; clients work",
            Why::Starting => "no server is confirmed yet; clients wait",
            Why::PauseAsked => "the leader is about to hand over; clients wait",
            Why::LeaderGone => "the leader key is gone; clients wait for the next leader",
            Why::LeaderChanged => {
                "another leadership began; clients wait until its server accepts writes"
            }
            Why::ServerLost => {
                "the server closed its connections and does not answer as the primary; clients wait"
            }
            Why::NoReplica => {
                "no standby is near enough and the primary may not be used; clients wait"
            }
            Why::HeldTooLong => {
                "no server could be confirmed in time; clients are turned away until one is"
            }
        })
    }
}
