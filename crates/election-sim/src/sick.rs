//! Servers that are there and do not serve: what their agents see of it, and what they owe.

use crate::postgres::Server;
use crate::world::World;
use mrg_election::{Event, Reason};

/// Once everything else is mended, a leader whose server does not serve has let the key go after so
/// long: within the timeouts of the schedule, and the time that a standby needs to become fit.
pub(crate) const LET_GO_WITHIN: u64 = 100_000;

/// What an agent keeps quiet for after it gave up, in milliseconds of its own clock; half a second
/// is for a clock that is off.
const GIVES_UP_EVERY: u64 = 585_000;

impl World {
    /// A client's way through a server that runs as a primary.
    pub(crate) fn pulse(&mut self, member: usize, agent: u32) {
        let postgres = &self.hosts[member].postgres;
        if postgres.server != Server::Primary {
            return;
        }
        let answered = !postgres.hangs;
        let asked = self.clock(member);
        self.agent_event(member, agent, 0, Event::Pulse { asked, answered });
    }

    /// One that gave up does not do so again a short time later.
    pub(crate) fn judge_sickness(&mut self, member: usize, reason: Reason) {
        if reason != Reason::Unresponsive {
            return;
        }
        let agent = self.agent(member).number;
        let before = self.judge.gave_up.insert((member, agent), self.now);
        if before.is_some_and(|before| self.now < before + GIVES_UP_EVERY) {
            let name = self.name(member);
            self.judge.blame(format!(
                "{name} let the key go twice within ten minutes for a server that does not respond"
            ));
        }
    }

    /// By now every leader that could has let go.
    pub(crate) fn cure(&mut self) {
        for member in 0..self.hosts.len() {
            self.judge_sick_leader(member);
            let postgres = &mut self.hosts[member].postgres;
            let sick =
                postgres.hangs || postgres.starts_forever && postgres.server == Server::Starting;
            postgres.starts_forever = false;
            if sick {
                self.kill_server(member);
            }
        }
    }

    fn judge_sick_leader(&mut self, member: usize) {
        let host = &self.hosts[member];
        let cluster = &self.etcd.keys().cluster;
        let leads = cluster
            .leader
            .as_ref()
            .is_some_and(|leader| leader.member == host.name);
        let excused = host.agent.as_ref().is_none_or(|agent| {
            let excuses = [Reason::UnresponsiveAlone, Reason::UnresponsiveAgain];
            agent
                .node
                .reason()
                .is_some_and(|reason| excuses.contains(&reason))
        });
        if host.postgres.hangs && leads && !excused {
            let name = self.name(member);
            self.judge.blame(format!(
                "{name} keeps the key although its server commits nothing"
            ));
        }
    }
}
