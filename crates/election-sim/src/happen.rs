//! What happens to whom, and what is put off.

use crate::event::{Message, PoolerEvent, ServerEvent, SimulationEvent};
use crate::world::World;

impl World {
    /// Puts off what happens to somebody who stands still.
    fn postponed(&mut self, what: SimulationEvent) -> Option<SimulationEvent> {
        let until = match &what {
            SimulationEvent::Wake { member, .. }
            | SimulationEvent::Agent { member, .. }
            | SimulationEvent::StepDone { member, .. }
            | SimulationEvent::StepLate { member, .. } => self.agent_standing(*member),
            SimulationEvent::Backstop { end: member, .. } if *member < self.hosts.len() => {
                self.agent_standing(*member)
            }
            SimulationEvent::News { to, .. } | SimulationEvent::Reply { to, .. }
                if *to < self.hosts.len() =>
            {
                self.agent_standing(*to)
            }
            SimulationEvent::Overdue { who, .. } if *who < self.hosts.len() => {
                self.agent_standing(*who)
            }
            SimulationEvent::Arrives { to, message, .. } if *to < self.hosts.len() => {
                match message.as_ref() {
                    Message::Connect { .. }
                    | Message::Wal { .. }
                    | Message::Flushed { .. }
                    | Message::Probe { .. }
                    | Message::Write { .. } => self.standing(*to),
                    _ => self.agent_standing(*to),
                }
            }
            SimulationEvent::Fence { member, .. } | SimulationEvent::Look { member, .. } => {
                self.standing(*member)
            }
            SimulationEvent::Server(event) => {
                event.server().and_then(|member| self.standing(member))
            }
            SimulationEvent::Pooler(event) => match event {
                PoolerEvent::Start { .. } => None,
                PoolerEvent::Tick { pooler, .. }
                | PoolerEvent::Set { pooler, .. }
                | PoolerEvent::Pause { pooler, .. } => self.pooler_standing(*pooler),
            },
            SimulationEvent::Backstop { end, .. }
            | SimulationEvent::News { to: end, .. }
            | SimulationEvent::Reply { to: end, .. }
            | SimulationEvent::Overdue { who: end, .. } => {
                self.pooler_standing(end - self.hosts.len() - 1)
            }
            SimulationEvent::Arrives { to, .. } if *to > self.hosts.len() => {
                self.pooler_standing(to - self.hosts.len() - 1)
            }
            _ => None,
        };
        match until {
            Some(until) => {
                self.at(until, what);
                None
            }
            None => Some(what),
        }
    }

    fn pooler_standing(&self, pooler: usize) -> Option<u64> {
        let until = self.poolers[pooler].paused_until;
        (self.now < until).then_some(until)
    }

    pub(crate) fn happen(&mut self, what: SimulationEvent) {
        let Some(what) = self.postponed(what) else {
            return;
        };
        match what {
            SimulationEvent::Fault { index, plan } => self.fault_due(index, plan),
            SimulationEvent::Undo { fault } => self.undo(fault),
            SimulationEvent::Think { client } => self.think(client),
            SimulationEvent::StartAgent { member, boot } => self.start_agent(member, boot),
            SimulationEvent::Wake { member, agent } => self.wake(member, agent),
            SimulationEvent::Agent {
                member,
                agent,
                event,
            } => self.input(member, agent, *event),
            SimulationEvent::Fence { member, generation } => self.enforce(member, generation),
            SimulationEvent::Thaw { member } => self.thaw(member),
            SimulationEvent::Request {
                from,
                number,
                call,
                ask,
                resent,
            } => self.asked_of_etcd(from, number, call, *ask, resent),
            SimulationEvent::Reply {
                to,
                number,
                call,
                answer,
            } => self.answered(to, number, call, Some(answer)),
            SimulationEvent::Overdue { who, number, call } => {
                self.answered(who, number, call, None);
            }
            SimulationEvent::News { to, number, keys } => self.news(to, number, keys),
            SimulationEvent::Expire { lease } => self.expire(lease),
            SimulationEvent::Arrives { from, to, message } => self.arrives(from, to, *message),
            SimulationEvent::Server(event) => self.happen_to_server(event),
            SimulationEvent::Pooler(event) => self.happen_to_pooler(event),
            SimulationEvent::Look { member, agent } => self.look_again(member, agent),
            SimulationEvent::StepDone {
                member,
                agent,
                step,
            } => self.step_done(member, agent, step),
            SimulationEvent::StepLate {
                member,
                agent,
                step,
            } => self.step_late(member, agent, step),
            SimulationEvent::Backstop { end, number, reads } => self.backstop(end, number, reads),
            SimulationEvent::Cure => self.cure(),
            SimulationEvent::Help => self.help(),
            SimulationEvent::Forget { transaction } => self.transaction_ends(transaction, false),
            SimulationEvent::Late { from, to, message } => self.late(from, to, *message),
            SimulationEvent::Boot { member, boot } => self.boot(member, boot),
        }
    }

    fn happen_to_server(&mut self, event: ServerEvent) {
        match event {
            ServerEvent::Up {
                member,
                incarnation,
                primary,
            } => {
                self.server_up(member, incarnation, primary);
            }
            ServerEvent::Replayed {
                member,
                incarnation,
            } => self.replayed(member, incarnation),
            ServerEvent::Promoted {
                member,
                incarnation,
            } => self.promoted(member, incarnation),
            ServerEvent::Stopped {
                member,
                incarnation,
            } => self.stopped(member, incarnation),
            ServerEvent::Flush {
                member,
                incarnation,
                upto,
            } => self.flush(member, incarnation, upto),
            ServerEvent::Names {
                member,
                boot,
                names,
            } => self.names_change(member, boot, names),
            ServerEvent::Knock {
                member,
                incarnation,
            } => self.knock(member, incarnation),
            ServerEvent::ConnectionTimeout { from, to } => self.connection_times_out(from, to),
            ServerEvent::SenderGone {
                primary,
                standby,
                connection,
            } => {
                self.sender_ends(primary, standby, connection);
            }
            ServerEvent::ReceiverGone {
                standby,
                connection,
            } => {
                self.receiver_breaks(standby, connection);
            }
        }
    }

    fn happen_to_pooler(&mut self, event: PoolerEvent) {
        match event {
            PoolerEvent::Tick { pooler, number } => self.pooler_tick(pooler, number),
            PoolerEvent::Set {
                pooler,
                number,
                setting,
            } => {
                self.pooler_set(pooler, number, setting);
            }
            PoolerEvent::Pause {
                pooler,
                number,
                pause,
            } => {
                self.pooler_paused(pooler, number, pause);
            }
            PoolerEvent::Start { pooler } => self.start_pooler(pooler),
        }
    }
}
