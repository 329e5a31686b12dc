//! The fence: a process of its own that ends postgres at a deadline.

use crate::event::SimulationEvent;
use crate::world::{Fence, World};
use mrg_base::Moment;
use mrg_election::Event;

impl World {
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
            self.agent_event(member, number, 1, Event::PostmasterGone);
        }
    }
}
