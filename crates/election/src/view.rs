//! What a member knows when it decides. "Unknown" is a value.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::hand_over::HandOver;
use crate::lease::{Lease, LeaseId, Promise};
use crate::mutant::bug;
use crate::settings::Settings;
use crate::sync::Names;
use mrg_base::{Lsn, MemberName, Millis, Moment, Position, Timeline};

pub use crate::sync::Stored;

/// A revision of the DCS: every change has a higher one.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub i64);

/// The `initialize` key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Initialize {
    /// The holder of this lease is making the first data directory.
    InProgress(LeaseId),
    /// The cluster's system identifier.
    Done(u64),
}

/// The leader key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaderKey {
    /// The name that it holds.
    pub member: MemberName,
    /// The lease that owns it.
    pub lease: LeaseId,
    /// When it was created; a later leader has a later one.
    pub created: Revision,
}

/// A member key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what a member says of itself, each independent of the others"
)]
pub struct Member {
    /// The lease that owns it.
    pub lease: LeaseId,
    /// Whether its postgres accepts connections.
    pub running: bool,
    /// Whether it says that it is the primary.
    pub primary: bool,
    /// Its position, as of its last report.
    pub position: Option<Position>,
    /// May it take over? (tag `nofailover`, or `failover_priority: 0`)
    pub may_lead: bool,
    /// May it be a synchronous standby? (tag `nosync`)
    pub may_sync: bool,
    /// It cannot win yet: see [`View::may_have_promised`].
    pub just_started: bool,
    /// When its key was created.
    pub created: Revision,
}

/// A request to hand over, from the `failover` key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SwitchoverRequest {
    /// The leader that is to step down; `None` for a forced failover.
    pub leader: Option<MemberName>,
    /// Who is to take over; `None` for anyone.
    pub candidate: Option<MemberName>,
    /// The key's revision.
    pub revision: Revision,
}

/// Everything in the DCS that the election looks at, as of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// As of when.
    pub revision: Revision,
    /// `initialize`.
    pub initialize: Option<Initialize>,
    /// `leader`.
    pub leader: Option<LeaderKey>,
    /// `sync`, with its revision.
    pub sync: Option<(Revision, Stored)>,
    /// `members/`.
    pub members: BTreeMap<MemberName, Member>,
    /// `failover`.
    pub switchover: Option<SwitchoverRequest>,
    /// `status`: the last LSN that a leader reported.
    pub optime: Option<Lsn>,
    /// The newest timeline that `history` speaks of.
    pub timeline: Option<Timeline>,
    /// Who began it, or was about to.
    pub timeline_of: Option<MemberName>,
    /// `failsafe`: whose promises a leader without DCS needs. A member that is not in it does not
    /// race; without the key no member leads by promises.
    pub failsafe: Option<Failsafe>,
    /// Who belongs to the cluster by its configuration (`config`, `mrg.members`); `None` where it
    /// does not say. A member that is away and not among them will not come back.
    pub expected: Option<BTreeSet<MemberName>>,
}

impl Cluster {
    /// A member that has the same replication slot as this one, by its name, and was there before
    /// it.
    pub fn earlier_with_slot_of(&self, me: &MemberName) -> Option<&MemberName> {
        let slot = me.slot_name();
        let mine = self.members.get(me).map(|member| (member.created, me));
        let earlier = |(name, member): &(&MemberName, &Member)| {
            *name != me
                && name.slot_name() == slot
                && mine.is_none_or(|mine| (member.created, *name) < mine)
        };
        self.members.iter().find(earlier).map(|(name, _)| name)
    }

    /// Whether this member belongs to the cluster, as far as the configuration says.
    pub fn expects(&self, member: &MemberName) -> bool {
        self.expected
            .as_ref()
            .is_none_or(|expected| expected.contains(member))
    }
}

/// The key `failsafe`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Failsafe {
    /// The key's revision.
    pub revision: Revision,
    /// The members listed; none if the key cannot be read.
    pub members: BTreeSet<MemberName>,
    /// Whether it has other addresses than the member keys.
    pub outdated: bool,
}

/// Writes of `failsafe` that may have been done, or may still be, although the key does not show
/// it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InDoubt {
    /// The revision that they compare with.
    pub over: Option<Revision>,
    /// The members that one of them lists.
    pub members: BTreeSet<MemberName>,
    /// Whether one of them deletes the key.
    pub removed: bool,
}

