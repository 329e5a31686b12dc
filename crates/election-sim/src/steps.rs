//! Performs the steps of a decision, as `agent/perform.rs` does, against the model.

use std::collections::BTreeSet;

use crate::agent::Call;
use crate::etcd::Keys;
use crate::event::{Answer, Ask, Message, SimulationEvent};
use crate::postgres::{Server, lsn};
use crate::world::{Fence, World};
use mrg_base::{MemberName, Millis, Moment};
use mrg_dcs::{Transaction, Untried};
use mrg_election::pool_pause::{PauseEffect, PauseEvent, PoolPause};
use mrg_election::{Action, Event, Outcome, Revision, StepId, StopMode, Vote};

/// Peers that are alive answer in a few milliseconds; one that is not must not hold up an election.
const VOTE_WITHIN: u64 = 700;

/// A step that is being performed.
pub(super) struct Running {
    pub step: StepId,
    pub action: Action,
    pub votes: Vec<Vote>,
    pub waiting: BTreeSet<usize>,
    pub incarnation: u32,
    pub pause: Option<PoolPause>,
    /// What came of it, of a step that ended at once.
    pub ended: Option<Outcome>,
}

fn refused() -> Outcome {
    Outcome::Refused("another was faster".to_owned())
}

fn leadership(keys: &Keys) -> Option<Revision> {
    keys.snapshot.leader_key().map(|key| key.created)
}

pub(super) fn failed(reason: &str) -> Outcome {
    Outcome::Failed(reason.to_owned())
}

impl World {
    pub(crate) fn begin_step(&mut self, member: usize, step: StepId, action: Action) {
        self.tell(|world| format!("{}: {action:?}", world.hosts[member].name));
        let incarnation = self.hosts[member].postgres.incarnation;
        let running = Running {
            step,
            action: action.clone(),
            votes: Vec::new(),
            waiting: BTreeSet::new(),
            incarnation,
            pause: None,
            ended: None,
        };
        self.agent(member).step = Some(running);
        match self.with_writer(member, |writer| writer.action(&action)) {
            Ok(Some(transaction)) => {
                if action == Action::AbandonInitialize {
                    self.hosts[member].postgres.data = None;
                }
                self.ask_to_write(member, transaction, Call::Step(step));
            }
            Ok(None) => self.begin_here(member, step, action),
            Err(untried) => self.end_at_once(member, step, untried.outcome()),
        }
    }

    /// Begins what is more than a write to etcd.
    fn begin_here(&mut self, member: usize, step: StepId, action: Action) {
        match action {
            Action::PausePoolers { may_abandon } => self.pause_poolers(member, step, may_abandon),
            Action::AskPeers(peers) => self.ask_peers(member, step, &peers),
            Action::AwaitReceipt {
                candidates,
                position,
            } => self.await_receipt(member, step, &candidates, position),
            other => {
                let wait = self.begin_local(member, &other);
                self.done_in(member, step, wait);
            }
        }
    }

    /// The step is done after so long.
    fn done_in(&mut self, member: usize, step: StepId, wait: u64) {
        let agent = self.agent(member).number;
        self.later(
            wait,
            SimulationEvent::StepDone {
                member,
                agent,
                step,
            },
        );
    }

    fn end_at_once(&mut self, member: usize, step: StepId, outcome: Outcome) {
        let running = self.agent(member).step.as_mut();
        if let Some(running) = running.filter(|running| running.step == step) {
            running.ended = Some(outcome);
            self.done_in(member, step, 0);
        }
    }

    fn retry(&mut self, member: usize) -> u64 {
        self.agent(member).settings.failover.retry_timeout.0
    }

    /// etcd answered a step's question, or did not.
    pub(crate) fn step_answered(&mut self, member: usize, step: StepId, answer: Option<Answer>) {
        let Some(running) = self
            .agent(member)
            .step
            .as_mut()
            .filter(|running| running.step == step)
        else {
            return;
        };
        let pauses = running.pause.is_some();
        let stores = matches!(running.action, Action::StoreSystemId(_));
        let outcome = match answer {
            Some(Answer::Transacted(Ok(Some(revision)))) => {
                if let Some(data) = self.hosts[member].postgres.data.as_mut().filter(|_| stores) {
                    data.unfinished = false;
                }
                Outcome::Written(revision)
            }
            Some(Answer::Transacted(Err(lease))) => failed(&format!("lease {} is gone", lease.0)),
            Some(_) => refused(),
            None => Outcome::Unknown("etcd did not answer".to_owned()),
        };
        if pauses {
            return self.pause_event(member, step, PauseEvent::Requested(outcome));
        }
        self.outcome(member, step, outcome);
    }

