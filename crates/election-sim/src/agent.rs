//! The agent's part: it feeds the node, performs what the node says, follows etcd, and writes what
//! does not decide. It does what `agent/run.rs` and `agent/housekeeping.rs` do, against the model.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::etcd::{Keys, Transaction};
use crate::steps::Running;
use crate::world::{Answer, Ask, Happening, Message, World};
use mrg_base::{MemberName, Millis, Moment, Position, Timeline};
use mrg_election::{
    Effect, Event, LeaseId, Member, Node, Outcome, Past, Postgres, Promise, PromiseRequest,
    Settings, StepId,
};

/// What a question to etcd was for.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Clear,
    Grant(Moment),
    Keep(LeaseId, Moment),
    Read(u64),
    Step(StepId),
    Member(LeaseId, Member),
    Status(Moment),
    History(Timeline),
    Failsafe,
    Config,
    Last,
}

/// Follows the keys: a read, then the watch, and a read again when asked and as a backstop.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Whether changes are told.
    pub open: bool,
    /// How many reads were asked for when the one under way began.
    pub reading: Option<u64>,
    /// How many reads were asked for.
    pub asked: u64,
    /// Counts the reads, so that an old backstop is known.
    pub reads: u64,
}

/// What a leader collects of promises.
#[derive(Debug)]
pub(super) struct Round {
    pub number: u64,
    pub asked: Moment,
    pub waiting: Vec<usize>,
    pub all: bool,
}

/// Whom an answer is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asker {
    Vote {
        from: usize,
        agent: u32,
        step: StepId,
    },
    Promise {
        from: usize,
        agent: u32,
        round: u64,
    },
}

/// An agent's process.
pub(super) struct Agent {
    pub number: u32,
    pub node: Node,
    pub ready: bool,
    pub calls: BTreeMap<u64, Call>,
    pub wake: u64,
    pub step: Option<Running>,
    pub watch: Watch,
    pub read_wanted: Option<u64>,
    pub seen: Rc<Keys>,
    pub reachable: bool,
    pub settings: Settings,
    pub askers: BTreeMap<u64, Asker>,
    pub votes_waiting: Vec<(u64, u64)>,
    pub round: Option<Round>,
    pub replies: u64,
    pub postgres: Postgres,
    probe: u64,
    next_look: u64,
    member: Option<(LeaseId, Member)>,
    member_at: Moment,
    member_busy: bool,
    status_at: Option<Moment>,
    history: Option<Timeline>,
    /// The last settings that were read.
    known_settings: Option<Settings>,
    config_missing: Option<Moment>,
    config_busy: bool,
    started: Moment,
    promises_recorded: bool,
    restart_after: u64,
}

impl World {
    pub(crate) fn start_agent(&mut self, member: usize, boot: u32) {
        let host = &self.hosts[member];
        if !host.up || host.boot != boot || host.agent.is_some() {
            return;
        }
        if self.is_forgotten() && (host.has_nothing() || host.may_pass_for_another()) {
            // Nothing would tell it of the cluster. In Kubernetes the operator could; here somebody
            // writes the keys again first.
            self.later(1_000, Happening::StartAgent { member, boot });
            return;
        }
        let now = self.clock(member);
        let settings = self.schedule.settings;
        let past = match self.hosts[member].promise_record {
            Some((_, None)) => Past::Remembered(None),
            Some((record, promise)) if record == boot => Past::Remembered(promise),
            _ => Past::Forgotten,
        };
        self.hosts[member].agents += 1;
        let number = self.hosts[member].agents;
        let mut node = Node::new(self.name(member), settings, Some(1), past, now);
        if self.hosts[member]
            .postgres
            .data
            .as_ref()
            .is_some_and(|data| data.half_rewound)
        {
            node.remember_cluster();
        }
        let host = &self.hosts[member];
        if let Some(system_id) = host.system_record.filter(|record| {
            host.postgres
                .data
                .as_ref()
                .is_some_and(|data| data.system == *record)
        }) {
            node.remember_system(system_id);
        }
        self.hosts[member].agent = Some(Agent {
            number,
            node,
            ready: false,
            calls: BTreeMap::new(),
            wake: 0,
            step: None,
            watch: Watch::default(),
            read_wanted: None,
            seen: Rc::new(Keys::default()),
            reachable: false,
            settings,
            askers: BTreeMap::new(),
            votes_waiting: Vec::new(),
            round: None,
            replies: 0,
            postgres: Postgres::Unknown,
            probe: 0,
            next_look: 0,
            member: None,
            member_at: now,
            member_busy: false,
            status_at: None,
            history: None,
            known_settings: None,
            config_missing: None,
            config_busy: false,
            started: now,
            promises_recorded: false,
            restart_after: 0,
        });
        self.hosts[member].fence = super::world::Fence {
            generation: self.hosts[member].fence.generation + 1,
            ..Default::default()
        };
        self.tell(|world| format!("{}: agent {number} starts", world.hosts[member].name));
        match self.hosts[member].lease_record {
            // The former self is dead: a container of the same pod, or processes of an earlier
            // boot.
            Some(lease) => {
                let call = self.ask_etcd(
                    member,
                    number,
                    settings.failover.retry_timeout.0,
                    Ask::Revoke(lease),
                );
                self.agent(member).calls.insert(call, Call::Clear);
            }
            None => self.agent_ready(member),
        }
    }