/// What is known of the DCS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DcsView {
    /// Nothing yet.
    Unread,
    /// This is its state, as far as the watch has delivered it.
    Read(Cluster),
    /// It does not answer; this is what it said last.
    Away {
        /// Since when.
        since: Moment,
        /// Its last known state.
        last: Cluster,
    },
}

impl DcsView {
    /// The last known state.
    pub fn last(&self) -> Option<&Cluster> {
        match self {
            DcsView::Unread => None,
            DcsView::Read(cluster) | DcsView::Away { last: cluster, .. } => Some(cluster),
        }
    }

    /// The last known state, to note in it what was just done: also while the DCS is away, or a key
    /// that was let go would count as held.
    pub(crate) fn last_mut(&mut self) -> Option<&mut Cluster> {
        match self {
            DcsView::Unread => None,
            DcsView::Read(cluster) | DcsView::Away { last: cluster, .. } => Some(cluster),
        }
    }
}

/// What `pg_control` says of a data directory at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DataDirectory {
    /// The system identifier.
    pub system_id: u64,
    /// The timeline of the last checkpoint.
    pub timeline: Timeline,
    /// The last checkpoint's position.
    pub checkpoint: Lsn,
    /// Whether it was last written as a primary.
    pub was_primary: bool,
    /// Whether it was shut down in order.
    pub clean: bool,
    /// Whether it was made here for a new cluster, and the cluster was not seen to have taken its
    /// system identifier.
    pub unfinished: bool,
}

/// A WAL sender on the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WalSender {
    /// Whether the standby has caught up and streams.
    pub streaming: bool,
    /// What the standby has flushed.
    pub flushed: Lsn,
}

/// A running primary.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Primary {
    /// The system identifier.
    pub system_id: u64,
    /// Its position.
    pub position: Position,
    /// `synchronous_standby_names`; `None` if it is nothing that we wrote.
    pub names: Option<Names>,
    /// WAL senders, by `application_name`.
    pub senders: BTreeMap<MemberName, WalSender>,
}

/// A standby's WAL receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WalReceiver {
    /// It streams.
    Streaming,
    /// It should, and does not, since then.
    Broken(Moment),
    /// It should, and cannot: the upstream has said that it does not have the WAL any more that
    /// comes next.
    WalRemoved,
    /// None is wanted.
    Stopped,
}

/// A running standby.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Standby {
    /// The system identifier.
    pub system_id: u64,
    /// Its durable position; `None` while local WAL is still being replayed, when it is unknown how
    /// far it reaches.
    pub position: Option<Position>,
    /// The member that it is configured to follow.
    pub upstream: Option<MemberName>,
    /// Its receiver.
    pub receiver: WalReceiver,
    /// Where its own timeline ended, by the newest timeline that it knows of.
    pub fork: Option<Fork>,
}

/// The end of a timeline: WAL beyond it belongs to another history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fork {
    /// The newer timeline that says so.
    pub by: Timeline,
    /// The last position that both have.
    pub at: Lsn,
}

/// The local postgres.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Postgres {
    /// Not looked at yet, or it does not answer.
    Unknown,
    /// There is no data directory.
    NoData,
    /// Nothing runs, and what is in the data directory cannot be started: damaged, or of another
    /// version. It is left as it is.
    Unusable,
    /// It does not run.
    Stopped(DataDirectory),
    /// It runs and does not accept connections yet.
    Starting,
    /// It accepts writes.
    Primary(Primary),
    /// It is in recovery.
    Standby(Standby),
}

/// A race for the leader key that this member takes part in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Race {
    /// Our position, with the WAL receiver stopped.
    pub position: Position,
    /// The answers so far; `None` until they were collected.
    pub votes: Option<Vec<crate::Vote>>,
    /// When they were collected.
    pub asked: Moment,
}

/// How it went when this member last asked for votes, in the present time without a leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Poll {
    /// It did not ask.
    #[default]
    NotAsked,
    /// Enough answered.
    Enough,
    /// Too few answered; members that could win need not wait for it.
    TooFew,
}

/// Pulses of this leader's server that failed in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Silence {
    /// When the first of them was begun.
    pub since: Moment,
    /// How many.
    pub pulses: u32,
}

