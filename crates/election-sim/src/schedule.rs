//! What a seed means: the cluster, its timers and delays, and everything that goes wrong, with its
//! times. The faults are a list, so that a failing one can be made shorter.

use crate::random::Random;
use mrg_base::Millis;
use mrg_election::{Failover, Mode, OnCrash, Replication, Settings};

/// In the place of a member: whoever leads when it happens.
pub(crate) const LEADER: usize = usize::MAX;

/// Something goes wrong, or somebody does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to the postmaster.
    KillPostmaster(usize),
    /// SIGKILL to the agent; its fence ends postgres. It starts again after so long.
    KillAgent(usize, u64),
    /// The agent and its fence and postgres, at once.
    KillContainer(usize, u64),
    /// The machine loses its power: what was not flushed is lost.
    KillHost(usize, u64),
    /// SIGSTOP to the agent alone.
    PauseAgent(usize, u64),
    /// The whole machine stands still.
    PauseHost(usize, u64),
    /// The agent is asked to stop, and starts again after so long.
    Stop(usize, u64),
    /// Nothing gets from one to the other. The number behind the members is etcd, those behind it
    /// are the poolers.
    Cut(usize, usize, u64),
    /// A member loses its network, in both directions.
    Isolate(usize, u64),
    /// etcd has no leader.
    EtcdSilent(u64),
    /// What a member's watch tells comes late.
    WatchLags(usize, u64),
    /// Everything between any two is slow.
    NetworkSlow(u64),
    /// The disk of a member is full.
    DiskFull(usize, u64),
    /// The running server of a member commits nothing any more, until it ends.
    Hang(usize),
    /// SIGKILL to the postmaster, and the next one as a primary does not get ready.
    StartForever(usize),
    /// The files of a member are gone.
    LoseData(usize),
    /// A volume of another cluster is in the place of a member's.
    ForeignData(usize),
    /// Somebody asks for a switchover: to this member, or to any.
    Switchover(Option<usize>),
    /// Somebody asks for a restart of a member's postgres.
    Restart(usize),
    /// Somebody asks for a fresh copy of the leader's data on a member.
    Reinitialize(usize),
    /// Somebody changes the settings.
    Reconfigure(u64),
    /// Somebody pauses the cluster for so long.
    PauseCluster(u64),
    /// Somebody deletes the leader key.
    DeleteLeader,
    /// Somebody deletes `initialize`.
    DeleteInitialize,
    /// Somebody deletes `failsafe`.
    DeleteFailsafe,
    /// Somebody deletes `sync`.
    DeleteSync,
    /// Somebody deletes `config`.
    DeleteConfig,
    /// Somebody deletes every key.
    DeleteEverything,
    /// Somebody makes a backup of etcd.
    BackUpEtcd,
    /// etcd goes back to its backup, or to nothing without one.
    RestoreEtcd,
    /// etcd loses everything.
    LoseEtcd,
    /// A pooler is killed and starts again.
    KillPooler(usize, u64),
    /// A pooler stands still.
    PausePooler(usize, u64),
}

/// How long things take, in milliseconds: usually, and at most.
#[derive(Clone, Copy, Debug)]
pub struct Delays {
    /// A message.
    pub network: (u64, u64),
    /// A flush.
    pub fsync: (u64, u64),
    /// A start of postgres.
    pub start: (u64, u64),
    /// A checkpoint or an orderly stop.
    pub checkpoint: (u64, u64),
    /// A promotion.
    pub promote: (u64, u64),
    /// A rewind or a copy of everything.
    pub copy: (u64, u64),
    /// Messages lost, of a thousand.
    pub lost: u64,
}