    fn agent_ready(&mut self, member: usize) {
        let agent = self.agent(member);
        agent.ready = true;
        let number = agent.number;
        self.read(member);
        self.later(
            1,
            Happening::Look {
                member,
                agent: number,
            },
        );
        self.feed(member, Event::Tick);
    }

    pub(crate) fn agent(&mut self, member: usize) -> &mut Agent {
        self.hosts[member]
            .agent
            .as_mut()
            .expect("an agent that runs")
    }

    /// The agent, if this one still runs.
    pub(crate) fn live(&mut self, member: usize, number: u32) -> Option<&mut Agent> {
        self.hosts[member]
            .agent
            .as_mut()
            .filter(|agent| agent.number == number)
    }

    pub(crate) fn wake(&mut self, member: usize, number: u32) {
        let now = self.now;
        if self
            .live(member, number)
            .is_some_and(|agent| agent.ready && agent.wake <= now)
        {
            self.feed(member, Event::Tick);
        }
    }

    pub(crate) fn input(&mut self, member: usize, number: u32, event: Event) {
        if self.live(member, number).is_some_and(|agent| agent.ready) {
            self.feed(member, event);
        }
    }

    /// Gives an event to the node and performs what it says.
    pub(crate) fn feed(&mut self, member: usize, event: Event) {
        let now = self.clock(member);
        if let Event::Postgres { postgres, .. } = &event {
            self.agent(member).postgres = postgres.clone();
        }
        let effects = self.agent(member).node.on(now, event);
        for effect in effects {
            if self.hosts[member].agent.is_none() {
                return;
            }
            self.effect(member, effect);
        }
        if self.hosts[member].agent.is_none() {
            return;
        }
        self.tend(member);
        self.rest(member);
    }

    /// Sleeps until the node wants to be woken.
    fn rest(&mut self, member: usize) {
        let now = self.clock(member);
        let wake = self.agent(member).node.wake_at(now);
        let at = self.when(member, wake);
        let this = self.now;
        let agent = self.agent(member);
        let number = agent.number;
        if agent.wake <= this || at < agent.wake {
            agent.wake = at.max(this + 1);
            let at = agent.wake;
            self.at(
                at,
                Happening::Wake {
                    member,
                    agent: number,
                },
            );
        }
    }