/// The DCS went back in time: it was emptied, restored from a backup, or replaced. What it says about
/// leadership was true before, if ever, so no member takes over by it until a primary that ran
/// throughout has written the cluster's keys again ([`crate::Reason::RestoreKeys`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DcsReset {
    /// When this member noticed it.
    pub noticed: Moment,
    /// The first revision that was read since: keys with a later one were written after the reset.
    /// `None` before that read.
    pub revision: Option<Revision>,
    /// Since when the keys seem to have been written since the reset. A keepalive that is answered
    /// after that shows that they stand in the DCS that granted this member's lease.
    pub evidence: Option<Moment>,
    /// How long the leader key that this member held in the DCS as it was still protects it: until
    /// then no other member could have acquired it there. `None` if it held none.
    pub held_until: Option<Moment>,
}

/// What a member remembers between decisions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts; what excludes one another is in LeaseKeeper, PromiseRounds and HandOver"
)]
pub struct Memory {
    /// When this process started.
    pub started: Moment,
    /// Whether what an earlier incarnation promised is not known: it may have promised one ttl of
    /// quiet just before it ended.
    pub forgot_promises: bool,
    /// As of when the DCS was read last.
    pub read: Revision,
    /// The last reset of the DCS, until the keys are known to have been written since.
    pub reset: Option<DcsReset>,
    /// The newest timeline that `history` ever spoke of, and who began it: a reset of the DCS may
    /// take that away.
    pub timeline: Option<(Timeline, Option<MemberName>)>,
    /// The longest `ttl` that this process has known: a leader's lease may be of an earlier one.
    pub longest_ttl: Millis,
    /// Whether this process saw a reset come to its end: peers that still doubt noticed it late.
    pub reset_settled: bool,
    /// Writes of this member to `failsafe` that are in doubt.
    pub unsettled: Option<InDoubt>,
    /// Whether the last write of this member failed: if it released its key, no member could take it.
    pub writes_fail: bool,
    /// Since when there has been no leader.
    pub leaderless: Option<Moment>,
    /// Whether this process has ever seen that there is a cluster: it does not make another,
    /// whatever was deleted since.
    pub knows_cluster: bool,
    /// Its system identifier, as this process saw it last.
    pub system_id: Option<u64>,
    /// SIGTERM came.
    pub stop_requested: bool,
    /// A restart of postgres was requested.
    pub restart_requested: bool,
    /// A fresh copy of the leader's data was requested; how often making it has failed.
    pub reinitialize: Option<u32>,
    /// Leases that this process once had.
    pub past_leases: BTreeSet<LeaseId>,
    /// Until when this member promised a leader not to race, vote or promise another.
    pub promised: Option<Promise>,
    /// Until when all members promised us.
    pub held_promises: Option<Moment>,
    /// How it went when this member last asked for votes.
    pub poll: Poll,
    /// Whether a copy of the leader's data did not fit beside ours.
    pub no_space: bool,
    /// How far a hand-over has come.
    pub hand_over: HandOver,
    /// The request for a switchover that was tried: given up because a pooler's transactions did
    /// not end, or done. If it is still there when this member leads, it cannot be done.
    pub abandoned: Option<Revision>,
    /// When this member let the key go after a crash; at most the last ten minutes.
    pub crash_releases: Vec<Moment>,
    /// Since when this member has led without a server that serves; `None` if it serves, or this
    /// member does not lead.
    pub unserved: Option<Moment>,
    /// `None` if the last pulse was answered, or this member does not lead.
    pub silence: Option<Silence>,
    /// When this member last let the key go because its server did not respond.
    pub gave_up: Option<Moment>,
    /// Failed rewinds since the last success.
    pub rewind_failures: u32,
    /// Whether a rewind was done since the WAL receiver last streamed: another one would change
    /// nothing.
    pub rewound: bool,
    /// Failed starts since the last success.
    pub start_failures: u32,
    /// Whether the data was copied afresh since the last start that succeeded: what keeps the server
    /// from starting is not in the data.
    pub copied: bool,
    /// Whether a standby that may take over streamed when postgres was last seen alive.
    pub standby_was_streaming: bool,
    /// Where the primary was when `synchronous_standby_names` was last set; `None` if unknown.
    pub names_set_at: Option<Lsn>,
    /// When we were promoted, or wrote the keys again after a reset of the DCS: the standbys have to
    /// come first.
    pub promoted: Option<Moment>,
    /// Our own tags: may this member lead, and with which priority?
    pub priority: Option<i32>,
}

