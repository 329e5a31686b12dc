//! What a step asks of peers: votes, and whether they have received the last WAL.

use std::collections::BTreeSet;

use crate::event::{Message, SimulationEvent};
use crate::postgres::{Server, lsn};
use crate::world::World;
use mrg_base::MemberName;
use mrg_election::{StepId, Vote, VoteRefusal};

/// Peers that are alive answer in a few milliseconds; one that is not must not hold up an election.
const VOTE_WITHIN: u64 = 700;

impl World {
    pub(crate) fn ask_peers(&mut self, member: usize, step: StepId, peers: &BTreeSet<MemberName>) {
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
        vote: Result<Vote, VoteRefusal>,
    ) {
        let Some(running) = self
            .live(member, number)
            .and_then(|agent| agent.step.as_mut())
            .filter(|running| running.step == step)
        else {
            return;
        };
        running.doubted |= vote == Err(VoteRefusal::DcsReset);
        if running.waiting.remove(&from) {
            running.votes.extend(vote);
        }
        if running.waiting.is_empty() {
            let outcome = running.collected();
            self.outcome(member, step, outcome);
        }
    }

    pub(crate) fn await_receipt(
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
}