    fn effect(&mut self, member: usize, effect: Effect) {
        let now = self.clock(member);
        let number = self.agent(member).number;
        match effect {
            Effect::GrantLease(ttl) => {
                let within = self.agent(member).settings.failover.retry_timeout.0;
                let call = self.ask_etcd(member, number, within, Ask::Grant(ttl));
                self.agent(member).calls.insert(call, Call::Grant(now));
            }
            Effect::KeepAlive(lease) => {
                let within = self.agent(member).settings.failover.retry_timeout.0;
                let call = self.ask_etcd(member, number, within, Ask::Keep(lease));
                self.agent(member)
                    .calls
                    .insert(call, Call::Keep(lease, now));
            }
            Effect::Fence(by) => self.arm(member, by),
            Effect::Perform(step, action) => self.begin_step(member, step, action),
            Effect::Abort(step) => self.abort_step(member, step),
            Effect::Probe(probe) => {
                self.agent(member).probe = probe;
                self.later(
                    2,
                    Happening::Look {
                        member,
                        agent: number,
                    },
                );
            }
            Effect::ReadDcs => {
                let agent = self.agent(member);
                agent.watch.asked += 1;
                agent.read_wanted = Some(agent.watch.asked);
                self.read(member);
            }
            Effect::AskPromises {
                round,
                members,
                within,
            } => self.ask_promises(member, round, members, within),
            Effect::WithdrawPromises { members, round } => {
                let Some(lease) = self.agent(member).node.lease().map(|lease| lease.id) else {
                    return;
                };
                self.tell(|world| {
                    format!(
                        "{}: promises are not needed any more",
                        world.hosts[member].name
                    )
                });
                for name in members {
                    if let Some(to) = self.number_of(&name) {
                        self.send(member, to, Message::Withdraw { lease, round });
                    }
                }
            }
            Effect::WriteFailsafe { over, members } => {
                let agent = self.agent(member);
                let Some(lease) = agent.node.lease().map(|lease| lease.id) else {
                    return;
                };
                let within = agent.settings.failover.retry_timeout.0;
                let call = self.ask_etcd(
                    member,
                    number,
                    within,
                    Ask::Transact(lease, Transaction::PutFailsafe(over, members)),
                );
                self.agent(member).calls.insert(call, Call::Failsafe);
            }
            Effect::AnswerPromise(reply, answer) => self.answer_promise(member, reply, answer),
            Effect::AnswerVote(reply, answer) => self.answer_vote(member, reply, answer),
            Effect::Explain(why) => {
                self.judge.reached.insert(why);
                self.tell(|world| format!("{}: {}", world.hosts[member].name, why.sentence()));
            }
            Effect::Exit => self.agent_exits(member),
        }
    }

    /// Asked to stop, and done with it: the lease goes, so that nobody waits for it.
    fn agent_exits(&mut self, member: usize) {
        let boot = self.hosts[member].boot;
        let wait = self.agent(member).restart_after;
        let (number, lease) = (
            self.agent(member).number,
            self.agent(member).node.lease().map(|lease| lease.id),
        );
        self.kill_server(member);
        if let Some(lease) = lease {
            let call = self.ask_etcd(member, number, 2_000, Ask::Revoke(lease));
            self.agent(member).calls.insert(call, Call::Last);
        }
        self.tell(|world| format!("{}: agent {number} has stopped", world.hosts[member].name));
        self.hosts[member].agent = None;
        self.later(wait.max(1), Happening::StartAgent { member, boot });
    }

    pub(crate) fn ask_to_stop(&mut self, member: usize, restart_after: u64) {
        if let Some(agent) = self.hosts[member]
            .agent
            .as_mut()
            .filter(|agent| agent.ready)
        {
            agent.restart_after = restart_after;
            let number = agent.number;
            self.later(
                0,
                Happening::Agent {
                    member,
                    agent: number,
                    event: Box::new(Event::Stop),
                },
            );
        }
    }

    // ---- etcd ----

    /// Reads all keys, unless a read that is new enough is under way.
    fn read(&mut self, member: usize) {
        let agent = self.agent(member);
        if agent.watch.reading.is_some() {
            return;
        }
        let (number, within, asked) = (
            agent.number,
            agent.settings.failover.retry_timeout.0,
            agent.watch.asked,
        );
        agent.watch.reading = Some(asked);
        let call = self.ask_etcd(member, number, within, Ask::Read);
        self.agent(member).calls.insert(call, Call::Read(asked));
    }

    /// Reads again now and then, whatever the watch tells.
    pub(crate) fn backstop(&mut self, end: usize, number: u32, reads: u64) {
        if end >= self.hosts.len() {
            self.pooler_backstop(end - self.hosts.len() - 1, number, reads);
        } else if self
            .live(end, number)
            .is_some_and(|agent| agent.watch.reads == reads)
        {
            self.read(end);
        }
    }

