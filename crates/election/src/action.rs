//! What a member can do, and what can come of it.

use std::collections::BTreeSet;

use crate::lease::LeaseId;
use crate::sync::{Names, Stored};
use crate::view::Revision;
use mrg_base::{MemberName, Position, Timeline};

/// In which role postgres is started.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StartAs {
    /// Read-write, after crash recovery if need be.
    Primary,
    /// In recovery, streaming from `upstream` if there is one.
    Standby {
        /// Whom to follow.
        upstream: Option<MemberName>,
    },
}

/// How postgres is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopMode {
    /// Sessions are ended, the shutdown checkpoint is written and sent to the standbys.
    Fast,
    /// SIGKILL to every descendant.
    Kill,
}

/// One step. Steps of a decision are performed in order and the first failure ends them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Create `initialize`, if absent, under our lease.
    ClaimInitialize,
    /// Delete `initialize` if it is our claim, and what was written of a data directory.
    AbandonInitialize,
    /// Store the system identifier in `initialize`.
    StoreSystemId(u64),
    /// Create the leader key, if absent, under our lease.
    AcquireLeader,
    /// Put the leader key under this lease, if it is ours.
    MoveLeader(LeaseId),
    /// Delete the leader key if it is ours.
    ReleaseLeader,
    /// Delete the leader key if it hangs off this lease, by which it stands only because the DCS
    /// went back in time.
    EvictLeader(LeaseId),
    /// In a DCS that went back in time: create the leader key, if absent, under our lease, and with
    /// it write what the cluster is, over whatever is there.
    RestoreKeys {
        /// For `initialize`.
        system_id: u64,
        /// For `/sync`; `None` if it is not used.
        stored: Option<Stored>,
    },
    /// Compare-and-set `/sync`, on condition that the leader key is ours.
    WriteSync {
        /// The revision to replace; `None` if the key must be absent.
        expected: Option<Revision>,
        /// The new value.
        stored: Stored,
    },
    /// Clear the switchover request.
    ClearSwitchover {
        /// The revision that was handled.
        expected: Revision,
    },
    /// Make a new data directory.
    InitDb,
    /// Make users and databases in a fresh cluster.
    PostBootstrap,
    /// Start postgres.
    Start(StartAs),
    /// Stop postgres.
    Stop(StopMode),
    /// Write to the DCS that the next timeline after this position's is ours, on condition that the
    /// leader key is. A member behind it is not eligible: two timelines of one number are two
    /// histories that PostgreSQL cannot tell apart.
    ReserveTimeline {
        /// Where it begins.
        after: Position,
        /// The newest timeline that this was decided by; nothing is written if there is another by
        /// now.
        known: Option<Timeline>,
    },
    /// Leave recovery. The shell waits until writes are accepted.
    Promote,
    /// Ask the poolers to hold their clients, and wait, for a bounded time, until their last
    /// transactions are done.
    PausePoolers {
        /// Whether a pooler whose transactions do not end may stop what is planned, if its pool
        /// says so.
        may_abandon: bool,
    },
    /// Take the request to the poolers back.
    ResumePoolers,
    /// Write a checkpoint, so that the stop that follows is short.
    Checkpoint,
    /// End the WAL receiver and wait until it has ended.
    StopReceiver,
    /// Stream from this member.
    Follow(MemberName),
    /// Set `synchronous_standby_names` and wait until every WAL sender acts on it.
    SetSyncNames(Names),
    /// Ask this member's server whether it is there, leads, and is of our system: what we have is
    /// not touched for one that is not.
    ConfirmLeader(MemberName),
    /// Remove the data directory, to make room for a copy.
    RemoveData,
    /// Rewind the data directory to the fork with this member's.
    Rewind(MemberName),
    /// Replace the data directory by a copy of this member's. What is there stays until the copy is
    /// whole.
    BaseBackup(MemberName),
    /// Ask these for their position, with their WAL receivers stopped.
    AskPeers(BTreeSet<MemberName>),
    /// Wait, for a bounded time, until one of these has everything up to the last stop.
    AwaitReceipt {
        /// Who may take over.
        candidates: BTreeSet<MemberName>,
        /// The end of our WAL; filled in from the stop before.
        position: Position,
    },
}

