//! Performs the steps of a decision, as `agent/perform.rs` does, against the model.

use std::collections::BTreeSet;

use crate::event::{Answer, SimulationEvent};
use crate::watch::Call;
use crate::world::World;
use mrg_election::pool_pause::{PauseEvent, PoolPause};
use mrg_election::{Action, Outcome, StepId, Vote};

/// A step that is being performed.
pub(super) struct Running {
    pub step: StepId,
    pub action: Action,
    pub votes: Vec<Vote>,
    /// Whether a peer said that etcd went back.
    pub doubted: bool,
    pub waiting: BTreeSet<usize>,
    pub incarnation: u32,
    pub pause: Option<PoolPause>,
    /// What came of it, of a step that ended at once.
    pub ended: Option<Outcome>,
}

impl Running {
    /// The votes, once no more are waited for.
    pub(crate) fn collected(&mut self) -> Outcome {
        let votes = std::mem::take(&mut self.votes);
        if self.doubted {
            Outcome::DcsReset(votes)
        } else {
            Outcome::Votes(votes)
        }
    }
}

fn refused() -> Outcome {
    Outcome::Refused("another was faster".to_owned())
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
            doubted: false,
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
    pub(crate) fn done_in(&mut self, member: usize, step: StepId, wait: u64) {
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

    pub(crate) fn end_at_once(&mut self, member: usize, step: StepId, outcome: Outcome) {
        let running = self.agent(member).step.as_mut();
        if let Some(running) = running.filter(|running| running.step == step) {
            running.ended = Some(outcome);
            self.done_in(member, step, 0);
        }
    }

    pub(crate) fn retry(&mut self, member: usize) -> u64 {
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
        let known = self.agent(member).known;
        let outcome = match answer {
            Some(Answer::Transacted(_, stamp)) if stamp.revision < known => {
                Outcome::Unknown("etcd went back".to_owned())
            }
            Some(Answer::Transacted(Ok(Some(revision)), _)) => {
                if let Some(data) = self.hosts[member].postgres.data.as_mut().filter(|_| stores) {
                    data.unfinished = false;
                }
                Outcome::Written(revision)
            }
            Some(Answer::Transacted(Err(lease), _)) => {
                failed(&format!("lease {} is gone", lease.0))
            }
            Some(_) => refused(),
            None => Outcome::Unknown("etcd did not answer".to_owned()),
        };
        if pauses {
            return self.pause_event(member, step, PauseEvent::Requested(outcome));
        }
        self.outcome(member, step, outcome);
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
                let outcome = running.collected();
                self.outcome(member, step, outcome);
            }
            Action::AwaitReceipt { .. } => {
                self.outcome(member, step, failed("not received in time"));
            }
            Action::PausePoolers { .. } => self.pause_event(member, step, PauseEvent::Tick),
            _ => {}
        }
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
}