    pub(crate) fn news(&mut self, to: usize, number: u32, keys: Rc<Keys>) {
        if to >= self.hosts.len() {
            self.pooler_news(to - self.hosts.len() - 1, number, keys, 0);
        } else if self.live(to, number).is_some_and(|agent| agent.ready) {
            self.seen(to, keys, 0);
        }
    }

    /// etcd answered, or did not.
    pub(crate) fn answered(&mut self, to: usize, number: u32, call: u64, answer: Option<Answer>) {
        if to >= self.hosts.len() {
            self.pooler_answered(to - self.hosts.len() - 1, number, call, answer);
            return;
        }
        let Some(agent) = self.live(to, number) else {
            return;
        };
        let Some(about) = agent.calls.remove(&call) else {
            return;
        };
        match (about, answer) {
            (Call::Clear, _) => self.agent_ready(to),
            (Call::Grant(sent), Some(Answer::Granted(id, granted))) => {
                self.hosts[to].lease_record = Some(id);
                self.feed(to, Event::LeaseGranted { id, granted, sent });
            }
            (Call::Keep(id, sent), Some(Answer::Kept(true))) => {
                self.feed(to, Event::LeaseKept { id, sent });
            }
            (Call::Keep(id, _), Some(Answer::Kept(false))) => self.feed(to, Event::LeaseGone(id)),
            (Call::Grant(_) | Call::Keep(..), _) => self.feed(to, Event::LeaseUnanswered),
            (Call::Read(asked), Some(Answer::Keys(keys))) => self.has_read(to, asked, keys),
            (Call::Read(_), _) => {
                let agent = self.agent(to);
                agent.watch.reading = None;
                agent.watch.open = false;
                agent.watch.reads += 1;
                agent.reachable = false;
                let reads = agent.watch.reads;
                self.later(
                    100,
                    Happening::Backstop {
                        end: to,
                        number,
                        reads,
                    },
                );
                self.feed(to, Event::DcsLost);
            }
            (Call::Step(step), answer) => self.step_answered(to, step, answer),
            (Call::Member(lease, data), answer) => {
                let agent = self.agent(to);
                agent.member_busy = false;
                let done = matches!(answer, Some(Answer::Transacted(Some(_))));
                agent.member = done.then_some((lease, data));
            }
            (Call::Status(at), answer) => {
                if answer.is_some() {
                    self.agent(to).status_at = Some(at);
                }
            }
            (Call::History(timeline), answer) => {
                let done = matches!(answer, Some(Answer::Transacted(Some(_))));
                self.agent(to).history = done.then_some(timeline);
            }
            (Call::Failsafe, answer) => {
                let written = if let Some(Answer::Transacted(written)) = answer {
                    written
                } else {
                    None
                };
                self.feed(to, Event::FailsafeWritten(written));
            }
            (Call::Config, _) => self.agent(to).config_busy = false,
            (Call::Last, _) => {}
        }
    }

    fn has_read(&mut self, member: usize, asked: u64, keys: Rc<Keys>) {
        let agent = self.agent(member);
        agent.watch.reading = None;
        agent.watch.open = true;
        agent.watch.reads += 1;
        let (reads, number, every) = (
            agent.watch.reads,
            agent.number,
            agent.settings.failover.loop_wait.0,
        );
        self.later(
            every,
            Happening::Backstop {
                end: member,
                number,
                reads,
            },
        );
        self.seen(member, keys, asked);
        if self
            .live(member, number)
            .is_some_and(|agent| agent.watch.asked > asked)
        {
            self.read(member);
        }
    }

    fn seen(&mut self, member: usize, keys: Rc<Keys>, asked: u64) {
        let agent = self.agent(member);
        if keys.cluster.revision < agent.seen.cluster.revision {
            return;
        }
        let number = agent.number;
        agent.seen = keys.clone();
        agent.reachable = true;
        agent.known_settings = keys.settings.or(agent.known_settings);
        if let Some(settings) = keys.settings.filter(|settings| agent.settings != *settings) {
            agent.settings = settings;
            self.feed(member, Event::Settings(settings));
        }
        let Some(agent) = self.live(member, number) else {
            return;
        };
        let linearizable = agent.read_wanted.is_some_and(|wanted| asked >= wanted);
        if linearizable {
            agent.read_wanted = None;
        }
        self.feed(
            member,
            Event::Dcs {
                cluster: keys.cluster.clone(),
                linearizable,
            },
        );
        self.release_votes(member, number, asked);
        self.poolers_have_said(member, number);
    }