    // ---- poolers ----

    fn pause_poolers(&mut self, member: usize, step: StepId, may_abandon: bool) {
        let (now, within) = (self.clock(member), self.retry(member));
        let agent = self.agent(member);
        let number = agent.number;
        if let Some(running) = &mut agent.step {
            running.pause = Some(PoolPause::new(now, Millis(within), may_abandon));
        }
        let call = self.ask_etcd(member, number, within, Ask::Read);
        self.agent(member).calls.insert(call, Call::Poolers(step));
    }

    /// The poolers' records were read, or were not.
    pub(crate) fn poolers_read(&mut self, member: usize, step: StepId, answer: Option<Answer>) {
        let event = match answer {
            Some(Answer::Keys(keys)) => PauseEvent::Poolers {
                poolers: keys.poolers.write_poolers(),
                leadership: leadership(&self.agent(member).seen),
            },
            _ => PauseEvent::Lost,
        };
        self.pause_event(member, step, event);
    }

    /// The watch delivered the poolers' records.
    pub(crate) fn poolers_changed(&mut self, member: usize, number: u32) {
        let Some(agent) = self.live(member, number) else {
            return;
        };
        let seen = agent.seen.clone();
        if let Some(step) = agent.step.as_ref().map(|running| running.step) {
            let event = PauseEvent::Poolers {
                poolers: seen.poolers.write_poolers(),
                leadership: leadership(&seen),
            };
            self.pause_event(member, step, event);
        }
    }

    /// Gives an event to the request to the poolers, if there is one, and performs what it says.
    fn pause_event(&mut self, member: usize, step: StepId, event: PauseEvent) {
        let now = self.clock(member);
        let agent = self.agent(member);
        let number = agent.number;
        let running = agent.step.as_mut().filter(|running| running.step == step);
        let Some(pause) = running.and_then(|running| running.pause.as_mut()) else {
            return;
        };
        let timed = matches!(event, PauseEvent::Tick | PauseEvent::Requested(_));
        let effects = pause.on(now, event);
        if let Some(wake) = pause.wake_at(now).filter(|wake| timed && *wake > now) {
            let at = self.when(member, wake);
            let late = SimulationEvent::StepLate {
                member,
                agent: number,
                step,
            };
            self.at(at, late);
        }
        for effect in effects {
            match effect {
                PauseEffect::Request { leadership } => {
                    self.request_pause(member, step, leadership);
                }
                PauseEffect::Withdraw => self.withdraw_pause(member),
                PauseEffect::Cut { pods } => self.tell(|world| {
                    let name = &world.hosts[member].name;
                    format!("{name}: transactions of {pods:?} are cut")
                }),
                PauseEffect::End(outcome) => return self.outcome(member, step, outcome),
            }
        }
    }

    fn request_pause(&mut self, member: usize, step: StepId, leadership: Revision) {
        match self.agent(member).node.lease().map(|lease| lease.id) {
            Some(lease) => {
                let request = Transaction::ask_poolers(lease, leadership);
                self.ask_to_write(member, request, Call::Step(step));
            }
            None => self.end_at_once(member, step, Untried::NoLease.outcome()),
        }
    }

    fn withdraw_pause(&mut self, member: usize) {
        if let Some(lease) = self.agent(member).node.lease().map(|lease| lease.id) {
            self.ask_to_write(member, Transaction::resume_poolers(lease), Call::Last);
        }
    }

    // ---- peers ----

    fn ask_peers(&mut self, member: usize, step: StepId, peers: &BTreeSet<MemberName>) {
        let number = self.agent(member).number;
        let peers: BTreeSet<usize> = peers
            .iter()
            .filter_map(|name| self.number_of(name))
            .collect();
        if let Some(running) = &mut self.agent(member).step {
            running.waiting.clone_from(&peers);
        }
        if peers.is_empty() {
            self.done_in(member, step, 0);
            return;
        }
        for peer in peers {
            self.send(
                member,
                peer,
                Message::Vote {
                    from: member,
                    agent: number,
                    step,
                },
            );
        }
        self.later(
            VOTE_WITHIN,
            SimulationEvent::StepLate {
                member,
                agent: number,
                step,
            },
        );
    }

    pub(crate) fn voted(
        &mut self,
        member: usize,
        from: usize,
        number: u32,
        step: StepId,
        vote: Option<Vote>,
    ) {
        let Some(running) = self
            .live(member, number)
            .and_then(|agent| agent.step.as_mut())
            .filter(|running| running.step == step)
        else {
            return;
        };
        if running.waiting.remove(&from) {
            running.votes.extend(vote);
        }
        if running.waiting.is_empty() {
            let votes = std::mem::take(&mut running.votes);
            self.outcome(member, step, Outcome::Votes(votes));
        }
    }

