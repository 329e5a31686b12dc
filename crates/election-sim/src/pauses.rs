//! A leader asks the poolers to hold their clients: performs what [`PoolPause`] decides.

use crate::etcd::Keys;
use crate::event::{Answer, Ask, SimulationEvent};
use crate::watch::Call;
use crate::world::World;
use mrg_base::Millis;
use mrg_dcs::{Transaction, Untried};
use mrg_election::pool_pause::{PauseEffect, PauseEvent, PoolPause};
use mrg_election::{Revision, StepId};

fn leadership(keys: &Keys) -> Option<Revision> {
    keys.snapshot.leader_key().map(|key| key.created)
}

impl World {
    pub(crate) fn pause_poolers(&mut self, member: usize, step: StepId, may_abandon: bool) {
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
    pub(crate) fn pause_event(&mut self, member: usize, step: StepId, event: PauseEvent) {
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
}