    // ---- votes and promises ----

    fn release_votes(&mut self, member: usize, number: u32, asked: u64) {
        let Some(agent) = self.live(member, number) else {
            return;
        };
        let (ready, waiting) = std::mem::take(&mut agent.votes_waiting)
            .into_iter()
            .partition(|(read, _)| *read <= asked);
        agent.votes_waiting = waiting;
        let ready: Vec<(u64, u64)> = ready;
        for (_, reply) in ready {
            if self.live(member, number).is_some() {
                self.feed(member, Event::VoteAsked { reply });
            }
        }
    }

    pub(crate) fn vote_asked(&mut self, member: usize, asker: Asker) {
        let Some(agent) = self.hosts[member]
            .agent
            .as_mut()
            .filter(|agent| agent.ready)
        else {
            return;
        };
        agent.replies += 1;
        let (reply, number) = (agent.replies, agent.number);
        agent.askers.insert(reply, asker);
        agent.watch.asked += 1;
        agent.votes_waiting.push((agent.watch.asked, reply));
        let leaderless = agent.seen.cluster.leader.is_none();
        self.read(member);
        if leaderless {
            self.release_votes(member, number, u64::MAX);
        }
    }

    fn answer_vote(
        &mut self,
        member: usize,
        reply: u64,
        answer: Result<(Position, Option<i32>), String>,
    ) {
        let Some(Asker::Vote { from, agent, step }) = self.agent(member).askers.remove(&reply)
        else {
            return;
        };
        if let Ok((position, _)) = &answer {
            self.judge_vote(member, *position);
        }
        let name = self.name(member);
        let vote = answer.ok().map(|(position, candidate)| mrg_election::Vote {
            member: name,
            position,
            candidate,
        });
        self.send(member, from, Message::Voted { agent, step, vote });
    }

    fn ask_promises(
        &mut self,
        member: usize,
        round: u64,
        members: Vec<MemberName>,
        within: Millis,
    ) {
        let asked = self.clock(member);
        let agent = self.agent(member);
        let (number, ttl) = (agent.number, agent.settings.failover.ttl);
        let lease = agent.node.lease().map(|lease| lease.id);
        let waiting: Vec<usize> = members
            .iter()
            .filter_map(|name| self.number_of(name))
            .collect();
        self.agent(member).round = Some(Round {
            number: round,
            asked,
            waiting: waiting.clone(),
            all: true,
        });
        if waiting.is_empty() {
            let event = Event::Promises {
                round,
                asked,
                all: true,
            };
            self.later(
                0,
                Happening::Agent {
                    member,
                    agent: number,
                    event: Box::new(event),
                },
            );
        }
        for to in waiting {
            self.send(
                member,
                to,
                Message::Promise {
                    from: member,
                    agent: number,
                    lease,
                    ttl,
                    round,
                },
            );
        }
        let late = Event::Promises {
            round,
            asked,
            all: false,
        };
        self.later(
            within.0,
            Happening::Agent {
                member,
                agent: number,
                event: Box::new(late),
            },
        );
    }

    pub(crate) fn promise_asked(
        &mut self,
        member: usize,
        from: usize,
        number: u32,
        lease: Option<LeaseId>,
        ttl: Millis,
        round: u64,
    ) {
        let Some(agent) = self.hosts[member]
            .agent
            .as_mut()
            .filter(|agent| agent.ready)
        else {
            // Nobody listens: the connection is refused.
            self.send(
                member,
                from,
                Message::Promised {
                    agent: number,
                    round,
                    from: member,
                    given: false,
                },
            );
            return;
        };
        agent.replies += 1;
        let reply = agent.replies;
        agent.askers.insert(
            reply,
            Asker::Promise {
                from,
                agent: number,
                round,
            },
        );
        let leader = self.name(from);
        self.feed(
            member,
            Event::PromiseAsked(PromiseRequest {
                reply,
                leader,
                lease,
                ttl,
                round,
            }),
        );
    }

