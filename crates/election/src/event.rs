//! Events and effects: the whole language between [`crate::Node`] and the shell that drives it.

use std::collections::BTreeSet;

use crate::action::{Action, Outcome};
use crate::lease::{LeaseId, Promise};
use crate::reason::Reason;
use crate::settings::Settings;
use crate::view::{Cluster, Postgres, Revision};
use mrg_base::{MemberName, Millis, Moment, Position};

/// Names one performance of one step; an answer to an older one is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub u64);

/// What is known of the promises of the incarnation before this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PreviousIncarnation {
    /// Its last promise stands in a durable record; `None` if it had made none that could still
    /// hold.
    Known(Option<Promise>),
    /// There is no record, or none that can be compared with this clock.
    Unknown,
}

/// A leader without etcd asks this member not to race.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PromiseRequest {
    /// Whom to answer.
    pub reply: u64,
    /// Who asks.
    pub leader: MemberName,
    /// Its lease, if it says; a stock Patroni does not.
    pub lease: Option<LeaseId>,
    /// For how long.
    pub ttl: Millis,
    /// The leader's count of the times it asked.
    pub round: u64,
}

/// Why a member gives no vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VoteRefusal {
    /// It knows that the DCS went back in time, and of nothing written since that settles who leads.
    /// A candidate that did not notice must not take over by what the DCS says either.
    DcsReset,
    /// Anything else, in words.
    Other(String),
}

impl std::fmt::Display for VoteRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            VoteRefusal::DcsReset => f.write_str(Reason::DcsReset.sentence()),
            VoteRefusal::Other(why) => f.write_str(why),
        }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The time that [`Node::wake_at`] named has come, or any other.
    Tick,
    /// The DCS said this.
    Dcs {
        /// The state.
        cluster: Cluster,
        /// Whether it is as new as the answer to a read that began after the last write.
        linearizable: bool,
    },
    /// The DCS does not answer.
    DcsLost,
    /// The DCS went back in time: see [`crate::view::DcsReset`]. The next [`Event::Dcs`] is the first
    /// of what it says now.
    DcsReset,
    /// A lease was granted.
    LeaseGranted {
        /// Its name.
        id: LeaseId,
        /// The ttl that was granted.
        granted: Millis,
        /// When it was asked for.
        sent: Moment,
    },
    /// A keepalive was answered.
    LeaseKept {
        /// Which lease.
        id: LeaseId,
        /// When the keepalive was sent.
        sent: Moment,
    },
    /// A grant or keepalive failed or was not answered.
    LeaseUnanswered,
    /// The DCS does not know the lease any more.
    LeaseGone(LeaseId),
    /// Whether the last write of this member that put a key failed, although the DCS may answer reads.
    WritesFail(bool),
    /// The local postgres was looked at.
    Postgres {
        /// The newest [`Effect::Probe`] that the look came after.
        probe: u64,
        /// What was seen.
        postgres: Postgres,
    },
    /// A client's way through the local server was tried, while this member leads: a new
    /// connection, and a commit that reaches the disk.
    Pulse {
        /// When it was begun.
        asked: Moment,
        /// Whether both were done in time, or the server said that it has no place for another
        /// session and committed in an open one.
        answered: bool,
    },
    /// The postmaster ended, and with it every process of it.
    PostmasterGone,
    /// A step ended.
    Finished {
        /// Which.
        step: StepId,
        /// How.
        outcome: Outcome,
    },
    /// A leader asks for a promise.
    PromiseAsked(PromiseRequest),
    /// A leader has its lease again and does not count on our promise.
    PromiseWithdrawn {
        /// The leader's lease.
        lease: LeaseId,
        /// Promises of later rounds stand.
        round: u64,
    },
    /// The members' answers to [`Effect::AskPromises`].
    Promises {
        /// Which round.
        round: u64,
        /// When they were asked.
        asked: Moment,
        /// Whether all agreed.
        all: bool,
    },
    /// What became of [`Effect::WriteFailsafe`]: the revision that the key has by it, or `None` if
    /// it was not written or that is in doubt.
    FailsafeWritten(Option<Revision>),
    /// A peer that races asks for our position.
    VoteAsked {
        /// Whom to answer.
        reply: u64,
    },
    /// New settings.
    Settings(Settings),
    /// This member's own tags changed: its failover priority, or `None` if they forbid it to lead.
    Priority(Option<i32>),
    /// Restart postgres when it is safe.
    RestartRequested,
    /// Replace the data by a fresh copy of the leader's, and begin again if that is being done. It is
    /// dropped without another member that leads.
    ReinitializeRequested,
    /// End in order.
    Stop,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Ask the DCS for a lease.
    GrantLease(Millis),
    /// Keep the lease.
    KeepAlive(LeaseId),
    /// Kill postgres before this moment unless armed again; `None` disarms.
    Fence(Option<Moment>),
    /// Perform a step and report its end.
    Perform(StepId, Action),
    /// Give up the running step: its end is of no interest any more.
    Abort(StepId),
    /// Look at postgres now, and label the answer with this number.
    Probe(u64),
    /// Read the DCS linearizably.
    ReadDcs,
    /// Ask all members for a promise of one ttl.
    AskPromises {
        /// The round.
        round: u64,
        /// Whom.
        members: Vec<MemberName>,
        /// How long the answers may take.
        within: Millis,
    },
    /// Tell all members that promises up to this round are not counted on any more.
    WithdrawPromises {
        /// Whom.
        members: Vec<MemberName>,
        /// Up to which round.
        round: u64,
    },
    /// Write the key `failsafe` as the leader, if it still has this revision; or delete it.
    WriteFailsafe {
        /// The revision that it had when it was read; `None` if it was not there.
        over: Option<Revision>,
        /// Who may race from now on; `None` deletes the key.
        members: Option<BTreeSet<MemberName>>,
    },
    /// Answer a request for a promise: the promise, to be recorded durably before it is given; or
    /// why not.
    AnswerPromise(u64, Result<Promise, String>),
    /// Answer a vote: our position, and whether we would lead ourselves; or why not.
    AnswerVote(u64, Result<(Position, Option<i32>), VoteRefusal>),
    /// The reason changed.
    Explain(Reason),
    /// Everything is stopped; end the process.
    Exit,
}
