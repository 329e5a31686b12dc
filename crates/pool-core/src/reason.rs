//! Why clients wait, or do not.

use std::fmt;

/// The closed list of reasons. One is the log line, the metric label, the status and the heading in
/// the runbook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
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

impl Reason {
    /// The reason as one word.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Confirmed => "Confirmed",
            Reason::Starting => "Starting",
            Reason::PauseAsked => "PauseAsked",
            Reason::LeaderGone => "LeaderGone",
            Reason::LeaderChanged => "LeaderChanged",
            Reason::ServerLost => "ServerLost",
            Reason::NoReplica => "NoReplica",
            Reason::HeldTooLong => "HeldTooLong",
        }
    }

    /// The reason by its word.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.name() == name)
    }

    /// Every reason.
    pub const ALL: [Self; 8] = [
        Reason::Confirmed,
        Reason::Starting,
        Reason::PauseAsked,
        Reason::LeaderGone,
        Reason::LeaderChanged,
        Reason::ServerLost,
        Reason::NoReplica,
        Reason::HeldTooLong,
    ];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Confirmed => "the server is confirmed; clients work",
            Reason::Starting => "no server is confirmed yet; clients wait",
            Reason::PauseAsked => "the leader is about to hand over; clients wait",
            Reason::LeaderGone => "the leader key is gone; clients wait for the next leader",
            Reason::LeaderChanged => {
                "another leadership began; clients wait until its server accepts writes"
            }
            Reason::ServerLost => {
                "the server closed its connections and does not answer as the primary; clients wait"
            }
            Reason::NoReplica => {
                "no standby is near enough and the primary may not be used; clients wait"
            }
            Reason::HeldTooLong => {
                "no server could be confirmed in time; clients are turned away until one is"
            }
        })
    }
}
