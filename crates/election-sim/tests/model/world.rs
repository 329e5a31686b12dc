//! Members, their servers and an etcd, as far as the model knows them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use mrg_base::{Lsn, MemberName, Millis, Moment, Position, Timeline};
use mrg_election::sync::{Names, Stored};
use mrg_election::{
    Action as Step, Cluster, DataDirectory, Effect, Event, Failsafe, Initialize, LeaderKey,
    LeaseId, Member, Mode, Node, Outcome, Postgres, PreviousIncarnation, Primary, Promise,
    PromiseRequest, Replication, Revision, Settings, Standby, StartAs, StepId, StopMode,
    SwitchoverRequest, Vote, WalReceiver, WalSender,
};

pub(crate) const BEGIN: u64 = 1_000_000;
pub(crate) const TICK: Millis = Millis(500);
pub(crate) const TTL: Millis = Millis::seconds(3);
/// What is not answered in time.
pub(crate) const RETRY: Millis = Millis::seconds(1);

/// A WAL record: which, and on which timeline.
pub(crate) type Record = (u8, u8);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Runs {
    Not,
    Standby,
    Primary,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    pub runs: Runs,
    pub wal: Vec<Record>,
    pub names: Names,
    pub upstream: Option<usize>,
    pub streams: bool,
    pub was_primary: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ballot {
    pub step: StepId,
    pub waiting: BTreeSet<usize>,
    pub votes: Vec<Vote>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host {
    pub node: Option<Node>,
    pub server: Server,
    pub step: Option<(StepId, Step)>,
    pub ballot: Option<Ballot>,
    pub asked: Vec<(u64, usize, StepId)>,
    pub replies: u64,
    pub fence: Option<Moment>,
    /// Answers that do not come, and when that is noticed.
    pub late: Vec<(Moment, Event)>,
    pub seen: Revision,
    pub cut: bool,
    pub promise: Option<Promise>,
    pub lease: Option<LeaseId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Etcd {
    pub revision: i64,
    pub leader: Option<LeaderKey>,
    pub sync: Option<(Revision, Stored)>,
    pub leases: BTreeMap<LeaseId, (usize, Moment)>,
    pub granted: i64,
    pub request: Option<SwitchoverRequest>,
    pub failsafe: Option<Failsafe>,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    pub kills: u8,
    pub cuts: u8,
    pub lost: u8,
    pub writes: u8,
    pub switches: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub now: Moment,
    pub etcd: Etcd,
    pub hosts: Vec<Host>,
    pub waiting: Vec<u8>,
    pub acknowledged: BTreeSet<u8>,
    pub written: u8,
    pub budget: Budget,
    pub switched: bool,
}

pub(crate) fn name(host: usize) -> MemberName {
    MemberName::new(["a", "b", "c"][host]).unwrap()
}

pub(crate) fn host_of(member: &MemberName) -> usize {
    usize::from(member.as_str().as_bytes()[0] - b'a')
}

impl Server {
    pub(crate) fn position(&self) -> Position {
        Position {
            timeline: Timeline(self.wal.last().map_or(1, |record| u32::from(record.1))),
            flushed: Lsn(self.wal.len() as u64 * 100),
        }
    }
}

impl State {
    pub(crate) fn settings(mode: Mode) -> Settings {
        let mut settings = Settings {
            replication: Replication {
                mode,
                count: 1,
                strict: false,
            },
            ..Settings::default()
        };
        settings.failover.ttl = TTL;
        settings.failover.loop_wait = RETRY;
        settings.failover.retry_timeout = RETRY;
        settings
    }

    pub(crate) fn cluster(&self) -> Cluster {
        let member = |host: usize| {
            let Host { server, lease, .. } = &self.hosts[host];
            let lease = lease.filter(|lease| self.etcd.leases.contains_key(lease))?;
            let position = (server.runs != Runs::Not).then(|| server.position());
            let (running, primary) = (server.runs != Runs::Not, server.runs == Runs::Primary);
            Some((
                name(host),
                Member {
                    lease,
                    running,
                    primary,
                    position,
                    may_lead: true,
                    may_sync: true,
                    just_started: false,
                    created: Revision(0),
                },
            ))
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
            failsafe: self.etcd.failsafe.clone(),
            expected: None,
        }
    }

    pub(crate) fn look(&self, host: usize) -> Postgres {
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
                    let streams = standby.runs == Runs::Standby
                        && standby.streams
                        && standby.upstream == Some(host);
                    streams.then(|| {
                        (
                            name(other),
                            WalSender {
                                streaming: true,
                                flushed: standby.position().flushed,
                            },
                        )
                    })
                };
                let senders = (0..self.hosts.len()).filter_map(sender).collect();
                Postgres::Primary(Primary {
                    system_id: 42,
                    position: server.position(),
                    names: Some(server.names.clone()),
                    senders,
                })
            }
        }
    }

    /// Feeds a member, and everybody whom that reaches at once.
    pub(crate) fn feed(&mut self, host: usize, event: Event) {
        let mut queue = VecDeque::from([(host, event)]);
        while let Some((host, event)) = queue.pop_front() {
            let now = self.now;
            let Some(node) = &mut self.hosts[host].node else {
                continue;
            };
            for effect in node.on(now, event) {
                self.effect(host, effect, &mut queue);
            }
        }
    }

    pub(crate) fn effect(
        &mut self,
        host: usize,
        effect: Effect,
        queue: &mut VecDeque<(usize, Event)>,
    ) {
        let (now, cut) = (self.now, self.hosts[host].cut);
        match effect {
            Effect::GrantLease(_) | Effect::KeepAlive(_) if cut => self.hosts[host]
                .late
                .push((now + RETRY, Event::LeaseUnanswered)),
            Effect::GrantLease(ttl) => {
                self.etcd.granted += 1;
                let id = LeaseId(self.etcd.granted);
                self.etcd.leases.insert(id, (host, now + ttl));
                self.hosts[host].lease = Some(id);
                queue.push_back((
                    host,
                    Event::LeaseGranted {
                        id,
                        granted: ttl,
                        sent: now,
                    },
                ));
            }
            Effect::KeepAlive(id) => {
                let kept = self
                    .etcd
                    .leases
                    .get_mut(&id)
                    .map(|lease| lease.1 = now + TTL);
                queue.push_back((
                    host,
                    if kept.is_some() {
                        Event::LeaseKept { id, sent: now }
                    } else {
                        Event::LeaseGone(id)
                    },
                ));
            }
            Effect::ReadDcs if cut => self.hosts[host].late.push((now + RETRY, Event::DcsLost)),
            Effect::ReadDcs => {
                self.hosts[host].seen = Revision(self.etcd.revision);
                queue.push_back((
                    host,
                    Event::Dcs {
                        cluster: self.cluster(),
                        linearizable: true,
                    },
                ));
            }
            Effect::Fence(by) => self.hosts[host].fence = by,
            Effect::Perform(step, action) => self.begin(host, step, action, queue),
            Effect::Abort(_) => (self.hosts[host].step, self.hosts[host].ballot) = (None, None),
            Effect::Probe(probe) => queue.push_back((
                host,
                Event::Postgres {
                    probe,
                    postgres: self.look(host),
                },
            )),
            Effect::AskPromises { round, members, .. } => {
                self.ask_promises(host, round, &members, queue);
            }
            Effect::WithdrawPromises { members, round } => {
                let Some(lease) = self.hosts[host].lease else {
                    return;
                };
                for member in members {
                    queue.push_back((host_of(&member), Event::PromiseWithdrawn { lease, round }));
                }
            }
            Effect::WriteFailsafe { over, members } => {
                let lease = self.hosts[host].lease;
                let leads = !cut
                    && self
                        .etcd
                        .leader
                        .as_ref()
                        .is_some_and(|leader| Some(leader.lease) == lease);
                let written = (leads
                    && self.etcd.failsafe.as_ref().map(|stored| stored.revision) == over)
                    .then(|| {
                        let revision = self.change();
                        self.etcd.failsafe = members.map(|members| Failsafe {
                            revision,
                            members,
                            outdated: false,
                        });
                        revision
                    });
                queue.push_back((host, Event::FailsafeWritten(written)));
            }
            // Answered where it is asked, see `ask_promises`.
            Effect::AnswerPromise(_, answer) => {
                self.hosts[host].promise = answer.ok().or(self.hosts[host].promise);
            }
            Effect::AnswerVote(reply, answer) => self.vote(host, reply, answer),
            Effect::Explain(_) | Effect::Exit => {}
        }
    }

    /// A member that is cut off from etcd still reaches the others; one that is down refuses.
    pub(crate) fn ask_promises(
        &mut self,
        host: usize,
        round: u64,
        members: &[MemberName],
        queue: &mut VecDeque<(usize, Event)>,
    ) {
        let (now, lease) = (self.now, self.hosts[host].lease);
        let mut all = true;
        for member in members {
            let other = host_of(member);
            let request = PromiseRequest {
                reply: 0,
                leader: name(host),
                lease,
                ttl: TTL,
                round,
            };
            let Some(node) = &mut self.hosts[other].node else {
                all = false;
                continue;
            };
            let mut rest = Vec::new();
            for effect in node.on(now, Event::PromiseAsked(request)) {
                match effect {
                    Effect::AnswerPromise(_, Ok(promise)) => {
                        self.hosts[other].promise = Some(promise);
                    }
                    Effect::AnswerPromise(_, Err(_)) => all = false,
                    other => rest.push(other),
                }
            }
            for effect in rest {
                self.effect(other, effect, queue);
            }
        }
        queue.push_back((
            host,
            Event::Promises {
                round,
                asked: now,
                all,
            },
        ));
    }

    pub(crate) fn begin(
        &mut self,
        host: usize,
        step: StepId,
        action: Step,
        queue: &mut VecDeque<(usize, Event)>,
    ) {
        if let Step::AskPeers(peers) = &action {
            let peers: BTreeSet<usize> = peers.iter().map(host_of).collect();
            self.hosts[host].ballot = Some(Ballot {
                step,
                waiting: peers.clone(),
                votes: Vec::new(),
            });
            for peer in peers {
                let asked = &mut self.hosts[peer];
                if asked.node.is_some() {
                    asked.replies += 1;
                    asked.asked.push((asked.replies, host, step));
                    queue.push_back((
                        peer,
                        Event::VoteAsked {
                            reply: asked.replies,
                        },
                    ));
                }
            }
            return;
        }
        self.hosts[host].step = Some((step, action));
    }

    pub(crate) fn vote(
        &mut self,
        host: usize,
        reply: u64,
        answer: Result<(Position, Option<i32>), mrg_election::VoteRefusal>,
    ) {
        let Some(at) = self.hosts[host]
            .asked
            .iter()
            .position(|(number, ..)| *number == reply)
        else {
            return;
        };
        let (_, from, step) = self.hosts[host].asked.remove(at);
        assert!(
            answer.is_err() || !self.hosts[host].server.streams,
            "{} votes while its receiver runs",
            name(host)
        );
        if let Some(ballot) = self.hosts[from]
            .ballot
            .as_mut()
            .filter(|ballot| ballot.step == step)
        {
            ballot.waiting.remove(&host);
            ballot
                .votes
                .extend(answer.ok().map(|(position, candidate)| Vote {
                    member: name(host),
                    position,
                    candidate,
                }));
        }
    }

    pub(crate) fn change(&mut self) -> Revision {
        self.etcd.revision += 1;
        Revision(self.etcd.revision)
    }

    /// What comes of a step.
    pub(crate) fn perform(&mut self, host: usize, action: &Step) -> Outcome {
        let refused = || Outcome::Refused("another was faster".to_owned());
        let lease = self.hosts[host].lease;
        let ours = lease.is_some_and(|lease| self.etcd.leases.contains_key(&lease));
        let leads = ours
            && self
                .etcd
                .leader
                .as_ref()
                .is_some_and(|leader| Some(leader.lease) == lease);
        match action {
            Step::AcquireLeader if ours && self.etcd.leader.is_none() => {
                let created = self.change();
                self.etcd.leader = lease.map(|lease| LeaderKey {
                    member: name(host),
                    lease,
                    created,
                });
                Outcome::Written(created)
            }
            Step::ReleaseLeader if leads => {
                assert_ne!(
                    self.hosts[host].server.runs,
                    Runs::Primary,
                    "{} releases the key while it writes",
                    name(host)
                );
                self.etcd.leader = None;
                Outcome::Written(self.change())
            }
            Step::WriteSync { expected, stored }
                if leads && self.etcd.sync.as_ref().map(|(revision, _)| *revision) == *expected =>
            {
                let revision = self.change();
                self.etcd.sync = Some((revision, stored.clone()));
                Outcome::Written(revision)
            }
            Step::ClearSwitchover { expected }
                if self
                    .etcd
                    .request
                    .as_ref()
                    .is_some_and(|request| request.revision == *expected) =>
            {
                self.etcd.request = None;
                Outcome::Written(self.change())
            }
            Step::AcquireLeader
            | Step::ReleaseLeader
            | Step::WriteSync { .. }
            | Step::ClearSwitchover { .. } => refused(),
            other => self.perform_locally(host, other),
        }
    }

    pub(crate) fn perform_locally(&mut self, host: usize, action: &Step) -> Outcome {
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
                return if *mode == StopMode::Fast {
                    Outcome::At(position)
                } else {
                    Outcome::Done
                };
            }
            Step::Promote if armed && server.runs == Runs::Standby => {
                let timeline = server.wal.last().map_or(1, |record| record.1) + 1;
                (
                    server.runs,
                    server.was_primary,
                    server.upstream,
                    server.streams,
                ) = (Runs::Primary, true, None, false);
                server.wal.push((0, timeline));
                return Outcome::At(server.position());
            }
            Step::StopReceiver if server.runs == Runs::Standby => {
                (server.upstream, server.streams) = (None, false);
                return Outcome::At(server.position());
            }
            Step::Follow(leader) if server.runs == Runs::Standby => {
                (server.upstream, server.streams) = (Some(host_of(leader)), false);
            }
            Step::SetSyncNames(names) if server.runs != Runs::Not => {
                server.names = names.clone();
                let position = server.position();
                self.acknowledge();
                return Outcome::At(position);
            }
            Step::Checkpoint
            | Step::PausePoolers { .. }
            | Step::ResumePoolers
            | Step::AwaitReceipt { .. } => {}
            _ => return Outcome::Failed("not now".to_owned()),
        }
        Outcome::Done
    }

    pub(crate) fn stop(&mut self, host: usize) {
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
    pub(crate) fn acknowledge(&mut self) {
        let Some(primary) = self
            .hosts
            .iter()
            .position(|host| host.server.runs == Runs::Primary)
        else {
            return;
        };
        let server = &self.hosts[primary].server;
        let has = |host: &Host, id: u8| host.server.wal.iter().any(|record| record.0 == id);
        let confirmed = |id: u8| {
            let connected =
                |host: &&Host| host.server.streams && host.server.upstream == Some(primary);
            let by = |members: &BTreeSet<MemberName>| {
                let named = |(index, host): &(usize, &Host)| {
                    members.contains(&name(*index)) && connected(host) && has(host, id)
                };
                self.hosts.iter().enumerate().filter(named).count()
            };
            match &server.names {
                Names::Nobody => true,
                Names::Placeholder => false,
                Names::First { count, members } | Names::Any { count, members } => {
                    by(members) >= *count
                }
            }
        };
        let done: Vec<u8> = self
            .waiting
            .iter()
            .copied()
            .filter(|id| has(&self.hosts[primary], *id) && confirmed(*id))
            .collect();
        self.waiting.retain(|id| !done.contains(id));
        self.acknowledged.extend(done);
    }

    pub(crate) fn time_passes(&mut self) {
        self.now = self.now + TICK;
        let now = self.now;
        let ended: Vec<LeaseId> = self
            .etcd
            .leases
            .iter()
            .filter(|(_, (_, ends))| *ends <= now)
            .map(|(id, _)| *id)
            .collect();
        for lease in ended {
            self.etcd.leases.remove(&lease);
            if self
                .etcd
                .leader
                .take_if(|leader| leader.lease == lease)
                .is_some()
            {
                self.change();
            }
        }
        for host in 0..self.hosts.len() {
            // The fence acts before its deadline, whatever its agent does.
            if self.hosts[host].fence.is_some_and(|by| now + TICK > by)
                && self.hosts[host].server.runs != Runs::Not
            {
                self.hosts[host].fence = None;
                self.stop(host);
                self.feed(host, Event::PostmasterGone);
            }
            let (due, late) = std::mem::take(&mut self.hosts[host].late)
                .into_iter()
                .partition(|(at, _)| *at <= now);
            self.hosts[host].late = late;
            let due: Vec<(Moment, Event)> = due;
            for (_, event) in due {
                self.feed(host, event);
            }
            self.feed(host, Event::Tick);
        }
    }

    pub(crate) fn agent_starts(&mut self, host: usize, mode: Mode) {
        // Its former self is dead, and so is its lease.
        if let Some(lease) = self.hosts[host].lease.take()
            && self.etcd.leases.remove(&lease).is_some()
            && self
                .etcd
                .leader
                .take_if(|leader| leader.lease == lease)
                .is_some()
        {
            self.change();
        }
        let node = Node::new(
            name(host),
            Self::settings(mode),
            Some(1),
            PreviousIncarnation::Known(self.hosts[host].promise),
            self.now,
        );
        self.hosts[host].node = Some(node);
        self.hosts[host].seen = Revision(self.etcd.revision);
        let cluster = self.cluster();
        self.feed(
            host,
            Event::Dcs {
                cluster: cluster.clone(),
                linearizable: true,
            },
        );
        let postgres = self.look(host);
        self.feed(
            host,
            Event::Postgres {
                probe: u64::MAX,
                postgres,
            },
        );
    }
}
