//! Votes and promises: what agents ask each other, over a network that loses it.

use crate::event::Message;
use crate::world::World;
use mrg_base::{MemberName, Millis, Moment, Position};
use mrg_election::watch_order::WatchInput;
use mrg_election::{Event, LeaseId, Promise, PromiseRequest, StepId, VoteRefusal};

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

impl World {
    pub(crate) fn vote_asked(&mut self, member: usize, asker: Asker) {
        let Some(agent) = self.hosts[member]
            .agent
            .as_mut()
            .filter(|agent| agent.ready)
        else {
            return;
        };
        agent.replies += 1;
        let reply = agent.replies;
        agent.askers.insert(reply, asker);
        self.order(member, WatchInput::VoteAsked { reply });
    }

    pub(crate) fn answer_vote(
        &mut self,
        member: usize,
        reply: u64,
        answer: Result<(Position, Option<i32>), VoteRefusal>,
    ) {
        let Some(Asker::Vote { from, agent, step }) = self.agent(member).askers.remove(&reply)
        else {
            return;
        };
        if let Ok((position, _)) = &answer {
            self.judge_vote(member, *position);
        }
        let name = self.name(member);
        let vote = answer.map(|(position, candidate)| mrg_election::Vote {
            member: name,
            position,
            candidate,
        });
        self.send(member, from, Message::Voted { agent, step, vote });
    }

    pub(crate) fn withdraw_promises(
        &mut self,
        member: usize,
        members: Vec<MemberName>,
        round: u64,
    ) {
        let Some(lease) = self.agent(member).node.lease().map(|lease| lease.id) else {
            return;
        };
        self.tell(|world| {
            let name = &world.hosts[member].name;
            format!("{name}: promises are not needed any more")
        });
        for name in members {
            if let Some(to) = self.number_of(&name) {
                self.send(member, to, Message::Withdraw { lease, round });
            }
        }
    }

    pub(crate) fn ask_promises(
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
            self.agent_event(member, number, 0, event);
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
        self.agent_event(member, number, within.0, late);
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

    pub(crate) fn answer_promise(
        &mut self,
        member: usize,
        reply: u64,
        answer: Result<Promise, String>,
    ) {
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
}