    fn answer_promise(&mut self, member: usize, reply: u64, answer: Result<Promise, String>) {
        let Some(Asker::Promise { from, agent, round }) = self.agent(member).askers.remove(&reply)
        else {
            return;
        };
        self.tell(|world| {
            format!(
                "{}: asked by {} for a promise: {answer:?}",
                world.hosts[member].name, world.hosts[from].name
            )
        });
        if let Ok(promise) = &answer {
            // Written down before it is given.
            self.hosts[member].promise_record = Some((self.hosts[member].boot, Some(*promise)));
        }
        self.send(
            member,
            from,
            Message::Promised {
                agent,
                round,
                from: member,
                given: answer.is_ok(),
            },
        );
    }

    pub(crate) fn promised_by(
        &mut self,
        member: usize,
        number: u32,
        round: u64,
        from: usize,
        given: bool,
    ) {
        let Some(agent) = self.live(member, number) else {
            return;
        };
        let Some(open) = agent.round.as_mut().filter(|open| open.number == round) else {
            return;
        };
        open.waiting.retain(|waiting| *waiting != from);
        open.all &= given;
        if open.waiting.is_empty() {
            let all = open.all;
            let event = Event::Promises {
                round,
                asked: open.asked,
                all: open.all,
            };
            agent.round = None;
            self.tell(|world| {
                format!(
                    "{}: round {round} of promises: {}",
                    world.hosts[member].name,
                    if all { "all" } else { "not all" }
                )
            });
            self.feed(member, event);
        }
    }

    pub(crate) fn withdrawn(&mut self, member: usize, lease: LeaseId, round: u64) {
        if self.hosts[member]
            .agent
            .as_ref()
            .is_some_and(|agent| agent.ready)
        {
            self.feed(member, Event::PromiseWithdrawn { lease, round });
        }
    }

    // ---- what does not decide ----

    fn tend(&mut self, member: usize) {
        let now = self.clock(member);
        self.begin_promise_record(member, now);
        let agent = self.agent(member);
        if !agent.reachable {
            return;
        }
        let initialize = agent.seen.cluster.initialize;
        let Some(lease) = agent.node.lease().map(|lease| lease.id) else {
            return;
        };
        let host = &mut self.hosts[member];
        if let Some(data) = host
            .postgres
            .data
            .as_mut()
            .filter(|data| initialize == Some(mrg_election::Initialize::Done(data.system)))
        {
            data.unfinished = false;
            host.system_record = Some(data.system);
        }
        self.write_member(member, lease, now);
        self.restore_config(member, lease, now);
        let agent = self.agent(member);
        let leads = agent.node.view(now).holds_key();
        let Postgres::Primary(primary) = &agent.postgres else {
            return;
        };
        if !leads || !matches!(initialize, Some(mrg_election::Initialize::Done(_))) {
            return;
        }
        let (position, every, number) = (
            primary.position,
            agent.settings.failover.loop_wait,
            agent.number,
        );
        if agent.status_at.is_none_or(|at| now.since(at) >= every) {
            agent.status_at = Some(now);
            let call = self.ask_etcd(
                member,
                number,
                every.0,
                Ask::Transact(lease, Transaction::PutStatus(position.flushed)),
            );
            self.agent(member).calls.insert(call, Call::Status(now));
        }
        let newest = self.agent(member).seen.cluster.timeline;
        if self.agent(member).history != Some(position.timeline)
            && position.timeline > Timeline(1)
            && newest <= Some(position.timeline)
        {
            self.agent(member).history = Some(position.timeline);
            let known = self.agent(member).seen.cluster.timeline;
            let call = self.ask_etcd(
                member,
                number,
                every.0,
                Ask::Transact(lease, Transaction::PutHistory(position.timeline, known)),
            );
            self.agent(member)
                .calls
                .insert(call, Call::History(position.timeline));
        }
    }