    fn await_receipt(
        &mut self,
        member: usize,
        step: StepId,
        candidates: &BTreeSet<MemberName>,
        past: mrg_base::Position,
    ) {
        let number = self.agent(member).number;
        let within = self.retry(member).min(3_000);
        let until = self.now + within;
        let candidates: Vec<usize> = candidates
            .iter()
            .filter_map(|name| self.number_of(name))
            .collect();
        for candidate in candidates {
            self.send(
                member,
                candidate,
                Message::Receipt {
                    from: member,
                    agent: number,
                    step,
                    past,
                    until,
                },
            );
        }
        self.later(
            within,
            SimulationEvent::StepLate {
                member,
                agent: number,
                step,
            },
        );
    }

    /// A candidate is asked whether it has WAL past a position; it answers once it has.
    pub(crate) fn receipt_asked(&mut self, member: usize, message: Message) {
        let Message::Receipt {
            from,
            agent,
            step,
            past,
            until,
        } = message
        else {
            return;
        };
        if self.hosts[member].agent.is_none() || self.now > until {
            return;
        }
        let postgres = &self.hosts[member].postgres;
        let has = matches!(postgres.server, Server::Standby { .. })
            && postgres
                .data
                .as_ref()
                .is_some_and(|data| lsn(data.flushed).0 > past.flushed.0);
        if has {
            self.send(member, from, Message::Received { agent, step });
        } else {
            self.later(
                10,
                SimulationEvent::Arrives {
                    from,
                    to: member,
                    message: Box::new(Message::Receipt {
                        from,
                        agent,
                        step,
                        past,
                        until,
                    }),
                },
            );
        }
    }

    pub(crate) fn received(&mut self, member: usize, number: u32, step: StepId) {
        if self.live(member, number).is_some() {
            self.outcome(member, step, Outcome::Done);
        }
    }

    /// The time for answers is over.
    pub(crate) fn step_late(&mut self, member: usize, number: u32, step: StepId) {
        let Some(running) = self
            .live(member, number)
            .and_then(|agent| agent.step.as_mut())
            .filter(|running| running.step == step)
        else {
            return;
        };
        match running.action {
            Action::AskPeers(_) => {
                let votes = std::mem::take(&mut running.votes);
                self.outcome(member, step, Outcome::Votes(votes));
            }
            Action::AwaitReceipt { .. } => {
                self.outcome(member, step, failed("not received in time"));
            }
            Action::PausePoolers { .. } => self.pause_event(member, step, PauseEvent::Tick),
            _ => {}
        }
    }

    // ---- the local server ----

    /// Begins what a step does to the local server; how long it takes.
    fn begin_local(&mut self, member: usize, action: &Action) -> u64 {
        let delays = self.schedule.delays;
        match action {
            Action::InitDb => self.takes(delays.copy) / 2,
            Action::Start(as_) => {
                self.start_server(member, as_);
                3
            }
            Action::Stop(StopMode::Kill) => self.random.between(1, 40),
            Action::Stop(StopMode::Fast) => self.stop_server(member),
            Action::Promote => self.promote_server(member),
            Action::Checkpoint => self.takes(delays.checkpoint),
            Action::StopReceiver | Action::Follow(_) => self.random.between(1, 8),
            Action::SetSyncNames(names) => {
                let half = self.random.between(1, 15);
                let boot = self.hosts[member].boot;
                self.later(
                    half,
                    SimulationEvent::Names {
                        member,
                        boot,
                        names: names.clone(),
                    },
                );
                2 * half + 1
            }
            Action::Rewind(_) => {
                if let Some(data) = &mut self.hosts[member].postgres.data {
                    data.half_rewound = true;
                }
                self.takes(delays.copy) / 2
            }
            Action::BaseBackup(_) => self.takes(delays.copy),
            Action::ConfirmLeader(leader) => {
                let reached = self
                    .number_of(leader)
                    .is_some_and(|leader| self.reaches(member, leader));
                if reached {
                    self.random.between(2, 10)
                } else {
                    1_000
                }
            }
            _ => self.random.between(1, 10),
        }
    }

    /// Whether a connection between two members stands.
    pub(crate) fn reaches(&self, from: usize, to: usize) -> bool {
        self.cut[from][to] == 0 && self.cut[to][from] == 0 && self.standing(to).is_none()
    }