/// Everything that [`crate::decide`] may look at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Now.
    pub now: Moment,
    /// This member.
    pub me: &'a MemberName,
    /// The settings.
    pub settings: &'a Settings,
    /// Our lease, if one was granted and not lost.
    pub lease: Option<&'a Lease>,
    /// A lease of another ttl, granted since the settings changed, that our keys are to move to.
    pub next_lease: Option<&'a Lease>,
    /// The same, if the leader key may be under it by now, although no answer said so.
    pub moving_to: Option<&'a Lease>,
    /// The DCS.
    pub dcs: &'a DcsView,
    /// Our postgres.
    pub postgres: &'a Postgres,
    /// The race, if we take part in one.
    pub race: Option<&'a Race>,
    /// What we remember.
    pub memory: &'a Memory,
}

impl<'a> View<'a> {
    /// Our lease, if it is surely valid now. While the leader key may have been moved to the next
    /// one, that one must be valid, too.
    pub fn valid_lease(&self) -> Option<&'a Lease> {
        self.lease.filter(|lease| {
            lease.is_valid(self.now) && self.moving_to.is_none_or(|next| next.is_valid(self.now))
        })
    }

    /// Until when our lease proves anything.
    pub fn leased_until(&self) -> Option<Moment> {
        let until = self.valid_lease()?.valid_until;
        Some(
            self.moving_to
                .map_or(until, |next| until.min(next.valid_until)),
        )
    }

    /// Whether the leader key is surely ours: it is owned by our lease, and the lease is valid.
    pub fn holds_key(&self) -> bool {
        let key = self.dcs.last().and_then(|cluster| cluster.leader.as_ref());
        let ours = |key: &LeaderKey, lease: &Lease| {
            if bug!(OwnershipByName) {
                key.member == *self.me
            } else {
                key.lease == lease.id
            }
        };
        matches!((key, self.valid_lease()), (Some(key), Some(lease)) if ours(key, lease))
    }

    /// Whether all members promised to keep quiet long enough, and no other member leads all the
    /// same.
    pub fn holds_promises(&self) -> bool {
        self.memory
            .held_promises
            .is_some_and(|until| self.now < until)
            && self.other_leader().is_none()
    }

    /// Until when the leader key that this member held before a reset of the DCS protects it.
    pub fn held_until(&self) -> Option<Moment> {
        self.memory
            .reset?
            .held_until
            .filter(|until| self.now < *until)
    }

    /// Whether postgres may accept writes here, now.
    pub fn may_write(&self) -> bool {
        self.holds_key() || self.holds_promises() || self.held_until().is_some()
    }

    /// Whether an earlier incarnation may have promised something that still holds.
    pub fn may_have_promised(&self) -> bool {
        self.memory.forgot_promises && self.since(self.memory.started) < self.settings.failover.ttl
    }

    /// Whether this member promised a leader to keep quiet.
    pub fn is_promised(&self) -> bool {
        self.memory
            .promised
            .is_some_and(|promise| self.now < promise.until)
    }

    /// The leader key, if another member holds it.
    pub fn other_leader(&self) -> Option<&'a LeaderKey> {
        let key = self.dcs.last()?.leader.as_ref()?;
        let ours = self.lease.is_some_and(|lease| lease.id == key.lease)
            || self.memory.past_leases.contains(&key.lease);
        if ours { None } else { Some(key) }
    }

    /// The cluster's system identifier: by the DCS, or, where the key was deleted, by what
    /// this member remembers.
    pub fn system_id(&self) -> Option<u64> {
        match self.dcs.last()?.initialize {
            Some(Initialize::Done(system_id)) => Some(system_id),
            Some(Initialize::InProgress(_)) => None,
            None => self.memory.system_id.filter(|_| !bug!(SystemForgotten)),
        }
    }

    /// Time since a moment.
    pub fn since(&self, moment: Moment) -> Millis {
        self.now.since(moment)
    }

    /// Whose promises this leader needs: all members that may race. `None` if that is not known.
    pub fn electors(&self) -> Option<BTreeSet<MemberName>> {
        let cluster = self.dcs.last()?;
        // What was read before this leadership may lack whom the last leader listed.
        if cluster
            .leader
            .as_ref()
            .is_some_and(|key| self.memory.read < key.created)
        {
            return None;
        }
        let mut members = cluster.failsafe.as_ref()?.members.clone();
        members.extend(self.peers());
        if let Some(unsettled) = &self.memory.unsettled {
            if unsettled.removed {
                return None;
            }
            members.extend(unsettled.members.iter().cloned());
        }
        members.remove(self.me);
        Some(members)
    }

    /// Members other than this one whose key is there.
    pub fn peers(&self) -> BTreeSet<MemberName> {
        let members = self.dcs.last().map(|cluster| &cluster.members);
        members
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
            .filter(|name| *name != self.me)
            .cloned()
            .collect()
    }
}
