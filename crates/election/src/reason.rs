//! The closed list of reasons. One reason is the log line, the metric label, the Kubernetes event
//! and the heading in docs/ha.md.

/// Why a member did what it did, or did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// Postgres accepts writes and nothing proves that it may.
    WriterWithoutLease,
    /// SIGTERM.
    ShuttingDown,
    /// The DCS has not been read yet.
    DcsUnread,
    /// The DCS does not answer.
    DcsAway,
    /// The state of the local postgres is not known yet.
    PostgresUnknown,
    /// Another process holds this member's name.
    NameTaken,
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

impl Why {
    /// The metric label and event reason.
    pub fn label(self) -> String {
        format!("{self:?}")
    }

    /// Whether it is in the way of this member for longer than a step takes: somebody who reads why
    /// nobody leads should read it.
    pub fn is_obstacle(self) -> bool {
        matches!(
            self,
            Why::NameTaken
                | Why::Paused
                | Why::WrongSystem
                | Why::InitializeMissing
                | Why::NoLeaderToCopy
                | Why::SystemUnknown
                | Why::Replaying
                | Why::JustStarted
                | Why::Promised
                | Why::NotInFailsafe
                | Why::MayNotLead
                | Why::SwitchoverToOther
                | Why::SyncStateMissing
                | Why::NotInSync
                | Why::OldTimeline
                | Why::TooFarBehind
                | Why::TooFewVotes
        )
    }

    /// One sentence for the log and for `kubectl describe`.
    pub fn sentence(self) -> &'static str {
        match self {
            Why::WriterWithoutLease => {
                "postgres accepts writes without a lease that proves it may; killed"
            }
            Why::ShuttingDown => "stopping in order",
            Why::DcsUnread => "waiting for the first answer of etcd",
            Why::DcsAway => "etcd does not answer; nothing is decided without it",
            Why::PostgresUnknown => "waiting for the state of postgres",
            Why::NameTaken => {
                "another process holds this member's name in etcd; waiting until its lease ends, the data is not touched"
            }
            Why::NoLease => "waiting for a lease",
            Why::Paused => "the cluster is paused; `patronictl resume` ends that",
            Why::UnfinishedBootstrap => {
                "the data here was made for a new cluster that did not come to be; removing it"
            }
            Why::WrongSystem => {
                "the data directory belongs to another cluster (system identifier differs); move it away to let the member copy afresh"
            }
            Why::InitializeMissing => {
                "no data here, and /initialize is missing although other keys tell of a cluster; not making a new one over it; bring a member with data back, or, to begin anew, delete all keys and restart the members"
            }
            Why::Bootstrap => "making a new cluster",
            Why::BootstrapElsewhere => "waiting for another member that makes the cluster",
            Why::SystemUnknown => {
                "no leader, and /initialize is missing: nothing tells whether the data here is this cluster's; write the system identifier that the members agree on into /initialize"
            }
            Why::NoLeaderToCopy => {
                "no data here and no leader to copy it from; waiting for a leader"
            }
            Why::CopyFromLeader => "copying the data from the leader",
            Why::Starting => "postgres is starting",
            Why::CrashedFailover => {
                "postgres died; the leader key is released to a streaming standby"
            }
            Why::CrashedRestart => "postgres died; restarting it in place",
            Why::HandOver => "postgres is down in order; the leader key is released",
            Why::FinishPromotion => "finishing an interrupted promotion",
            Why::GiveBackKey => "holding the leader key without the right to promote; released",
            Why::Reclaim => {
                "etcd is back and the leader key is gone; taking it again, as all members promised"
            }
            Why::Switchover => "handing over to another member",
            Why::SwitchoverDone => "the switchover is done; the request is cleared",
            Why::SwitchoverRefused => "the switchover cannot be done; the request is cleared",
            Why::RestartRequested => "restarting postgres as asked",
            Why::ResumePoolers => "letting the poolers go on",
            Why::ChangeLease => "the ttl changed; moving the leader key to a lease of the new one",
            Why::StoreSystemId => "writing the system identifier",
            Why::NarrowSync => "narrowing the set of members that may take over",
            Why::ChangeSyncNames => "changing synchronous_standby_names",
            Why::WidenSync => "adjusting the set of members that may take over",
            Why::Leading => "leading",
            Why::Rejoin => "a former primary joins the new leader",
            Why::Diverged => "cannot follow the leader from here; rewinding or copying the data",
            Why::StartStandby => "starting as a standby",
            Why::FollowLeader => "turning to the new leader",
            Why::Following => "following the leader",
            Why::StartToRace => "no leader; starting to learn how far the local WAL reaches",
            Why::Replaying => "no leader; still replaying local WAL",
            Why::JustStarted => {
                "no leader; no record of this member's promises; not racing within one ttl of the start, since one may still hold"
            }
            Why::Promised => "no leader; a promise not to race still holds",
            Why::NotInFailsafe => {
                "no leader; this member is not in the failsafe key, so a leader without etcd would not have asked it; waiting"
            }
            Why::MayNotLead => "no leader; this member's tags forbid it to lead",
            Why::SwitchoverToOther => "no leader; a switchover names another member",
            Why::SyncStateMissing => {
                "no leader, and /sync is missing: nobody can tell who has every acknowledged commit; write /sync by hand to choose"
            }
            Why::NotInSync => {
                "no leader; this member is not in /sync and may lack acknowledged commits"
            }
            Why::OldTimeline => {
                "no leader; this member's timeline is older than the cluster's history"
            }
            Why::TooFarBehind => {
                "no leader; this member is further behind than maximum_lag_on_failover"
            }
            Why::Race => "no leader; asking the others",
            Why::TooFewVotes => "no leader; too few members answered",
            Why::Outrun => "no leader; another member is ahead",
            Why::Win => "taking the leader key",
        }
    }
}