    fn begin_promise_record(&mut self, member: usize, now: Moment) {
        let agent = self.agent(member);
        if agent.promises_recorded || now.since(agent.started) < agent.settings.failover.ttl {
            return;
        }
        agent.promises_recorded = true;
        let host = &mut self.hosts[member];
        host.promise_record.get_or_insert((host.boot, None));
    }

    fn write_member(&mut self, member: usize, lease: LeaseId, now: Moment) {
        let name = self.name(member);
        let agent = self.agent(member);
        if agent.member_busy {
            return;
        }
        let (running, primary, position) = match &agent.postgres {
            Postgres::Primary(primary) => (true, true, Some(primary.position)),
            Postgres::Standby(standby) => (true, false, standby.position),
            _ => (false, false, None),
        };
        let data = Member {
            lease,
            running,
            primary,
            position,
            may_lead: true,
            may_sync: true,
        };
        let stored = agent.seen.cluster.members.get(&name);
        let lost = stored.is_none_or(|stored| stored.lease != lease)
            && now.since(agent.member_at) > Millis(500);
        let due = now.since(agent.member_at) >= agent.settings.failover.loop_wait;
        let write = match &agent.member {
            Some((old_lease, old)) if *old_lease == lease && !lost => {
                (old.running, old.primary) != (running, primary) || due && *old != data
            }
            _ => true,
        };
        if !write {
            return;
        }
        agent.member_busy = true;
        agent.member_at = now;
        let (number, within, former) = (
            agent.number,
            agent.settings.failover.retry_timeout.0,
            agent.node.former_lease(),
        );
        let call = self.ask_etcd(
            member,
            number,
            within,
            Ask::Transact(lease, Transaction::ClaimMember(data.clone(), former)),
        );
        self.agent(member)
            .calls
            .insert(call, Call::Member(lease, data));
    }

    fn restore_config(&mut self, member: usize, lease: LeaseId, now: Moment) {
        let agent = self.agent(member);
        if agent.seen.settings.is_some() || agent.config_busy {
            agent.config_missing = None;
            return;
        }
        let since = *agent.config_missing.get_or_insert(now);
        let loop_wait = agent.settings.failover.loop_wait;
        let patience = match (
            agent.node.view(now).holds_key(),
            agent.known_settings.is_some(),
        ) {
            (true, true) => Millis(0),
            (false, true) => loop_wait,
            (true, false) => Millis(3 * loop_wait.0),
            (false, false) => return,
        };
        if now.since(since) < patience {
            return;
        }
        let known = agent.known_settings.unwrap_or(agent.settings);
        agent.config_busy = true;
        let (number, within) = (agent.number, agent.settings.failover.retry_timeout.0);
        let call = self.ask_etcd(
            member,
            number,
            within,
            Ask::Transact(lease, Transaction::RestoreConfig(known)),
        );
        self.agent(member).calls.insert(call, Call::Config);
    }

    /// The agent looks at its postgres, as asked or as it does now and then.
    pub(crate) fn look_again(&mut self, member: usize, number: u32) {
        let Some(agent) = self.live(member, number).filter(|agent| agent.ready) else {
            return;
        };
        let probe = agent.probe;
        let postgres = self.look(member);
        let settling = matches!(postgres, Postgres::Starting);
        let wait = if settling { 25 } else { 1_000 };
        self.look_in(member, number, wait);
        let event = Event::Postgres { probe, postgres };
        self.later(
            0,
            Happening::Agent {
                member,
                agent: number,
                event: Box::new(event),
            },
        );
    }

    fn look_in(&mut self, member: usize, number: u32, wait: u64) {
        // One regular look is enough; those that were asked for come between.
        let now = self.now;
        let Some(agent) = self.live(member, number) else {
            return;
        };
        if agent.next_look <= now || agent.next_look > now + wait {
            agent.next_look = now + wait;
            self.later(
                wait,
                Happening::Look {
                    member,
                    agent: number,
                },
            );
        }
    }

    pub(crate) fn outcome(&mut self, member: usize, step: StepId, outcome: Outcome) {
        let agent = self.agent(member);
        if agent
            .step
            .as_ref()
            .is_some_and(|running| running.step == step)
        {
            agent.step = None;
            self.feed(member, Event::Finished { step, outcome });
        }
    }
}
