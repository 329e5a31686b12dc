//! The closed list of reasons. One reason is the log line, the metric label, the Kubernetes event
//! and the heading in docs/ha.md.

/// Why a member did what it did, or did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Postgres accepts writes and nothing proves that it may.
    WriterWithoutLease,
    /// SIGTERM.
    ShuttingDown,
    /// The DCS has not been read yet.
    DcsUnread,
    /// The DCS does not answer.
    DcsAway,
    /// The leader's postgres has not come up in time and a standby takes over.
    StartTimedOut,
    /// The leader's postgres does not respond to clients and a standby takes over.
    Unresponsive,
    /// It does not respond, and no standby may take over.
    UnresponsiveAlone,
    /// It does not respond, as it did not a short time ago.
    UnresponsiveAgain,
    /// The DCS went back in time, and nothing written since settles who leads.
    DcsReset,
    /// The DCS went back in time; this primary ran throughout and writes the cluster's keys again.
    RestoreKeys,
    /// The state of the local postgres is not known yet.
    PostgresUnknown,
    /// Another process holds this member's name.
    NameTaken,
    /// Another member's replication slot has the name of this one's.
    SlotTaken,
    /// A person asked to replace the data here by a copy of the leader's.
    Reinitialize,
    /// No lease could be had yet.
    NoLease,
    /// The cluster is paused.
    Paused,
    /// The data directory is what is left of a cluster that was never made whole.
    UnfinishedBootstrap,
    /// The data directory belongs to another cluster.
    WrongSystem,
    /// There was a cluster, and its `initialize` key is gone.
    InitializeMissing,
    /// The first member makes the cluster.
    Bootstrap,
    /// Another member makes the cluster.
    BootstrapElsewhere,
    /// There is nobody to copy the data from.
    NoLeaderToCopy,
    /// The data directory is copied from the leader.
    CopyFromLeader,
    /// Postgres is starting.
    Starting,
    /// The leader's postgres crashed and a standby takes over.
    CrashedFailover,
    /// The leader's postgres crashed and recovers in place.
    CrashedRestart,
    /// What is in the data directory cannot be used.
    UnusableData,
    /// Postgres is down for a hand-over and the key is let go.
    HandOver,
    /// A promotion was interrupted and is finished.
    FinishPromotion,
    /// The key is held by a standby that may not promote.
    GiveBackKey,
    /// The key expired while all members had promised to wait for us.
    Reclaim,
    /// A switchover was asked for.
    Switchover,
    /// A switchover came to its end.
    SwitchoverDone,
    /// A switchover was asked for that cannot be done.
    SwitchoverRefused,
    /// A restart of postgres was asked for.
    RestartRequested,
    /// What the poolers were paused for is done, or did not happen.
    ResumePoolers,
    /// The ttl changed, and the leader key moves to a lease of the new one.
    ChangeLease,
    /// The system identifier is written to the DCS.
    StoreSystemId,
    /// `/sync` is narrowed, before the names change.
    NarrowSync,
    /// `synchronous_standby_names` is changed.
    ChangeSyncNames,
    /// `/sync` is brought to what the names now guarantee.
    WidenSync,
    /// The leader leads.
    Leading,
    /// A former primary joins the new leader.
    Rejoin,
    /// Following the leader does not work, so the data directory is rewound or copied.
    Diverged,
    /// A stopped standby starts.
    StartStandby,
    /// A standby turns to the new leader.
    FollowLeader,
    /// The standby follows.
    Following,
    /// `initialize` is gone, and this member has no record that its data is this cluster's.
    SystemUnknown,
    /// Postgres starts without an upstream, to learn how far its WAL reaches.
    StartToRace,
    /// Local WAL is still being replayed.
    Replaying,
    /// This process started less than a ttl ago, without a record of what the one before promised.
    JustStarted,
    /// A leader was promised to be waited for.
    Promised,
    /// This member is not among those whose promises a leader without DCS asks for, so one may lead
    /// unseen.
    NotInFailsafe,
    /// The dynamic configuration says that the cluster follows another one.
    StandbyCluster,
    /// The tags forbid this member to lead.
    MayNotLead,
    /// A switchover names another member.
    SwitchoverToOther,
    /// The synchronous modes need `/sync`, and it is not there.
    SyncStateMissing,
    /// This member is not in `/sync`, so it may lack acknowledged commits.
    NotInSync,
    /// The history knows a newer timeline than this member has.
    OldTimeline,
    /// This member is too far behind.
    TooFarBehind,
    /// The WAL receiver is stopped and the peers are asked.
    Race,
    /// Too few members answered.
    TooFewVotes,
    /// Another member is ahead, or preferred.
    Outrun,
    /// The race is won.
    Win,
}

