//! A model of two and three members around the production [`Node`], explored by stateright: time, crashes, a cut-off member, lost answers and a person who
//! asks for a switchover come in every order. Steps, news and votes may be late by any time, so a member may stand still at any point.
//!
//! What is left out, against the simulator: one etcd that never fails, no losses but those that are asked for, no disk, one copy of each message.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends with the first surprise")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mrg_operator::base::{Lsn, MemberName, Millis, Moment, Position, Timeline};
use mrg_operator::ha::sync::{Names, Stored};
use mrg_operator::ha::{
    Action as Step, Cluster, DataDirectory, Effect, Event, Initialize, LeaderKey, LeaseId, Member, Mode, Node, Outcome, Past, Postgres,
    Primary, Promise, PromiseRequest, Replication, Revision, Settings, Standby, StartAs, StepId, StopMode, SwitchoverRequest, Vote,
    WalReceiver, WalSender,
};
use stateright::{Checker, Model, Property};

const BEGIN: u64 = 1_000_000;
const TICK: Millis = Millis(500);
const TTL: Millis = Millis::seconds(3);
/// What is not answered in time.
const RETRY: Millis = Millis::seconds(1);

/// A WAL record: which, and on which timeline.
type Record = (u8, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Runs {
    Not,
    Standby,
    Primary,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Server {
    runs: Runs,
    wal: Vec<Record>,
    names: Names,
    upstream: Option<usize>,
    streams: bool,
    was_primary: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ballot {
    step: StepId,
    waiting: BTreeSet<usize>,
    votes: Vec<Vote>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Host {
    node: Option<Node>,
    server: Server,
    step: Option<(StepId, Step)>,
    ballot: Option<Ballot>,
    asked: Vec<(u64, usize, StepId)>,
    replies: u64,
    fence: Option<Moment>,
    /// Answers that do not come, and when that is noticed.
    late: Vec<(Moment, Event)>,
    seen: Revision,
    cut: bool,
    promise: Option<Promise>,
    lease: Option<LeaseId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Etcd {
    revision: i64,
    leader: Option<LeaderKey>,
    sync: Option<(Revision, Stored)>,
    leases: BTreeMap<LeaseId, (usize, Moment)>,
    granted: i64,
    request: Option<SwitchoverRequest>,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    kills: u8,
    cuts: u8,
    lost: u8,
    writes: u8,
    switches: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: Moment,
    etcd: Etcd,
    hosts: Vec<Host>,
    waiting: Vec<u8>,
    acknowledged: BTreeSet<u8>,
    written: u8,
    budget: Budget,
    switched: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happens {
    TimePasses,
    StepIsDone(usize),
    AnswerIsLost(usize),
    NewsArrives(usize),
    BallotEnds(usize),
    WalArrives(usize),
    Write(usize),
    PostmasterDies(usize),
    AgentDies(usize),
    AgentStarts(usize),
    IsCutOff(usize),
    IsBack(usize),
    SwitchoverIsAsked,
}

struct Members {
    count: usize,
    mode: Mode,
    budget: Budget,
    horizon: Millis,
}

fn name(host: usize) -> MemberName {
    MemberName::new(["a", "b", "c"][host]).unwrap()
}

fn host_of(member: &MemberName) -> usize {
    usize::from(member.as_str().as_bytes()[0] - b'a')
}

impl Server {
    fn position(&self) -> Position {
        Position { timeline: Timeline(self.wal.last().map_or(1, |record| u32::from(record.1))), flushed: Lsn(self.wal.len() as u64 * 100) }
    }
}

impl State {
    fn settings(mode: Mode) -> Settings {
        let mut settings = Settings { replication: Replication { mode, count: 1, strict: false }, ..Settings::default() };
        settings.failover.ttl = TTL;
        settings.failover.loop_wait = RETRY;
        settings.failover.retry_timeout = RETRY;
        settings
    }

    fn cluster(&self) -> Cluster {
        let member = |host: usize| {
            let Host { server, lease, .. } = &self.hosts[host];
            let lease = lease.filter(|lease| self.etcd.leases.contains_key(lease))?;
            let position = (server.runs != Runs::Not).then(|| server.position());
            let (running, primary) = (server.runs != Runs::Not, server.runs == Runs::Primary);
            Some((name(host), Member { lease, running, primary, position, may_lead: true, may_sync: true }))
        };
        Cluster {
            revision: Revision(self.etcd.revision),
            initialize: Some(Initialize::Done(42)),
            leader: self.etcd.leader.clone(),
            sync: self.etcd.sync.clone(),
            members: (0..self.hosts.len()).filter_map(member).collect(),
            switchover: self.etcd.request.clone(),
            optime: Some(Lsn(0)),
            timeline: None,
            timeline_of: None,
            failsafe: Some((0..self.hosts.len()).map(name).collect()),
        }
    }

    fn look(&self, host: usize) -> Postgres {
        let server = &self.hosts[host].server;
        match server.runs {
            Runs::Not => Postgres::Stopped(DataDirectory {
                system_id: 42,
                timeline: server.position().timeline,
                checkpoint: server.position().flushed,
                was_primary: server.was_primary,
                clean: false,
                unfinished: false,
            }),
            Runs::Standby => Postgres::Standby(Standby {
                system_id: 42,
                position: Some(server.position()),
                upstream: server.upstream.map(name),
                receiver: match (server.upstream, server.streams) {
                    (None, _) => WalReceiver::Stopped,
                    (Some(_), true) => WalReceiver::Streaming,
                    (Some(_), false) => WalReceiver::Broken(self.now),
                },
                fork: None,
            }),
            Runs::Primary => {
                let sender = |other: usize| {
                    let standby = &self.hosts[other].server;
                    let streams = standby.runs == Runs::Standby && standby.streams && standby.upstream == Some(host);
                    streams.then(|| (name(other), WalSender { streaming: true, flushed: standby.position().flushed }))
                };
                let senders = (0..self.hosts.len()).filter_map(sender).collect();
                Postgres::Primary(Primary { system_id: 42, position: server.position(), names: Some(server.names.clone()), senders })
            }
        }
    }

    /// Feeds a member, and everybody whom that reaches at once.
    fn feed(&mut self, host: usize, event: Event) {
        let mut queue = VecDeque::from([(host, event)]);
        while let Some((host, event)) = queue.pop_front() {
            let now = self.now;
            let Some(node) = &mut self.hosts[host].node else { continue };
            for effect in node.on(now, event) {
                self.effect(host, effect, &mut queue);
            }
        }
    }

    fn effect(&mut self, host: usize, effect: Effect, queue: &mut VecDeque<(usize, Event)>) {
        let (now, cut) = (self.now, self.hosts[host].cut);
        match effect {
            Effect::GrantLease(_) | Effect::KeepAlive(_) if cut => self.hosts[host].late.push((now + RETRY, Event::LeaseUnanswered)),
            Effect::GrantLease(ttl) => {
                self.etcd.granted += 1;
                let id = LeaseId(self.etcd.granted);
                self.etcd.leases.insert(id, (host, now + ttl));
                self.hosts[host].lease = Some(id);
                queue.push_back((host, Event::LeaseGranted { id, granted: ttl, sent: now }));
            }
            Effect::KeepAlive(id) => {
                let kept = self.etcd.leases.get_mut(&id).map(|lease| lease.1 = now + TTL);
                queue.push_back((host, if kept.is_some() { Event::LeaseKept { id, sent: now } } else { Event::LeaseGone(id) }));
            }
            Effect::ReadDcs if cut => self.hosts[host].late.push((now + RETRY, Event::DcsLost)),
            Effect::ReadDcs => {
                self.hosts[host].seen = Revision(self.etcd.revision);
                queue.push_back((host, Event::Dcs { cluster: self.cluster(), linearizable: true }));
            }
            Effect::Fence(by) => self.hosts[host].fence = by,
            Effect::Perform(step, action) => self.begin(host, step, action, queue),
            Effect::Abort(_) => (self.hosts[host].step, self.hosts[host].ballot) = (None, None),
            Effect::Probe(probe) => queue.push_back((host, Event::Postgres { probe, postgres: self.look(host) })),
            Effect::AskPromises { round, members, .. } => self.ask_promises(host, round, &members, queue),
            Effect::WithdrawPromises { members, round } => {
                let Some(lease) = self.hosts[host].lease else { return };
                for member in members {
                    queue.push_back((host_of(&member), Event::PromiseWithdrawn { lease, round }));
                }
            }
            // Answered where it is asked, see `ask_promises`.
            Effect::AnswerPromise(_, answer) => self.hosts[host].promise = answer.ok().or(self.hosts[host].promise),
            Effect::AnswerVote(reply, answer) => self.vote(host, reply, answer),
            Effect::Explain(_) | Effect::Exit => {}
        }
    }

    /// A member that is cut off from etcd still reaches the others; one that is down refuses.
    fn ask_promises(&mut self, host: usize, round: u64, members: &[MemberName], queue: &mut VecDeque<(usize, Event)>) {
        let (now, lease) = (self.now, self.hosts[host].lease);
        let mut all = true;
        for member in members {
            let other = host_of(member);
            let request = PromiseRequest { reply: 0, leader: name(host), lease, ttl: TTL, round };
            let Some(node) = &mut self.hosts[other].node else {
                all = false;
                continue;
            };
            let mut rest = Vec::new();
            for effect in node.on(now, Event::PromiseAsked(request)) {
                match effect {
                    Effect::AnswerPromise(_, Ok(promise)) => self.hosts[other].promise = Some(promise),
                    Effect::AnswerPromise(_, Err(_)) => all = false,
                    other => rest.push(other),
                }
            }
            for effect in rest {
                self.effect(other, effect, queue);
            }
        }
        queue.push_back((host, Event::Promises { round, asked: now, all }));
    }

    fn begin(&mut self, host: usize, step: StepId, action: Step, queue: &mut VecDeque<(usize, Event)>) {
        if let Step::AskPeers(peers) = &action {
            let peers: BTreeSet<usize> = peers.iter().map(host_of).collect();
            self.hosts[host].ballot = Some(Ballot { step, waiting: peers.clone(), votes: Vec::new() });
            for peer in peers {
                let asked = &mut self.hosts[peer];
                if asked.node.is_some() {
                    asked.replies += 1;
                    asked.asked.push((asked.replies, host, step));
                    queue.push_back((peer, Event::VoteAsked { reply: asked.replies }));
                }
            }
            return;
        }
        self.hosts[host].step = Some((step, action));
    }

    fn vote(&mut self, host: usize, reply: u64, answer: Result<(Position, Option<i32>), String>) {
        let Some(at) = self.hosts[host].asked.iter().position(|(number, ..)| *number == reply) else { return };
        let (_, from, step) = self.hosts[host].asked.remove(at);
        assert!(answer.is_err() || !self.hosts[host].server.streams, "{} votes while its receiver runs", name(host));
        if let Some(ballot) = self.hosts[from].ballot.as_mut().filter(|ballot| ballot.step == step) {
            ballot.waiting.remove(&host);
            ballot.votes.extend(answer.ok().map(|(position, candidate)| Vote { member: name(host), position, candidate }));
        }
    }

    fn change(&mut self) -> Revision {
        self.etcd.revision += 1;
        Revision(self.etcd.revision)
    }

    /// What comes of a step.
    fn perform(&mut self, host: usize, action: &Step) -> Outcome {
        let refused = || Outcome::Refused("another was faster".to_owned());
        let lease = self.hosts[host].lease;
        let ours = lease.is_some_and(|lease| self.etcd.leases.contains_key(&lease));
        let leads = ours && self.etcd.leader.as_ref().is_some_and(|leader| Some(leader.lease) == lease);
        match action {
            Step::AcquireLeader if ours && self.etcd.leader.is_none() => {
                let created = self.change();
                self.etcd.leader = lease.map(|lease| LeaderKey { member: name(host), lease, created });
                Outcome::Written(created)
            }
            Step::ReleaseLeader if leads => {
                assert_ne!(self.hosts[host].server.runs, Runs::Primary, "{} releases the key while it writes", name(host));
                self.etcd.leader = None;
                Outcome::Written(self.change())
            }
            Step::WriteSync { expected, stored } if leads && self.etcd.sync.as_ref().map(|(revision, _)| *revision) == *expected => {
                let revision = self.change();
                self.etcd.sync = Some((revision, stored.clone()));
                Outcome::Written(revision)
            }
            Step::ClearSwitchover { expected } if self.etcd.request.as_ref().is_some_and(|request| request.revision == *expected) => {
                self.etcd.request = None;
                Outcome::Written(self.change())
            }
            Step::AcquireLeader | Step::ReleaseLeader | Step::WriteSync { .. } | Step::ClearSwitchover { .. } => refused(),
            other => self.perform_locally(host, other),
        }
    }

    fn perform_locally(&mut self, host: usize, action: &Step) -> Outcome {
        let armed = self.hosts[host].fence.is_some_and(|by| self.now < by);
        let server = &mut self.hosts[host].server;
        match action {
            Step::Start(StartAs::Primary) if armed && server.runs == Runs::Not => {
                (server.runs, server.was_primary) = (Runs::Primary, true);
            }
            Step::Start(StartAs::Standby { upstream }) if server.runs == Runs::Not => {
                (server.runs, server.was_primary) = (Runs::Standby, false);
                (server.upstream, server.streams) = (upstream.as_ref().map(host_of), false);
            }
            Step::Stop(mode) => {
                if server.runs == Runs::Primary && *mode == StopMode::Fast {
                    // The shutdown checkpoint.
                    let timeline = server.wal.last().map_or(1, |record| record.1);
                    server.wal.push((0, timeline));
                }
                let position = server.position();
                self.stop(host);
                return if *mode == StopMode::Fast { Outcome::At(position) } else { Outcome::Done };
            }
            Step::Promote if armed && server.runs == Runs::Standby => {
                let timeline = server.wal.last().map_or(1, |record| record.1) + 1;
                (server.runs, server.was_primary, server.upstream, server.streams) = (Runs::Primary, true, None, false);
                server.wal.push((0, timeline));
                return Outcome::At(server.position());
            }
            Step::StopReceiver if server.runs == Runs::Standby => {
                (server.upstream, server.streams) = (None, false);
                return Outcome::At(server.position());
            }
            Step::Follow(leader) if server.runs == Runs::Standby => (server.upstream, server.streams) = (Some(host_of(leader)), false),
            Step::SetSyncNames(names) if server.runs != Runs::Not => {
                server.names = names.clone();
                let position = server.position();
                self.acknowledge();
                return Outcome::At(position);
            }
            Step::Checkpoint | Step::PausePoolers { .. } | Step::ResumePoolers | Step::AwaitReceipt { .. } => {}
            _ => return Outcome::Failed("not now".to_owned()),
        }
        Outcome::Done
    }

    fn stop(&mut self, host: usize) {
        if self.hosts[host].server.runs == Runs::Primary {
            self.waiting.clear();
        }
        self.hosts[host].server.runs = Runs::Not;
        self.hosts[host].server.streams = false;
        for other in &mut self.hosts {
            if other.server.upstream == Some(host) {
                other.server.streams = false;
            }
        }
    }

    /// Commits return that enough standbys have.
    fn acknowledge(&mut self) {
        let Some(primary) = self.hosts.iter().position(|host| host.server.runs == Runs::Primary) else { return };
        let server = &self.hosts[primary].server;
        let has = |host: &Host, id: u8| host.server.wal.iter().any(|record| record.0 == id);
        let confirmed = |id: u8| {
            let connected = |host: &&Host| host.server.streams && host.server.upstream == Some(primary);
            let by = |members: &BTreeSet<MemberName>| {
                let named = |(index, host): &(usize, &Host)| members.contains(&name(*index)) && connected(host) && has(host, id);
                self.hosts.iter().enumerate().filter(named).count()
            };
            match &server.names {
                Names::Nobody => true,
                Names::Placeholder => false,
                Names::First { count, members } | Names::Any { count, members } => by(members) >= *count,
            }
        };
        let done: Vec<u8> = self.waiting.iter().copied().filter(|id| has(&self.hosts[primary], *id) && confirmed(*id)).collect();
        self.waiting.retain(|id| !done.contains(id));
        self.acknowledged.extend(done);
    }

    fn time_passes(&mut self) {
        self.now = self.now + TICK;
        let now = self.now;
        let ended: Vec<LeaseId> = self.etcd.leases.iter().filter(|(_, (_, ends))| *ends <= now).map(|(id, _)| *id).collect();
        for lease in ended {
            self.etcd.leases.remove(&lease);
            if self.etcd.leader.take_if(|leader| leader.lease == lease).is_some() {
                self.change();
            }
        }
        for host in 0..self.hosts.len() {
            // The fence acts before its deadline, whatever its agent does.
            if self.hosts[host].fence.is_some_and(|by| now + TICK > by) && self.hosts[host].server.runs != Runs::Not {
                self.hosts[host].fence = None;
                self.stop(host);
                self.feed(host, Event::PostmasterGone);
            }
            let (due, late) = std::mem::take(&mut self.hosts[host].late).into_iter().partition(|(at, _)| *at <= now);
            self.hosts[host].late = late;
            let due: Vec<(Moment, Event)> = due;
            for (_, event) in due {
                self.feed(host, event);
            }
            self.feed(host, Event::Tick);
        }
    }

    fn agent_starts(&mut self, host: usize, mode: Mode) {
        // Its former self is dead, and so is its lease.
        if let Some(lease) = self.hosts[host].lease.take()
            && self.etcd.leases.remove(&lease).is_some()
            && self.etcd.leader.take_if(|leader| leader.lease == lease).is_some()
        {
            self.change();
        }
        let node = Node::new(name(host), Self::settings(mode), Some(1), Past::Remembered(self.hosts[host].promise), self.now);
        self.hosts[host].node = Some(node);
        self.hosts[host].seen = Revision(self.etcd.revision);
        let cluster = self.cluster();
        self.feed(host, Event::Dcs { cluster: cluster.clone(), linearizable: true });
        let postgres = self.look(host);
        self.feed(host, Event::Postgres { probe: u64::MAX, postgres });
    }
}

impl Members {
    /// A settled cluster, led by the first.
    fn settled(&self) -> State {
        let standbys: BTreeSet<MemberName> = (1..self.count).map(name).collect();
        let server = |host: usize| Server {
            runs: if host == 0 { Runs::Primary } else { Runs::Standby },
            wal: vec![(0, 1)],
            names: if host == 0 {
                Names::of(self.mode, 1, if self.mode == Mode::Sync { [name(1)].into() } else { standbys.clone() })
            } else {
                Names::Nobody
            },
            upstream: (host > 0).then_some(0),
            streams: host > 0,
            was_primary: host == 0,
        };
        let now = Moment(BEGIN);
        let host = |host: usize| Host {
            node: Some(Node::new(name(host), State::settings(self.mode), Some(1), Past::Remembered(None), now)),
            server: server(host),
            step: None,
            ballot: None,
            asked: Vec::new(),
            replies: 0,
            fence: None,
            late: Vec::new(),
            seen: Revision(10),
            cut: false,
            promise: None,
            lease: Some(LeaseId(1 + host as i64)),
        };
        let voters = if self.mode == Mode::Sync { [name(1)].into() } else { standbys.clone() };
        let quorum = voters.len() - 1;
        let mut state = State {
            now,
            etcd: Etcd {
                revision: 10,
                leader: Some(LeaderKey { member: name(0), lease: LeaseId(1), created: Revision(5) }),
                sync: Some((Revision(7), Stored { leader: name(0), voters, quorum })),
                leases: (0..self.count).map(|host| (LeaseId(1 + host as i64), (host, now + TTL))).collect(),
                granted: self.count as i64,
                request: None,
            },
            hosts: (0..self.count).map(host).collect(),
            waiting: Vec::new(),
            acknowledged: BTreeSet::new(),
            written: 0,
            budget: self.budget,
            switched: false,
        };
        for host in 0..self.count {
            let id = LeaseId(1 + host as i64);
            let mut node = state.hosts[host].node.take().unwrap();
            node.on(now, Event::Dcs { cluster: state.cluster(), linearizable: true });
            node.on(now, Event::LeaseGranted { id, granted: TTL, sent: now });
            state.hosts[host].node = Some(node);
            let postgres = state.look(host);
            state.feed(host, Event::Postgres { probe: u64::MAX, postgres });
            let cluster = state.cluster();
            state.feed(host, Event::Dcs { cluster, linearizable: true });
        }
        state
    }
}

impl Model for Members {
    type State = State;
    type Action = Happens;

    fn init_states(&self) -> Vec<State> {
        vec![self.settled()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Happens>) {
        actions.push(Happens::TimePasses);
        let budget = state.budget;
        for (index, host) in state.hosts.iter().enumerate() {
            if host.node.is_none() {
                actions.push(Happens::AgentStarts(index));
                continue;
            }
            if let Some((_, action)) = &host.step {
                let asks_etcd =
                    matches!(action, Step::AcquireLeader | Step::ReleaseLeader | Step::WriteSync { .. } | Step::ClearSwitchover { .. });
                if !(host.cut && asks_etcd) {
                    actions.push(Happens::StepIsDone(index));
                }
                if asks_etcd && (host.cut || budget.lost > 0) {
                    actions.push(Happens::AnswerIsLost(index));
                }
            }
            if host.ballot.is_some() {
                actions.push(Happens::BallotEnds(index));
            }
            if !host.cut && host.seen.0 < state.etcd.revision {
                actions.push(Happens::NewsArrives(index));
            }
            let upstream = host.server.upstream.filter(|_| host.server.runs == Runs::Standby);
            if let Some(upstream) = upstream.map(|upstream| &state.hosts[upstream].server).filter(|upstream| upstream.runs == Runs::Primary)
            {
                let follows = upstream.wal.starts_with(&host.server.wal);
                if follows && (!host.server.streams || host.server.wal.len() < upstream.wal.len()) {
                    actions.push(Happens::WalArrives(index));
                }
            }
            if host.server.runs == Runs::Primary && budget.writes > 0 {
                actions.push(Happens::Write(index));
            }
            if budget.kills > 0 {
                actions.push(Happens::AgentDies(index));
                if host.server.runs != Runs::Not {
                    actions.push(Happens::PostmasterDies(index));
                }
            }
            if host.cut {
                actions.push(Happens::IsBack(index));
            } else if budget.cuts > 0 {
                actions.push(Happens::IsCutOff(index));
            }
        }
        if budget.switches > 0 && state.etcd.leader.is_some() {
            actions.push(Happens::SwitchoverIsAsked);
        }
    }

    fn next_state(&self, last: &State, action: Happens) -> Option<State> {
        let mut state = last.clone();
        match action {
            Happens::TimePasses => state.time_passes(),
            Happens::StepIsDone(host) => {
                let (step, action) = state.hosts[host].step.take()?;
                let outcome = state.perform(host, &action);
                state.feed(host, Event::Finished { step, outcome });
            }
            Happens::AnswerIsLost(host) => {
                let (step, action) = state.hosts[host].step.take()?;
                if !state.hosts[host].cut {
                    state.budget.lost -= 1;
                    state.perform(host, &action);
                }
                state.feed(host, Event::Finished { step, outcome: Outcome::Unknown("no answer".to_owned()) });
            }
            Happens::NewsArrives(host) => {
                state.hosts[host].seen = Revision(state.etcd.revision);
                let cluster = state.cluster();
                state.feed(host, Event::Dcs { cluster, linearizable: false });
            }
            Happens::BallotEnds(host) => {
                let ballot = state.hosts[host].ballot.take()?;
                state.feed(host, Event::Finished { step: ballot.step, outcome: Outcome::Votes(ballot.votes) });
            }
            Happens::WalArrives(host) => {
                let upstream = state.hosts[host].server.upstream?;
                state.hosts[host].server.wal = state.hosts[upstream].server.wal.clone();
                state.hosts[host].server.streams = true;
                state.acknowledge();
                let postgres = state.look(upstream);
                state.feed(upstream, Event::Postgres { probe: u64::MAX, postgres });
            }
            Happens::Write(host) => {
                state.budget.writes -= 1;
                state.written += 1;
                let timeline = state.hosts[host].server.wal.last().map_or(1, |record| record.1);
                state.hosts[host].server.wal.push((state.written, timeline));
                state.waiting.push(state.written);
                state.acknowledge();
            }
            Happens::PostmasterDies(host) => {
                state.budget.kills -= 1;
                state.stop(host);
                state.feed(host, Event::PostmasterGone);
            }
            Happens::AgentDies(host) => {
                state.budget.kills -= 1;
                // Its fence ends postgres with it.
                state.stop(host);
                let dead = &mut state.hosts[host];
                (dead.node, dead.step, dead.ballot, dead.fence) = (None, None, None, None);
                (dead.asked, dead.late) = (Vec::new(), Vec::new());
            }
            Happens::AgentStarts(host) => state.agent_starts(host, self.mode),
            Happens::IsCutOff(host) => {
                state.budget.cuts -= 1;
                state.hosts[host].cut = true;
            }
            Happens::IsBack(host) => state.hosts[host].cut = false,
            Happens::SwitchoverIsAsked => {
                state.budget.switches -= 1;
                state.switched = true;
                let leader = state.etcd.leader.clone()?;
                let revision = state.change();
                state.etcd.request = Some(SwitchoverRequest { leader: Some(leader.member), candidate: None, revision });
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one writer at most", |_, state: &State| {
                state.hosts.iter().filter(|host| host.server.runs == Runs::Primary).count() <= 1
            }),
            Property::always("a writer has every acknowledged commit", |_, state: &State| {
                let has = |host: &Host, id: u8| host.server.wal.iter().any(|record| record.0 == id);
                let writers = state.hosts.iter().filter(|host| host.server.runs == Runs::Primary);
                writers.clone().all(|host| state.acknowledged.iter().all(|id| has(host, *id)))
            }),
            Property::sometimes("another takes over", |_, state: &State| {
                !state.switched && state.hosts[1..].iter().any(|host| host.server.runs == Runs::Primary)
            }),
            Property::sometimes("a switchover comes to its end", |model: &Self, state: &State| {
                model.budget.switches == 0
                    || state.switched
                        && state.budget.kills == model.budget.kills
                        && state.hosts[1..].iter().any(|host| host.server.runs == Runs::Primary)
            }),
            Property::sometimes("a commit of the new leader is acknowledged", |model: &Self, state: &State| {
                let of_new = |host: &Host| {
                    host.server.wal.iter().any(|record| record.1 > 1 && state.acknowledged.contains(&record.0) && record.0 > 0)
                };
                model.budget.writes == 0 || state.hosts[1..].iter().any(|host| host.server.runs == Runs::Primary && of_new(host))
            }),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.now.since(Moment(BEGIN)) <= self.horizon
    }
}

/// So many states of two members at most, and of three two and a half times as many; `MRG_MODEL_STATES` for more.
fn states(count: usize) -> usize {
    let wanted = std::env::var("MRG_MODEL_STATES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    if count == 2 { wanted } else { wanted * 5 / 2 }
}

fn explore(model: Members, reachable: &[&str]) {
    let title = format!("{} members, {:?}, {:?}", model.count, model.mode, model.budget);
    let (began, states) = (std::time::Instant::now(), states(model.count));
    let checker = model.checker().threads(2).target_state_count(states).spawn_bfs().join();
    let reached: Vec<&str> = checker.discoveries().into_keys().collect();
    println!(
        "{title}: {} different states{}, depth {}, in {:.0?}; reached: {reached:?}",
        checker.unique_state_count(),
        if checker.is_done() { "" } else { " of more" },
        checker.max_depth(),
        began.elapsed()
    );
    for wanted in reachable {
        assert!(reached.contains(wanted), "not reached: {wanted}");
    }
    checker.assert_no_discovery("one writer at most");
    checker.assert_no_discovery("a writer has every acknowledged commit");
}

const NOTHING: Budget = Budget { kills: 0, cuts: 0, lost: 0, writes: 0, switches: 0 };

#[test]
fn two_members_that_crash() {
    explore(
        Members { count: 2, mode: Mode::Sync, budget: Budget { kills: 1, lost: 1, writes: 1, ..NOTHING }, horizon: Millis::seconds(8) },
        &["another takes over"],
    );
}

#[test]
fn two_members_one_of_which_is_cut_off() {
    explore(
        Members { count: 2, mode: Mode::Quorum, budget: Budget { cuts: 1, writes: 1, ..NOTHING }, horizon: Millis::seconds(9) },
        &["another takes over", "a commit of the new leader is acknowledged"],
    );
}

#[test]
fn three_members_that_crash() {
    explore(
        Members { count: 3, mode: Mode::Quorum, budget: Budget { kills: 1, writes: 1, ..NOTHING }, horizon: Millis::seconds(5) },
        &["another takes over"],
    );
}

#[test]
fn three_members_and_a_switchover() {
    explore(
        Members {
            count: 3,
            mode: Mode::Quorum,
            budget: Budget { switches: 1, writes: 1, lost: 1, ..NOTHING },
            horizon: Millis::seconds(4),
        },
        &["a switchover comes to its end"],
    );
}
