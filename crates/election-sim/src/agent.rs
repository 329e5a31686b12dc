//! The agent's part: it feeds the machines of the core and performs what they say, against the
//! model.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::etcd::Keys;
use crate::event::{Answer, Ask, Message, SimulationEvent};
use crate::publish::api_url;
use crate::steps::Running;
use crate::votes::{Asker, Round};
use crate::world::World;
use mrg_base::Moment;
use mrg_dcs::DynamicConfig;
use mrg_dcs::wire::{MemberData, StatusData};
use mrg_election::publisher::{Publisher, PublisherEvent};
use mrg_election::watch_order::{WatchInput, WatchOrder, WatchOutput};
use mrg_election::{
    Effect, Event, LeaseId, Node, Outcome, Postgres, PreviousIncarnation, Settings, StepId,
};

/// What a question to etcd was for.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Clear,
    Grant(Moment),
    Keep(LeaseId, Moment),
    Read(u64),
    Step(StepId),
    Poolers(StepId),
    Member,
    Status,
    History,
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

/// An agent's process.
pub(super) struct Agent {
    pub number: u32,
    pub node: Node,
    pub ready: bool,
    pub calls: BTreeMap<u64, Call>,
    pub wake: u64,
    pub step: Option<Running>,
    pub watch: Watch,
    pub order: WatchOrder,
    pub publisher: Publisher<MemberData, StatusData>,
    pub seen: Rc<Keys>,
    pub reachable: bool,
    pub settings: Settings,
    pub askers: BTreeMap<u64, Asker>,
    pub round: Option<Round>,
    pub replies: u64,
    pub postgres: Postgres,
    probe: u64,
    next_look: u64,
    /// The last configuration that was read.
    pub known_config: Option<DynamicConfig>,
    pub started: Moment,
    pub promises_recorded: bool,
    restart_after: u64,
}

fn is_done(answer: Option<&Answer>) -> bool {
    matches!(answer, Some(Answer::Transacted(Ok(Some(_)))))
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
            self.later(1_000, SimulationEvent::StartAgent { member, boot });
            return;
        }
        let now = self.clock(member);
        let settings = self.schedule.settings;
        let past = match self.hosts[member].promise_record {
            Some((_, None)) => PreviousIncarnation::Known(None),
            Some((record, promise)) if record == boot => PreviousIncarnation::Known(promise),
            _ => PreviousIncarnation::Unknown,
        };
        self.hosts[member].agents += 1;
        let number = self.hosts[member].agents;
        let me = self.name(member);
        let mut node = Node::new(me.clone(), settings, Some(1), past, now);
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
            order: WatchOrder::default(),
            publisher: Publisher::new(me, now),
            seen: Rc::new(Keys::default()),
            reachable: false,
            settings,
            askers: BTreeMap::new(),
            round: None,
            replies: 0,
            postgres: Postgres::Unknown,
            probe: 0,
            next_look: 0,
            known_config: None,
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
            SimulationEvent::Look {
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
        self.publish(member);
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
                SimulationEvent::Wake {
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
                    SimulationEvent::Look {
                        member,
                        agent: number,
                    },
                );
            }
            Effect::ReadDcs => self.order(member, WatchInput::ReadWanted),
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
                let url = api_url(member);
                let written = self.with_writer(member, |writer| {
                    writer.failsafe(over, members.clone(), &url)
                });
                if let Ok(transaction) = written {
                    self.ask_to_write(member, transaction, Call::Failsafe);
                }
            }
            Effect::AnswerPromise(reply, answer) => self.answer_promise(member, reply, answer),
            Effect::AnswerVote(reply, answer) => self.answer_vote(member, reply, answer),
            Effect::Explain(reason) => {
                self.judge.reached.insert(reason);
                self.tell(|world| format!("{}: {}", world.hosts[member].name, reason.sentence()));
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
        self.later(wait.max(1), SimulationEvent::StartAgent { member, boot });
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
                SimulationEvent::Agent {
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
            self.seen(to, &keys, 0);
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
                    SimulationEvent::Backstop {
                        end: to,
                        number,
                        reads,
                    },
                );
                self.feed(to, Event::DcsLost);
            }
            (Call::Step(step), answer) => self.step_answered(to, step, answer),
            (Call::Poolers(step), answer) => self.poolers_read(to, step, answer),
            (Call::Member, answer) => {
                self.published(to, PublisherEvent::MemberWritten(is_done(answer.as_ref())));
            }
            (Call::Status, answer) => {
                self.published(to, PublisherEvent::StatusWritten(is_done(answer.as_ref())));
            }
            (Call::History, answer) => {
                self.published(to, PublisherEvent::HistoryWritten(is_done(answer.as_ref())));
            }
            (Call::Failsafe, answer) => {
                let written = match answer {
                    Some(Answer::Transacted(Ok(written))) => written,
                    _ => None,
                };
                self.feed(to, Event::FailsafeWritten(written));
            }
            (Call::Config, _) => self.published(to, PublisherEvent::ConfigWritten),
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
            SimulationEvent::Backstop {
                end: member,
                number,
                reads,
            },
        );
        self.seen(member, &keys, asked);
        if self
            .live(member, number)
            .is_some_and(|agent| agent.watch.asked > asked)
        {
            self.read(member);
        }
    }

    fn seen(&mut self, member: usize, keys: &Rc<Keys>, asked: u64) {
        let arrived = WatchInput::Arrived {
            revision: keys.cluster.revision,
            has_leader: keys.snapshot.leader_key().is_some(),
        };
        let agent = self.agent(member);
        let number = agent.number;
        if agent.order.on(arrived).is_empty() {
            return;
        }
        let former = std::mem::replace(&mut agent.seen, keys.clone());
        agent.reachable = true;
        let modified = |keys: &Keys| keys.config().map(|(revision, _)| revision);
        if modified(keys) != modified(&former) {
            let read = keys.config().map(|(_, config)| config.clone());
            agent.known_config = read.or(agent.known_config.take());
        }
        if let Some(settings) = keys.settings.filter(|settings| agent.settings != *settings) {
            agent.settings = settings;
            self.feed(member, Event::Settings(settings));
        }
        if self.live(member, number).is_some() {
            self.order(member, WatchInput::Configured { asked });
        }
        self.poolers_changed(member, number);
    }

    /// Gives an input to the order of reads and snapshots, and performs what it says.
    pub(crate) fn order(&mut self, member: usize, input: WatchInput) {
        let agent = self.agent(member);
        let (number, seen) = (agent.number, agent.seen.clone());
        for output in agent.order.on(input) {
            let Some(agent) = self.live(member, number) else {
                return;
            };
            match output {
                WatchOutput::Read(count) => {
                    agent.watch.asked = count;
                    self.read(member);
                }
                WatchOutput::Deliver { linearizable } => {
                    let cluster = seen.cluster.clone();
                    let event = Event::Dcs {
                        cluster,
                        linearizable,
                    };
                    self.feed(member, event);
                }
                WatchOutput::Vote { reply } => self.feed(member, Event::VoteAsked { reply }),
                // Only an arrival is answered so.
                WatchOutput::Take => {}
            }
        }
    }

    // ---- votes and promises ----

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
            SimulationEvent::Agent {
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
                SimulationEvent::Look {
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