impl Fault {
    /// The same with the leader in the place of [`LEADER`].
    #[must_use]
    pub fn at(self, leader: usize) -> Self {
        let of = |member: usize| if member == LEADER { leader } else { member };
        match self {
            Fault::KillPostmaster(member) => Fault::KillPostmaster(of(member)),
            Fault::KillAgent(member, wait) => Fault::KillAgent(of(member), wait),
            Fault::KillContainer(member, wait) => Fault::KillContainer(of(member), wait),
            Fault::KillHost(member, wait) => Fault::KillHost(of(member), wait),
            Fault::PauseAgent(member, wait) => Fault::PauseAgent(of(member), wait),
            Fault::PauseHost(member, wait) => Fault::PauseHost(of(member), wait),
            Fault::Stop(member, wait) => Fault::Stop(of(member), wait),
            Fault::Isolate(member, wait) => Fault::Isolate(of(member), wait),
            Fault::WatchLags(member, wait) => Fault::WatchLags(of(member), wait),
            Fault::DiskFull(member, wait) => Fault::DiskFull(of(member), wait),
            Fault::Hang(member) => Fault::Hang(of(member)),
            Fault::StartForever(member) => Fault::StartForever(of(member)),
            Fault::Restart(member) => Fault::Restart(of(member)),
            Fault::Reinitialize(member) => Fault::Reinitialize(of(member)),
            other => other,
        }
    }
}

/// A day.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Decides everything that is not said here.
    pub seed: u64,
    /// How many members.
    pub members: usize,
    /// How many poolers.
    pub poolers: usize,
    /// The settings at the beginning.
    pub settings: Settings,
    /// How each clock is off, in parts per million; etcd's is the last.
    pub skew: Vec<i64>,
    /// See [`Delays`].
    pub delays: Delays,
    /// How often a client writes, in milliseconds.
    pub think: u64,
    /// What happens, each so long after the one before, or a moment after the cluster is whole
    /// again if that is sooner.
    pub faults: Vec<(u64, Fault)>,
    /// Everything is mended so long after the last.
    pub heal_after: u64,
}

/// The kinds of faults, so that a seed can choose some.
const KINDS: u64 = 27;

/// The most of each clock's error, in parts per million: a bad quartz has 100, and what steers it
/// 500.
const SKEW: [u64; 3] = [500, 5_000, 20_000];

impl Schedule {
    /// The day of a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::fork(seed, 1);
        let members = [3, 3, 3, 3, 2, 4, 5][random.index(7)];
        let poolers = random.index(3);
        let mut settings = settings(&mut random);
        // More than all can never confirm.
        settings.replication.count = settings.replication.count.min(members - 1);
        let skew = if random.chance(500) {
            let most = SKEW[random.index(SKEW.len())];
            (0..=members)
                .map(|_| random.between(0, 2 * most).cast_signed() - most.cast_signed())
                .collect()
        } else {
            vec![0; members + 1]
        };
        let delays = delays(&mut random);
        let think = random.between(20, 300);
        let faults = faults(&mut random, members, poolers, settings.failover.ttl.0);
        let heal_after = random.between(0, 2 * settings.failover.ttl.0);
        Self {
            seed,
            members,
            poolers,
            settings,
            skew,
            delays,
            think,
            faults,
            heal_after,
        }
    }
}

/// Settings by chance; all of them legal.
pub(crate) fn settings(random: &mut Random) -> Settings {
    let (ttl, loop_wait, retry_timeout) =
        [(3, 1, 1), (5, 1, 2), (10, 2, 3), (10, 2, 3), (30, 10, 10)][random.index(5)];
    let mode = [
        Mode::Async,
        Mode::Sync,
        Mode::Sync,
        Mode::Quorum,
        Mode::Quorum,
        Mode::Quorum,
    ][random.index(6)];
    Settings {
        failover: Failover {
            ttl: Millis::seconds(ttl),
            loop_wait: Millis::seconds(loop_wait),
            retry_timeout: Millis::seconds(retry_timeout),
            maximum_lag_bytes: 1 << 20,
            on_crash: [
                OnCrash::Auto,
                OnCrash::Auto,
                OnCrash::Failover,
                OnCrash::Restart,
            ][random.index(4)],
            failsafe: random.chance(800),
            // Short against the day, as `unresponsive_after` is.
            primary_start_timeout: Millis::seconds([0, 15, 30][random.index(3)]),
            ..Settings::default().failover
        },
        replication: Replication {
            mode,
            count: [1, 1, 1, 2][random.index(4)],
            strict: random.chance(300),
        },
        paused: false,
        use_rewind: random.chance(800),
        standby_cluster: false,
    }
}

