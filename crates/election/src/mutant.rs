//! Bugs made by hand, one at a time, to see that the proofs find them. Only builds with the feature
//! `proof` have them.

/// Whether this bug is in force. Without the feature `proof` it is the constant `false`.
#[macro_export]
macro_rules! bug {
    ($name:ident) => {{
        #[cfg(feature = "proof")]
        let is = $crate::mutant::is($crate::mutant::Mutant::$name);
        #[cfg(not(feature = "proof"))]
        let is = false;
        is
    }};
}
pub use bug;

/// Whether this build has the bugs. Programs that ship refuse to compile if it does.
pub const COMPILED_IN: bool = cfg!(feature = "proof");

#[cfg(feature = "proof")]
pub use list::{Mutant, is, set};

#[cfg(feature = "proof")]
mod list {
    use std::cell::Cell;

    macro_rules! mutants {
        ($($(#[$doc:meta])* $name:ident,)*) => {
            /// A bug.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub enum Mutant { $($(#[$doc])* $name,)* }

            impl Mutant {
                /// Every bug.
                pub const ALL: &[Mutant] = &[$(Mutant::$name),*];

                /// Its name.
                pub fn name(self) -> &'static str {
                    match self { $(Mutant::$name => stringify!($name),)* }
                }
            }
        };
    }

    mutants! {
        /// The fence is never armed.
        FenceNeverArmed,
        /// The lease is counted from the answer, not from the question.
        LeaseCountsFromAnswer,
        /// Nothing is kept in hand before the lease ends.
        NoFenceMargin,
        /// Members take over by what a DCS says that went back in time.
        ResetIgnored,
        /// The leader key of before a reset protects its holder without end.
        FormerKeyHoldsForEver,
        /// `/sync` stays as it is in a DCS that went back in time.
        FormerSyncKept,
        /// What came of a step in the DCS before a reset is taken for what the DCS holds now.
        OvertakenStepCounts,
        /// A candidate does not heed a peer that knows that the DCS went back in time.
        DoubtNotShared,
        /// What seems to have been written since a reset is believed without a keepalive.
        EvidenceUnconfirmed,
        /// A lease that is gone before its time says nothing about the DCS.
        LostLeaseIgnored,
        /// Of a timeline that only `history` told of nothing is remembered.
        TimelineForgotten,
        /// Snapshots of a DCS that went back in time are dropped as old.
        ResetUnnoticed,
        /// A primary that lost its key goes on.
        WriterGoesOn,
        /// The leader key is ours if it holds our name.
        OwnershipByName,
        /// A voter answers while its WAL receiver runs.
        VoterKeepsReceiver,
        /// A candidate asks while its WAL receiver runs.
        CandidateKeepsReceiver,
        /// The position of an earlier race is told as today's.
        RaceOutlivesServer,
        /// A member votes whatever cluster its data is of.
        ForeignVotes,
        /// A winner goes on although its server ended since.
        WinsWithoutServer,
        /// One vote fewer than `/sync` asks for is enough.
        OneVoteFewer,
        /// Members outside `/sync` stand.
        AnybodyStands,
        /// A member that is behind takes the key all the same.
        LaggardWins,
        /// The new leader does not take `/sync` for itself.
        SyncNotTaken,
        /// Promotion before the names say who must confirm.
        NamesNotSet,
        /// The names change before `/sync` is narrowed.
        NamesBeforeNarrowing,
        /// `/sync` widens before the names change.
        WidensBeforeNames,
        /// `/sync` widens to standbys that have not caught up.
        WidensToLaggards,
        /// `/sync` is written whatever it is by now.
        SyncWithoutCompare,
        /// The leader key is taken although it is there.
        AcquireWithoutCompare,
        /// The leader key is released although it is not ours.
        ReleaseWithoutCompare,
        /// `history` is written whatever it is by now.
        HistoryWithoutCompare,
        /// The key is released although no member can win yet.
        ReleasesToTheJustStarted,
        /// The key is released although the DCS takes no writes, so that no member can take it.
        ReleasesWhileWritesFail,
        /// A rewind that changed nothing is done again.
        RewindsForEver,
        /// Data that does not start is copied again and again.
        CopiesForEver,
        /// A rewind is tried where the leader has removed the WAL.
        RemovedWalRewound,
        /// A request for a copy outlives the leader that was to be copied.
        ReinitializeKept,
        /// A copy that fails is tried again and again.
        ReinitializesForEver,
        /// Two members share a replication slot.
        SlotShared,
        /// A member of a cluster that is to follow another one is promoted.
        SecondPrimary,
        /// The leader key is released while postgres stops.
        ReleasedTooEarly,
        /// That the key was released is not noted while etcd is away.
        ReleaseForgotten,
        /// The fence rests because the server is still a standby, while it is being promoted.
        PromotionUnfenced,
        /// The fence does not know that the key may hang off a shorter lease.
        MoveUnfenced,
        /// A leader keeps the key although its data cannot be used.
        UnusableLeads,
        /// A leader whose server does not serve keeps the key.
        SickLeaderStays,
        /// A leader whose server does not respond gives up however short the last time is ago.
        GivesUpAgain,
        /// A standby's files are started as a primary's.
        StandbyStartedAsPrimary,
        /// A member that is behind the newest timeline stands.
        OldTimelineStands,
        /// A timeline is begun that nobody was told of.
        TimelineNotReserved,
        /// A promise is forgotten at once.
        PromiseForgotten,
        /// A leader goes on with some promises.
        SomePromisesSuffice,
        /// A leader that let the key go still counts on promises.
        PromisesOutliveRelease,
        /// A member is listed as one that may race although the promises that count are not its.
        ListsWhilePromised,
        /// Members that are not asked for promises race.
        UnlistedRaces,
        /// A member promises while it takes part in an election.
        PromisesWhileRacing,
        /// A member promises although the key is gone.
        PromisesWithoutKey,
        /// News that is older than what is known is believed.
        OldNewsBelieved,
        /// A cluster that is still being made is copied.
        CopiesUnfinished,
        /// A new cluster is made although there are traces of one.
        BootstrapsOverTraces,
        /// A member does not remember that there was a cluster.
        ClusterForgotten,
        /// Data of whatever cluster leads while `initialize` is missing.
        AnySystemLeads,
        /// Another cluster's data may lead once `initialize` is gone.
        SystemForgotten,
        /// What is left of a cluster that was never whole is kept.
        UnfinishedKept,
        /// A claim whose answer was lost is taken for another's.
        ClaimNotRecognised,
        /// That etcd answered is not noted if the answer was overtaken.
        OvertakenReadForgotten,
        /// A read that was overtaken is waited for for ever.
        OvertakenReadAwaited,
        /// One that cannot win holds up those who can.
        HopelessCandidateInsists,
        /// Diverged WAL is left as it is.
        DivergenceIgnored,
        /// A pool lets its clients through to any server that answers.
        PoolTrustsAnybody,
        /// A pool lets its clients through without a fresh read.
        PoolTrustsOldNews,
        /// A request to pause is heeded under another leader, too.
        PauseOutlivesLeader,
        /// A pool says that it is drained when it is not.
        PoolSaysDrained,
        /// Any snapshot answers a linearizable read.
        AnySnapshotAnswers,
        /// A snapshot is taken that is older than the last.
        OldSnapshotTaken,
        /// A vote is given without a read although a leader is known.
        VotesUnread,
        /// Votes that wait for a later read are dropped.
        LaterVotesDropped,
        /// A pooler that does not acknowledge a request is waited for.
        SilentPoolersAwaited,
        /// A pooler that drained for an earlier request counts.
        FormerPauseCounts,
        /// The poolers are asked and not waited for.
        PauseNotAwaited,
        /// Transactions that do not end are waited for without end.
        PauseWithoutEnd,
        /// A shutdown is abandoned for open transactions.
        ShutdownAbandoned,
        /// The request to the poolers stays when the switchover is abandoned.
        PauseLeftBehind,
        /// A member key that is gone is not written again.
        LostKeyNotRewritten,
        /// A member key stays under a lease that was replaced.
        KeyUnderFormerLease,
        /// A change of role waits for the next loop.
        UrgentChangeWaits,
        /// A member that lost the leader key writes `status` and `history`.
        FormerLeaderPublishes,
        /// `status` is written of a cluster that is still being made.
        StatusOfUnfinished,
        /// `history` is written over a newer timeline that was reserved.
        ReservedTimelineUndone,
        /// A deleted `config` is not written again.
        ConfigNotRestored,
        /// Settings that were never read from `config` count as read.
        UnreadConfigRestored,
        /// A slot is dropped as soon as its member is away.
        SlotDroppedAtOnce,
    }

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = Cell::new(by_environment());
    }

    /// The bug that `MRG_MUTANT` names: for test programs that know nothing of bugs.
    fn by_environment() -> Option<Mutant> {
        let name = std::env::var("MRG_MUTANT").ok()?;
        Mutant::ALL
            .iter()
            .copied()
            .find(|mutant| mutant.name() == name)
    }

    /// Puts a bug in force, in this thread.
    pub fn set(mutant: Option<Mutant>) {
        ACTIVE.set(mutant);
    }

    /// Whether a bug is in force, in this thread.
    pub fn is(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }
}
