//! What every pool has in common: the events it takes and the effects it asks for.

use std::collections::BTreeMap;

use crate::reason::Reason;
use crate::view::{Address, Finding, Leader, PauseRequest, PoolTarget, Snapshot};
use mrg_base::{MemberName, Millis, Moment};
use mrg_election::Revision;

/// Servers by the name of their member.
pub type Servers = BTreeMap<MemberName, Address>;

/// The decisions of one pool: sans-IO, deterministic, the time is a parameter.
///
/// The shell feeds [events](Event) in the order in which it learns of them and performs the
/// [effects](Effect) in the order given. Events that do not concern a kind of pool change nothing
/// in it.
pub trait PoolCore {
    /// Takes an event and returns what to do.
    fn on(&mut self, now: Moment, event: Event) -> Vec<Effect>;

    /// When [`Event::Tick`] is due at the latest; `None` while only other events matter.
    fn wake_at(&self) -> Option<Moment>;

    /// Why clients wait, or [`Reason::Confirmed`].
    fn reason(&self) -> Reason;

    /// When the present pause began; `None` while clients work.
    fn paused_since(&self) -> Option<Moment>;

    /// The servers that clients reach. In a write pool that is paused: the one they reached last.
    fn serving(&self) -> Servers;
}

/// What a pool is notified of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The time that [`PoolCore::wake_at`] named has come, or any other.
    Tick,
    /// The keys of the cluster, read or watched.
    Dcs {
        /// The keys.
        snapshot: Snapshot,
        /// The newest [`Effect::ReadDcs`] that preceded the read behind the snapshot; 0 for a change
        /// that was watched.
        read: u64,
    },
    /// The DCS does not answer.
    DcsLost,
    /// The DCS went back in time: revisions of before say nothing any more.
    DcsReset,
    /// The pause request, as it stands now.
    Pause(Option<PauseRequest>),
    /// The server closed the heartbeat connection.
    Disconnected {
        /// The leadership that the connection was opened for.
        key: Revision,
    },
    /// An [`Effect::Probe`] ended.
    Probed {
        /// The number of the probe.
        probe: u64,
        /// What the server is.
        finding: Finding,
    },
    /// The leader's agent answered an [`Effect::ConfirmLeadership`], or did not answer in time.
    LeadershipAnswered {
        /// The leadership that the question was about.
        key: Revision,
        /// Whether its member holds a lease or promises that last.
        leads: bool,
    },
    /// PgBouncer has no transaction under way.
    Drained {
        /// The newest [`PoolTarget::number`] for which that holds.
        number: u64,
    },
    /// A monitored server answered, or closed its connection.
    Monitored {
        /// The server's member.
        member: MemberName,
        /// The address that was asked: an answer from another one than the member's present one
        /// does not count.
        address: Address,
        /// What the server is.
        finding: Finding,
    },
}

/// What a pool asks its shell to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Bring PgBouncer to this target. It replaces any earlier one.
    Retarget(PoolTarget),
    /// Ask the server what it is, waiting a moment for it to leave recovery. The connection stays
    /// open as the heartbeat connection: its end is [`Event::Disconnected`].
    Probe {
        /// The number of the probe, for [`Event::Probed`].
        probe: u64,
        /// The leader to probe.
        leader: Leader,
    },
    /// Ask the leader's agent whether it still leads.
    ConfirmLeadership(Leader),
    /// Read the DCS linearizably and label the answer with this number.
    ReadDcs(u64),
    /// Acknowledge the leader's pause request.
    Acknowledge {
        /// The request.
        pause: Revision,
        /// Whether the last transaction is done.
        drained: bool,
    },
    /// Monitor exactly these servers, each for [`Event::Monitored`].
    Monitor(Servers),
    /// Report that clients work again.
    Retargeted(Retargeted),
}

/// A pause that ended with a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retargeted {
    /// What began the pause.
    pub cause: Reason,
    /// How long it was.
    pub paused: Millis,
    /// The servers that clients reach from now on.
    pub servers: Servers,
}