fn delays(random: &mut Random) -> Delays {
    let slow = random.chance(200);
    let most = |random: &mut Random, quick: u64, slowest: u64| {
        if slow {
            random.between(quick, slowest)
        } else {
            quick
        }
    };
    Delays {
        network: (random.between(1, 4), most(random, 10, 400)),
        fsync: (random.between(0, 3), most(random, 10, 800)),
        start: (random.between(20, 300), most(random, 600, 12_000)),
        checkpoint: (random.between(5, 120), most(random, 300, 20_000)),
        promote: (random.between(10, 120), most(random, 200, 3_000)),
        copy: (random.between(100, 1_500), most(random, 2_000, 15_000)),
        lost: [0, 0, 2, 20, 80][random.index(5)],
    }
}

fn faults(random: &mut Random, members: usize, poolers: usize, ttl: u64) -> Vec<(u64, Fault)> {
    // Swarm testing (Groce et al., 2012): a few kinds of faults at a time find more than all kinds
    // always.
    let enabled: Vec<u64> = {
        let share = [120, 250, 500, 1000][random.index(4)];
        let some: Vec<u64> = (0..KINDS).filter(|_| random.chance(share)).collect();
        if some.is_empty() {
            vec![random.below(KINDS)]
        } else {
            some
        }
    };
    let count = random.between(2, 24);
    let pause = [500, 4_000, 15_000, 15_000][random.index(4)];
    // The first members come up before anything breaks, most of the time.
    let mut wait = if random.chance(900) {
        6_000 + ttl
    } else {
        random.between(0, 5_000)
    };
    let mut list = Vec::new();
    for _ in 0..count {
        let kind = enabled[random.index(enabled.len())];
        list.push((wait, fault(random, kind, members, poolers, ttl)));
        wait = if random.chance(250) {
            random.between(0, 20)
        } else {
            random.between(0, 2 * pause)
        };
    }
    list
}

fn fault(random: &mut Random, kind: u64, members: usize, poolers: usize, ttl: u64) -> Fault {
    let member = if random.chance(500) {
        LEADER
    } else {
        random.index(members)
    };
    let short = random.between(200, 3_000);
    let long = random.between(200, 3 * ttl);
    let pooler = random.index(poolers.max(1));
    match kind {
        1 => Fault::KillAgent(member, short),
        2 => Fault::KillContainer(member, [short, long][random.index(2)]),
        3 => Fault::KillHost(member, 2 * long),
        4 => Fault::PauseAgent(member, long),
        5 => Fault::PauseHost(member, long),
        6 => Fault::Stop(member, short),
        7 | 8 => Fault::Cut(
            random.index(members + 1 + poolers),
            random.index(members + 1 + poolers),
            long,
        ),
        9 | 10 => Fault::Isolate(member, long),
        11 => Fault::EtcdSilent(long),
        12 => Fault::WatchLags(member, long),
        13 => Fault::NetworkSlow(long),
        14 => Fault::DiskFull(member, long),
        15 => Fault::LoseData(random.index(members)),
        16 => Fault::Switchover(random.chance(500).then(|| random.index(members))),
        17 => [Fault::Restart(member), Fault::Reinitialize(member)][random.index(2)],
        18 => Fault::Reconfigure(random.between(1, u64::MAX - 1)),
        19 => Fault::PauseCluster(long),
        20 => {
            use Fault::{
                DeleteConfig, DeleteEverything, DeleteFailsafe, DeleteInitialize, DeleteLeader,
                DeleteSync,
            };
            [
                DeleteLeader,
                DeleteInitialize,
                DeleteFailsafe,
                DeleteSync,
                DeleteConfig,
                DeleteEverything,
            ][random.index(6)]
        }
        21 if poolers > 0 => Fault::KillPooler(pooler, short),
        22 if poolers > 0 => Fault::PausePooler(pooler, long),
        24 => Fault::Hang(member),
        25 => Fault::StartForever(member),
        23 => Fault::ForeignData(random.index(members)),
        26 => [Fault::BackUpEtcd, Fault::RestoreEtcd, Fault::LoseEtcd][random.index(3)],
        _ => Fault::KillPostmaster(member),
    }
}