impl Reason {
    /// The metric label and event reason.
    pub fn label(self) -> String {
        format!("{self:?}")
    }

    /// Whether it is in the way of this member for longer than a step takes: somebody who reads why
    /// nobody leads should read it.
    pub fn is_obstacle(self) -> bool {
        matches!(
            self,
            Reason::NameTaken
                | Reason::DcsReset
                | Reason::SlotTaken
                | Reason::Paused
                | Reason::WrongSystem
                | Reason::UnusableData
                | Reason::UnresponsiveAlone
                | Reason::UnresponsiveAgain
                | Reason::InitializeMissing
                | Reason::NoLeaderToCopy
                | Reason::SystemUnknown
                | Reason::Replaying
                | Reason::JustStarted
                | Reason::Promised
                | Reason::NotInFailsafe
                | Reason::StandbyCluster
                | Reason::MayNotLead
                | Reason::SwitchoverToOther
                | Reason::SyncStateMissing
                | Reason::NotInSync
                | Reason::OldTimeline
                | Reason::TooFarBehind
                | Reason::TooFewVotes
        )
    }

    /// One sentence for the log and for `kubectl describe`.
    #[expect(clippy::too_many_lines, reason = "one sentence for each")]
    pub fn sentence(self) -> &'static str {
        match self {
            Reason::WriterWithoutLease => {
                "postgres accepts writes without a lease that proves it may; killed"
            }
            Reason::ShuttingDown => "stopping in order",
            Reason::DcsUnread => "waiting for the first answer of etcd",
            Reason::DcsAway => "etcd does not answer; nothing is decided without it",
            Reason::StartTimedOut => {
                "postgres has not come up within primary_start_timeout; killed, and the leader key is released to a standby"
            }
            Reason::Unresponsive => {
                "postgres accepts no new client or commits nothing; killed, and the leader key is released to a standby"
            }
            Reason::UnresponsiveAlone => {
                "postgres accepts no new client or commits nothing, and no standby may take over; waiting for either"
            }
            Reason::UnresponsiveAgain => {
                "postgres accepts no new client or commits nothing, less than ten minutes after the leader key was released for that; waiting"
            }
            Reason::DcsReset => {
                "etcd is empty, older than it was, or another one; no member takes over by what it says; waiting for the primary, or write /sync by hand to choose"
            }
            Reason::RestoreKeys => {
                "etcd is empty, older than it was, or another one; this primary ran throughout and writes the cluster's keys again"
            }
            Reason::PostgresUnknown => "waiting for the state of postgres",
            Reason::NameTaken => {
                "another process holds this member's name in etcd; waiting until its lease ends, the data is not touched"
            }
            Reason::SlotTaken => {
                "another member was here first whose name gives the same replication slot; the data is not touched; rename this member and start it again"
            }
            Reason::Reinitialize => "replacing the data by a copy of the leader's, as asked",
            Reason::NoLease => "waiting for a lease",
            Reason::Paused => "the cluster is paused; `patronictl resume` ends that",
            Reason::UnfinishedBootstrap => {
                "the data here was made for a new cluster that did not come to be; removing it"
            }
            Reason::WrongSystem => {
                "the data directory belongs to another cluster (system identifier differs); move it away to let the member copy afresh"
            }
            Reason::InitializeMissing => {
                "no data here, and /initialize is missing although other keys tell of a cluster; not making a new one over it; bring a member with data back, or, to start over, delete all keys and restart the members"
            }
            Reason::Bootstrap => "making a new cluster",
            Reason::BootstrapElsewhere => "waiting for another member that makes the cluster",
            Reason::SystemUnknown => {
                "no leader, and /initialize is missing: nothing tells whether the data here is this cluster's; write the system identifier that the members agree on into /initialize"
            }
            Reason::NoLeaderToCopy => {
                "no data here and no leader to copy it from; waiting for a leader"
            }
            Reason::CopyFromLeader => "copying the data from the leader",
            Reason::Starting => "postgres is starting",
            Reason::CrashedFailover => {
                "postgres died; the leader key is released to a streaming standby"
            }
            Reason::CrashedRestart => "postgres died; restarting it in place",
            Reason::UnusableData => {
                "the data directory cannot be used, and is left alone; `unusable_data` in the member key says why; move it away to let the member copy afresh"
            }
            Reason::HandOver => "postgres is down in order; the leader key is released",
            Reason::FinishPromotion => "finishing an interrupted promotion",
            Reason::GiveBackKey => "holding the leader key without the right to promote; released",
            Reason::Reclaim => {
                "etcd is back and the leader key is gone; taking it again, as all members promised"
            }
            Reason::Switchover => "handing over to another member",
            Reason::SwitchoverDone => "the switchover is done; the request is cleared",
            Reason::SwitchoverRefused => "the switchover cannot be done; the request is cleared",
            Reason::RestartRequested => "restarting postgres as asked",
            Reason::ResumePoolers => "letting the poolers go on",
            Reason::ChangeLease => {
                "the ttl changed; moving the leader key to a lease of the new one"
            }
            Reason::StoreSystemId => "writing the system identifier",
            Reason::NarrowSync => "narrowing the set of members that may take over",
            Reason::ChangeSyncNames => "changing synchronous_standby_names",
            Reason::WidenSync => "adjusting the set of members that may take over",
            Reason::Leading => "leading",
            Reason::Rejoin => "a former primary joins the new leader",
            Reason::Diverged => "cannot follow the leader from here; rewinding or copying the data",
            Reason::StartStandby => "starting as a standby",
            Reason::FollowLeader => "turning to the new leader",
            Reason::Following => "following the leader",
            Reason::StartToRace => "no leader; starting to learn how far the local WAL reaches",
            Reason::Replaying => "no leader; still replaying local WAL",
            Reason::JustStarted => {
                "no leader; no record of this member's promises; not racing within one ttl of the start, since one may still hold"
            }
            Reason::Promised => "no leader; a promise not to race still holds",
            Reason::NotInFailsafe => {
                "no leader; this member is not in the failsafe key, so a leader without etcd would not have asked it; waiting"
            }
            Reason::StandbyCluster => {
                "the dynamic configuration has standby_cluster, and a primary here would be a second one beside that cluster's; remove it to run a cluster of its own, or keep Patroni on this one"
            }
            Reason::MayNotLead => "no leader; this member's tags forbid it to lead",
            Reason::SwitchoverToOther => "no leader; a switchover names another member",
            Reason::SyncStateMissing => {
                "no leader, and /sync is missing: which members have every acknowledged commit is unknown; write /sync by hand to choose"
            }
            Reason::NotInSync => {
                "no leader; this member is not in /sync and may lack acknowledged commits"
            }
            Reason::OldTimeline => {
                "no leader; this member's timeline is older than the cluster's history"
            }
            Reason::TooFarBehind => {
                "no leader; this member is further behind than maximum_lag_on_failover"
            }
            Reason::Race => "no leader; asking the others",
            Reason::TooFewVotes => "no leader; too few members answered",
            Reason::Outrun => "no leader; another member is ahead",
            Reason::Win => "taking the leader key",
        }
    }
}
