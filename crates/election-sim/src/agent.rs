//! The agent's part: it feeds the machines of the core and performs what they say, against the
//! model.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::etcd::Keys;
use crate::event::{Ask, SimulationEvent, Stamp};
use crate::known_config::KnownConfig;
use crate::publish::Urls;
use crate::steps::Running;
use crate::votes::{Asker, Round};
use crate::watch::{Call, Watch};
use crate::world::World;
use mrg_base::{MemberName, Moment};
use mrg_dcs::wire::{MemberData, StatusData};
use mrg_election::publisher::Publisher;
use mrg_election::watch_order::{WatchInput, WatchOrder};
use mrg_election::{
    Effect, Event, Node, Outcome, Postgres, PreviousIncarnation, Revision, Settings, StepId,
};

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
    pub urls: Urls,
    pub seen: Rc<Keys>,
    pub reachable: bool,
    pub settings: Settings,
    pub askers: BTreeMap<u64, Asker>,
    pub round: Option<Round>,
    pub replies: u64,
    pub postgres: Postgres,
    probe: u64,
    next_look: u64,
    pub config: KnownConfig,
    /// The newest revision that a read has shown.
    pub known: Revision,
    /// Which etcd answered the last read: how often it went back before.
    pub era: u32,
    pub started: Moment,
    pub promises_recorded: bool,
    restart_after: u64,
}

impl Agent {
    fn new(
        number: u32,
        node: Node,
        me: &MemberName,
        urls: Urls,
        settings: Settings,
        now: Moment,
    ) -> Self {
        Self {
            number,
            node,
            ready: false,
            calls: BTreeMap::new(),
            wake: 0,
            step: None,
            watch: Watch::default(),
            order: WatchOrder::default(),
            publisher: Publisher::new(me.clone(), now),
            urls,
            seen: Rc::new(Keys::default()),
            reachable: false,
            settings,
            askers: BTreeMap::new(),
            round: None,
            replies: 0,
            postgres: Postgres::Unknown,
            probe: 0,
            next_look: 0,
            config: KnownConfig::default(),
            known: Revision(0),
            era: 0,
            started: now,
            promises_recorded: false,
            restart_after: 0,
        }
    }
}

impl Agent {
    /// etcd is known to have come this far.
    pub(crate) fn learn(&mut self, stamp: Stamp) {
        if stamp.era == self.era {
            self.known = self.known.max(stamp.revision);
        }
    }
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
        let node = self.new_node(member, now);
        let host = &mut self.hosts[member];
        host.agents += 1;
        let number = host.agents;
        host.agent = Some(Agent::new(
            number,
            node,
            &host.name,
            Urls::of(member),
            settings,
            now,
        ));
        if let Some(mark) = self.hosts[member].dcs_record {
            self.agent(member).known = mark;
        }
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

    /// A node that knows what the volume and the records of the pod tell it.
    fn new_node(&self, member: usize, now: Moment) -> Node {
        let host = &self.hosts[member];
        let past = match host.promise_record {
            Some((_, None)) => PreviousIncarnation::Known(None),
            Some((record, promise)) if record == host.boot => PreviousIncarnation::Known(promise),
            _ => PreviousIncarnation::Unknown,
        };
        let settings = self.schedule.settings;
        let mut node = Node::new(host.name.clone(), settings, Some(1), past, now);
        let data = host.postgres.data.as_ref();
        if data.is_some_and(|data| data.half_rewound) {
            node.remember_cluster();
        }
        let here = |system: &u64| data.is_some_and(|data| data.system == *system);
        if let Some(system_id) = host.system_record.filter(here) {
            node.remember_system(system_id);
        }
        node
    }

    /// Nothing of its former self is left: it begins.
    pub(crate) fn agent_ready(&mut self, member: usize) {
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

    /// The agent, if it is still this one, gets an event after so long.
    pub(crate) fn agent_event(&mut self, member: usize, agent: u32, wait: u64, event: Event) {
        let event = Box::new(event);
        self.later(
            wait,
            SimulationEvent::Agent {
                member,
                agent,
                event,
            },
        );
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
                let known = self.agent(member).known;
                let call = self.ask_etcd(member, number, within, Ask::Keep(lease));
                self.agent(member)
                    .calls
                    .insert(call, Call::Keep(lease, now, known));
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
                self.withdraw_promises(member, members, round);
            }
            Effect::WriteFailsafe { over, members } => {
                let url = self.agent(member).urls.api.clone();
                let written =
                    self.with_writer(member, |writer| writer.failsafe(over, members, &url));
                if let Ok(transaction) = written {
                    self.ask_to_write(member, transaction, Call::Failsafe);
                }
            }
            Effect::AnswerPromise(reply, answer) => self.answer_promise(member, reply, answer),
            Effect::AnswerVote(reply, answer) => self.answer_vote(member, reply, answer),
            Effect::Explain(reason) => {
                self.judge.reached.insert(reason);
                self.judge_sickness(member, reason);
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
            self.agent_event(member, number, 0, Event::Stop);
        }
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
        self.agent_event(member, number, 0, event);
        self.pulse(member, number);
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
