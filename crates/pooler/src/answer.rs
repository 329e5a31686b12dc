//! What the tasks beside the loop have found out.

use crate::probe::HeartbeatConnection;
use mrg_election::Revision;
use mrg_pool_core::{Event, Finding};

/// What a task that the pooler started has found out.
pub(crate) enum Answer {
    /// An event as it is.
    Event(Event),
    /// A probe ended.
    Probed {
        probe: u64,
        finding: Finding,
        /// The connection, if the server is the primary.
        heartbeat: Option<Heartbeat>,
    },
    /// The heartbeat connection of this number ended.
    HeartbeatEnded(u64),
}

/// The connection that shows when the leader's server is gone.
pub(crate) struct Heartbeat {
    pub number: u64,
    /// The leadership that it was opened for.
    pub key: Revision,
    pub _connection: HeartbeatConnection,
}