impl Action {
    /// Whether it may only be performed by a member that may write, with the fence armed: it lets
    /// postgres write, or prepares that.
    pub fn needs_key(&self) -> bool {
        match self {
            Action::WriteSync { .. }
            | Action::MoveLeader(_)
            | Action::EvictLeader(_)
            | Action::RestoreKeys { .. }
            | Action::SetSyncNames(_)
            | Action::ReserveTimeline { .. }
            | Action::Promote
            | Action::PostBootstrap
            | Action::Start(StartAs::Primary) => true,
            Action::ClaimInitialize
            | Action::AbandonInitialize
            | Action::StoreSystemId(_)
            | Action::AcquireLeader
            | Action::ReleaseLeader
            | Action::ClearSwitchover { .. }
            | Action::InitDb
            | Action::Start(StartAs::Standby { .. })
            | Action::Stop(_)
            | Action::PausePoolers { .. }
            | Action::ResumePoolers
            | Action::Checkpoint
            | Action::StopReceiver
            | Action::Follow(_)
            | Action::ConfirmLeader(_)
            | Action::RemoveData
            | Action::Rewind(_)
            | Action::BaseBackup(_)
            | Action::AskPeers(_)
            | Action::AwaitReceipt { .. } => false,
        }
    }

    /// Whether it is a transaction that compares before it writes: if it is refused, what is
    /// known of the DCS is out of date.
    pub fn compares(&self) -> bool {
        match self {
            Action::AcquireLeader
            | Action::MoveLeader(_)
            | Action::EvictLeader(_)
            | Action::RestoreKeys { .. }
            | Action::WriteSync { .. }
            | Action::ReleaseLeader
            | Action::ClearSwitchover { .. }
            | Action::ClaimInitialize
            | Action::ReserveTimeline { .. } => true,
            Action::AbandonInitialize
            | Action::StoreSystemId(_)
            | Action::PausePoolers { .. }
            | Action::ResumePoolers
            | Action::InitDb
            | Action::PostBootstrap
            | Action::Start(_)
            | Action::Stop(_)
            | Action::Promote
            | Action::Checkpoint
            | Action::StopReceiver
            | Action::Follow(_)
            | Action::SetSyncNames(_)
            | Action::ConfirmLeader(_)
            | Action::RemoveData
            | Action::Rewind(_)
            | Action::BaseBackup(_)
            | Action::AskPeers(_)
            | Action::AwaitReceipt { .. } => false,
        }
    }

    /// Whether the state of postgres after this step differs from the one before.
    pub fn touches_postgres(&self) -> bool {
        match self {
            Action::InitDb
            | Action::AbandonInitialize
            | Action::Start(_)
            | Action::Stop(_)
            | Action::Promote
            | Action::StopReceiver
            | Action::Follow(_)
            | Action::SetSyncNames(_)
            | Action::Rewind(_)
            | Action::RemoveData
            | Action::BaseBackup(_) => true,
            Action::ClaimInitialize
            | Action::StoreSystemId(_)
            | Action::AcquireLeader
            | Action::MoveLeader(_)
            | Action::EvictLeader(_)
            | Action::RestoreKeys { .. }
            | Action::ReleaseLeader
            | Action::WriteSync { .. }
            | Action::ClearSwitchover { .. }
            | Action::PostBootstrap
            | Action::ReserveTimeline { .. }
            | Action::PausePoolers { .. }
            | Action::ResumePoolers
            | Action::Checkpoint
            | Action::ConfirmLeader(_)
            | Action::AskPeers(_)
            | Action::AwaitReceipt { .. } => false,
        }
    }

    /// Whether postgres accepts writes by it, or may.
    pub fn opens_postgres(&self) -> bool {
        matches!(self, Action::Promote | Action::Start(StartAs::Primary))
    }

    /// Whether it may take long, and is worth nothing if the member stops before its end.
    pub fn is_long(&self) -> bool {
        matches!(
            self,
            Action::BaseBackup(_) | Action::Rewind(_) | Action::InitDb
        )
    }
}

/// A peer's answer in a race.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vote {
    /// Who answers.
    pub member: MemberName,
    /// Its durable position; its WAL receiver is stopped.
    pub position: Position,
    /// Its priority (higher first), if it would take over itself, now.
    pub candidate: Option<i32>,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was done.
    Done,
    /// Done, and this is the position of postgres after it.
    At(Position),
    /// A compare-and-set was done at this revision.
    Written(Revision),
    /// A compare-and-set found something else, or a peer said no: nothing was changed.
    Refused(String),
    /// It is in doubt whether it was done; the truth must be read again.
    Unknown(String),
    /// It failed.
    Failed(String),
    /// It failed for want of space; nothing was changed.
    NoSpace(String),
    /// The answers to [`Action::AskPeers`]; silence is no answer.
    Votes(Vec<Vote>),
    /// The answers to [`Action::AskPeers`], of which one at least was
    /// [`crate::VoteRefusal::DcsReset`].
    DcsReset(Vec<Vote>),
}

impl Outcome {
    /// Whether the steps behind this one may go on.
    pub fn is_success(&self) -> bool {
        matches!(
            self,
            Outcome::Done | Outcome::At(_) | Outcome::Written(_) | Outcome::Votes(_)
        )
    }
}
