//! An agent reads the keys of etcd and watches them, and hears what came of its requests.

use std::rc::Rc;

use crate::etcd::Keys;
use crate::event::{Answer, Ask, SimulationEvent};
use crate::world::World;
use mrg_base::Moment;
use mrg_election::publisher::PublisherEvent;
use mrg_election::watch_order::{WatchInput, WatchOutput};
use mrg_election::{Event, LeaseId, Revision, StepId};

/// What a question to etcd was for.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Clear,
    Grant(Moment),
    /// The lease, when it was asked for, and the revision that was known then.
    Keep(LeaseId, Moment, Revision),
    /// How many reads were asked for, and the revision that was known then.
    Read(u64, Revision),
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

fn is_done(answer: Option<&Answer>) -> bool {
    matches!(answer, Some(Answer::Transacted(Ok(Some(_)), _)))
}

impl World {
    /// Reads all keys, unless a read that is new enough is under way.
    pub(crate) fn read(&mut self, member: usize) {
        let agent = self.agent(member);
        if agent.watch.reading.is_some() {
            return;
        }
        let (number, within, asked, known) = (
            agent.number,
            agent.settings.failover.retry_timeout.0,
            agent.watch.asked,
            agent.known,
        );
        agent.watch.reading = Some(asked);
        let call = self.ask_etcd(member, number, within, Ask::Read);
        self.agent(member)
            .calls
            .insert(call, Call::Read(asked, known));
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
        } else if self
            .live(to, number)
            .is_some_and(|agent| agent.ready && agent.era == keys.era)
        {
            self.agent(to).learn(keys.stamp());
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
        if let Some(Answer::Transacted(_, stamp)) = &answer {
            let stamp = *stamp;
            self.agent(to).learn(stamp);
        }
        match (about, answer) {
            (Call::Clear, _) => self.agent_ready(to),
            (Call::Grant(sent), Some(Answer::Granted(id, granted))) => {
                self.hosts[to].lease_record = Some(id);
                self.feed(to, Event::LeaseGranted { id, granted, sent });
            }
            (Call::Keep(id, sent, _), Some(Answer::Kept(true, _))) => {
                self.feed(to, Event::LeaseKept { id, sent });
            }
            (Call::Keep(id, _, known), Some(Answer::Kept(false, revision)))
                if revision >= known =>
            {
                self.feed(to, Event::LeaseGone(id));
            }
            (Call::Keep(..), Some(Answer::Kept(false, _))) => {
                self.read(to);
                self.feed(to, Event::LeaseUnanswered);
            }
            (Call::Grant(_) | Call::Keep(..), _) => self.feed(to, Event::LeaseUnanswered),
            (Call::Read(asked, known), Some(Answer::Keys(keys))) => {
                self.has_read(to, asked, known, keys);
            }
            (Call::Read(..), _) => self.read_lost(to, number),
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
                    Some(Answer::Transacted(Ok(written), _)) => written,
                    _ => None,
                };
                self.feed(to, Event::FailsafeWritten(written));
            }
            (Call::Config, _) => self.published(to, PublisherEvent::ConfigWritten),
            (Call::Last, _) => {}
        }
    }

    fn read_lost(&mut self, member: usize, number: u32) {
        let agent = self.agent(member);
        agent.watch.reading = None;
        agent.watch.open = false;
        agent.watch.reads += 1;
        agent.reachable = false;
        let reads = agent.watch.reads;
        self.later(
            100,
            SimulationEvent::Backstop {
                end: member,
                number,
                reads,
            },
        );
        self.feed(member, Event::DcsLost);
    }

    fn has_read(&mut self, member: usize, asked: u64, known: Revision, keys: Rc<Keys>) {
        let agent = self.agent(member);
        agent.era = keys.era;
        let revision = keys.cluster.revision;
        let number = agent.number;
        if revision < known.min(agent.known) {
            agent.known = revision;
            self.etcd_went_back(member);
            if self.live(member, number).is_none() {
                return;
            }
        }
        let agent = self.agent(member);
        agent.learn(keys.stamp());
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

    /// etcd is not as it was: revisions of before say nothing any more.
    fn etcd_went_back(&mut self, member: usize) {
        let agent = self.agent(member);
        agent.order.on(WatchInput::Reset);
        agent.config.reset();
        self.published(member, PublisherEvent::DcsReset);
        self.feed(member, Event::DcsReset);
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
        agent.seen = keys.clone();
        agent.reachable = true;
        let doubted = self.configure(member, keys);
        if self.live(member, number).is_some() {
            self.order(member, WatchInput::Configured { asked });
        }
        if doubted && self.live(member, number).is_some() {
            self.configure(member, keys);
        }
        self.poolers_changed(member, number);
    }

    /// Takes over the settings, unless they are older than what is known. Whether they may be.
    fn configure(&mut self, member: usize, keys: &Keys) -> bool {
        let now = self.clock(member);
        let agent = self.agent(member);
        let modified = keys.config().map_or(Revision(0), |(revision, _)| revision);
        let doubted = agent.node.doubts_config(now, modified);
        let settings = agent.config.observe(keys, doubted);
        if let Some(settings) = settings.filter(|settings| agent.settings != *settings) {
            agent.settings = settings;
            self.feed(member, Event::Settings(settings));
        }
        doubted
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
}