    /// What was begun is done, or has failed.
    pub(crate) fn step_done(&mut self, member: usize, number: u32, step: StepId) {
        let Some(running) = self
            .live(member, number)
            .and_then(|agent| agent.step.as_mut())
            .filter(|running| running.step == step)
        else {
            return;
        };
        let (action, incarnation) = (running.action.clone(), running.incarnation);
        let ended = running.ended.take();
        let outcome = ended.unwrap_or_else(|| self.complete(member, &action, incarnation));
        if !outcome.is_success() {
            self.tell(|world| format!("{}: {action:?} {outcome:?}", world.hosts[member].name));
        }
        self.outcome(member, step, outcome);
    }

    fn complete(&mut self, member: usize, action: &Action, incarnation: u32) -> Outcome {
        match action {
            Action::InitDb => {
                self.judge.systems += 1;
                let system = self.judge.systems;
                self.hosts[member].postgres.data = Some(crate::postgres::Data::new(system));
                Outcome::Done
            }
            Action::Start(_) | Action::Follow(_) | Action::PostBootstrap | Action::Checkpoint => {
                self.complete_running(member, action)
            }
            Action::Stop(StopMode::Kill) => {
                self.kill_server(member);
                Outcome::Done
            }
            Action::Stop(StopMode::Fast) => self.server_stopped(member),
            Action::Promote | Action::SetSyncNames(_) => {
                self.complete_position(member, incarnation)
            }
            Action::StopReceiver => self.receiver_stopped(member),
            Action::ConfirmLeader(leader) => match self.source(member, leader) {
                Ok(_) => Outcome::Done,
                Err(reason) => failed(reason),
            },
            Action::RemoveData => {
                self.hosts[member].postgres.data = None;
                Outcome::Done
            }
            Action::Rewind(leader) => self.rewound(member, leader),
            Action::BaseBackup(leader) => self.copied(member, leader),
            Action::AskPeers(_) => Outcome::Votes(Vec::new()),
            _ => failed("it is a question to others"),
        }
    }

    fn complete_running(&mut self, member: usize, action: &Action) -> Outcome {
        match action {
            Action::Follow(leader) => {
                let Some(upstream) = self.number_of(leader) else {
                    return failed("its address is not known");
                };
                self.follow(member, upstream);
                Outcome::Done
            }
            _ if self.hosts[member].postgres.runs() => Outcome::Done,
            _ => failed("postgres does not run"),
        }
    }

    fn complete_position(&mut self, member: usize, incarnation: u32) -> Outcome {
        let postgres = &self.hosts[member].postgres;
        let same = postgres.incarnation == incarnation
            && matches!(postgres.server, Server::Primary | Server::Standby { .. });
        match &postgres.data {
            Some(data) if same => Outcome::At(data.position()),
            _ => failed("postgres does not run"),
        }
    }

    pub(crate) fn abort_step(&mut self, member: usize, step: StepId) {
        let agent = self.agent(member);
        if agent
            .step
            .as_ref()
            .is_some_and(|running| running.step == step)
        {
            agent.step = None;
        }
    }

    // ---- the fence ----

    pub(crate) fn arm(&mut self, member: usize, by: Option<Moment>) {
        let generation = self.hosts[member].fence.generation + 1;
        self.hosts[member].fence = Fence {
            deadline: by,
            fired: false,
            generation,
        };
        if let Some(by) = by {
            let at = self.when(member, by - mrg_base::Millis(150));
            self.at(at, SimulationEvent::Fence { member, generation });
        }
    }

    pub(crate) fn enforce(&mut self, member: usize, generation: u32) {
        let fence = &mut self.hosts[member].fence;
        if fence.generation != generation || fence.deadline.is_none() {
            return;
        }
        fence.deadline = None;
        fence.fired = true;
        if self.hosts[member].postgres.runs() {
            self.tell(|world| format!("{}: the fence kills postgres", world.hosts[member].name));
            self.kill_server(member);
        }
    }

    /// A machine goes on: its fence finds its deadline passed before anything else runs. (What
    /// proof.md says of suspension.)
    pub(crate) fn thaw(&mut self, member: usize) {
        let now = self.clock(member);
        let fence = self.hosts[member].fence;
        if fence
            .deadline
            .is_some_and(|deadline| now >= deadline - mrg_base::Millis(150))
        {
            self.enforce(member, fence.generation);
        }
    }

    /// Whether a writer may be started.
    pub(crate) fn is_armed(&self, member: usize) -> bool {
        let fence = self.hosts[member].fence;
        !fence.fired && fence.deadline.is_some()
    }

    /// The postmaster ended, and with it every process of it.
    pub(crate) fn tell_agent_of_exit(&mut self, member: usize) {
        if let Some(agent) = &self.hosts[member].agent {
            let number = agent.number;
            self.later(
                1,
                SimulationEvent::Agent {
                    member,
                    agent: number,
                    event: Box::new(Event::PostmasterGone),
                },
            );
        }
    }
}
