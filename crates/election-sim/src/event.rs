//! Everything that can happen, and what the ends of the network say to each other.

use std::rc::Rc;

use crate::etcd::Keys;
use crate::postgres::Record;
use crate::schedule::Fault;
use mrg_base::{Millis, Position};
use mrg_dcs::Transaction;
use mrg_election::sync::Names;
use mrg_election::{Event, LeaseId, Revision, StepId};
use mrg_pool_core::Finding;

/// What somebody asks of etcd.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Grant(Millis),
    Keep(LeaseId),
    Revoke(LeaseId),
    Read,
    Transact(Transaction),
}

/// How far etcd had come, and how often it went back before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub revision: Revision,
    pub era: u32,
}

/// What it answers.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Granted(LeaseId, Millis),
    /// Whether it was there, and the revision by then.
    Kept(bool, Revision),
    Revoked,
    Keys(Rc<Keys>),
    /// The revision that it was done at, `None` if no compare held, or the lease that is gone; and
    /// what etcd was by then.
    Transacted(Result<Option<Revision>, LeaseId>, Stamp),
}

/// A message between members, poolers and clients.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// Vote, please.
    Vote {
        from: usize,
        agent: u32,
        step: StepId,
    },
    /// A vote.
    Voted {
        agent: u32,
        step: StepId,
        vote: Result<mrg_election::Vote, mrg_election::VoteRefusal>,
    },
    /// Have you WAL past this?
    Receipt {
        from: usize,
        agent: u32,
        step: StepId,
        past: Position,
        until: u64,
    },
    /// Yes.
    Received { agent: u32, step: StepId },
    /// Promise, please.
    Promise {
        from: usize,
        agent: u32,
        lease: Option<LeaseId>,
        ttl: Millis,
        round: u64,
    },
    /// A promise, or none.
    Promised {
        agent: u32,
        round: u64,
        from: usize,
        given: bool,
    },
    /// A promise is not counted on any more.
    Withdraw { lease: LeaseId, round: u64 },
    /// A standby's receiver knocks.
    Connect {
        from: usize,
        incarnation: u32,
        connection: u32,
    },
    /// WAL up to here is yours.
    Wal {
        connection: u32,
        after: usize,
        records: Vec<Record>,
    },
    /// This standby has flushed so much.
    Flushed {
        from: usize,
        connection: u32,
        upto: usize,
    },
    /// What are you?
    Probe {
        pooler: usize,
        number: u32,
        probe: u64,
        until: u64,
    },
    /// It is this.
    Found {
        pooler: usize,
        number: u32,
        probe: u64,
        finding: Finding,
        server: (usize, u32),
    },
    /// Do you lead?
    Vouch {
        pooler: usize,
        number: u32,
        key: Revision,
    },
    /// Yes or no.
    Vouched {
        pooler: usize,
        number: u32,
        key: Revision,
        leads: bool,
    },
    /// A write.
    Write { transaction: u64, from: usize },
    /// What came of it.
    Written { transaction: u64, done: bool },
    /// The server closed the connection that a pooler keeps an eye on.
    Closed {
        pooler: usize,
        number: u32,
        server: (usize, u32),
    },
}

/// Something that is about to happen.
#[derive(Debug)]
pub(super) enum SimulationEvent {
    Server(ServerEvent),
    Pooler(PoolerEvent),
    Fault {
        index: usize,
        plan: u32,
    },
    Undo {
        fault: Fault,
    },
    Think {
        client: usize,
    },
    StartAgent {
        member: usize,
        boot: u32,
    },
    Wake {
        member: usize,
        agent: u32,
    },
    Agent {
        member: usize,
        agent: u32,
        event: Box<Event>,
    },
    Fence {
        member: usize,
        generation: u32,
    },
    Thaw {
        member: usize,
    },
    Request {
        from: usize,
        number: u32,
        call: u64,
        ask: Box<Ask>,
        resent: bool,
    },
    Reply {
        to: usize,
        number: u32,
        call: u64,
        answer: Answer,
    },
    Overdue {
        who: usize,
        number: u32,
        call: u64,
    },
    News {
        to: usize,
        number: u32,
        keys: Rc<Keys>,
    },
    Expire {
        lease: LeaseId,
    },
    Arrives {
        from: usize,
        to: usize,
        message: Box<Message>,
    },
    Look {
        member: usize,
        agent: u32,
    },
    StepDone {
        member: usize,
        agent: u32,
        step: StepId,
    },
    StepLate {
        member: usize,
        agent: u32,
        step: StepId,
    },
    Backstop {
        end: usize,
        number: u32,
        reads: u64,
    },
    Help,
    /// What still ails servers is mended, too.
    Cure,
    Forget {
        transaction: u64,
    },
    Late {
        from: usize,
        to: usize,
        message: Box<Message>,
    },
    Boot {
        member: usize,
        boot: u32,
    },
}

/// Something that is about to happen to a server, or to a connection between two.
#[derive(Debug)]
pub(super) enum ServerEvent {
    Up {
        member: usize,
        incarnation: u32,
        primary: bool,
    },
    Replayed {
        member: usize,
        incarnation: u32,
    },
    Promoted {
        member: usize,
        incarnation: u32,
    },
    Stopped {
        member: usize,
        incarnation: u32,
    },
    Flush {
        member: usize,
        incarnation: u32,
        upto: usize,
    },
    Names {
        member: usize,
        boot: u32,
        names: Names,
    },
    Knock {
        member: usize,
        incarnation: u32,
    },
    SenderGone {
        primary: usize,
        standby: usize,
        connection: u32,
    },
    ReceiverGone {
        standby: usize,
        connection: u32,
    },
    ConnectionTimeout {
        from: usize,
        to: usize,
    },
}

impl ServerEvent {
    /// The server that it happens in; `None` for the end of a connection, which comes from outside.
    pub(crate) fn server(&self) -> Option<usize> {
        match self {
            ServerEvent::Up { member, .. }
            | ServerEvent::Replayed { member, .. }
            | ServerEvent::Promoted { member, .. }
            | ServerEvent::Stopped { member, .. }
            | ServerEvent::Flush { member, .. }
            | ServerEvent::Names { member, .. }
            | ServerEvent::Knock { member, .. } => Some(*member),
            ServerEvent::SenderGone { .. }
            | ServerEvent::ReceiverGone { .. }
            | ServerEvent::ConnectionTimeout { .. } => None,
        }
    }
}

impl From<ServerEvent> for SimulationEvent {
    fn from(event: ServerEvent) -> Self {
        SimulationEvent::Server(event)
    }
}

/// Something that is about to happen to a pooler.
#[derive(Debug)]
pub(super) enum PoolerEvent {
    Tick {
        pooler: usize,
        number: u32,
    },
    Set {
        pooler: usize,
        number: u32,
        setting: u64,
    },
    Pause {
        pooler: usize,
        number: u32,
        pause: Option<mrg_pool_core::PauseRequest>,
    },
    Start {
        pooler: usize,
    },
}

impl From<PoolerEvent> for SimulationEvent {
    fn from(event: PoolerEvent) -> Self {
        SimulationEvent::Pooler(event)
    }
}
