//! What may happen next, and what must hold.

use std::collections::BTreeSet;

use mrg_base::{MemberName, Millis, Moment};
use mrg_election::sync::{Names, Stored};
use mrg_election::{
    Action as Step, Event, Failsafe, LeaderKey, LeaseId, Mode, Node, Outcome, PreviousIncarnation,
    Revision, SwitchoverRequest,
};
use stateright::{Model, Property};

use crate::world::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happens {
    TimePasses,
    StepIsDone(usize),
    AnswerIsLost(usize),
    NewsArrives(usize),
    BallotEnds(usize),
    WalArrives(usize),
    Write(usize),
    PostmasterDies(usize),
    AgentDies(usize),
    AgentStarts(usize),
    IsCutOff(usize),
    IsBack(usize),
    SwitchoverIsAsked,
}

pub(crate) struct Members {
    pub count: usize,
    pub mode: Mode,
    pub budget: Budget,
    pub horizon: Millis,
}

/// The first lease of a host.
fn lease(host: usize) -> LeaseId {
    LeaseId(1 + i64::try_from(host).expect("a handful of hosts"))
}

impl Members {
    /// A settled cluster, led by the first.
    #[expect(clippy::too_many_lines, reason = "one literal")]
    fn settled(&self) -> State {
        let standbys: BTreeSet<MemberName> = (1..self.count).map(name).collect();
        let server = |host: usize| Server {
            runs: if host == 0 {
                Runs::Primary
            } else {
                Runs::Standby
            },
            wal: vec![(0, 1)],
            names: if host == 0 {
                Names::of(
                    self.mode,
                    1,
                    if self.mode == Mode::Sync {
                        [name(1)].into()
                    } else {
                        standbys.clone()
                    },
                )
            } else {
                Names::Nobody
            },
            upstream: (host > 0).then_some(0),
            streams: host > 0,
            was_primary: host == 0,
        };
        let now = Moment(BEGIN);
        let host = |host: usize| Host {
            node: Some(Node::new(
                name(host),
                State::settings(self.mode),
                Some(1),
                PreviousIncarnation::Known(None),
                now,
            )),
            server: server(host),
            step: None,
            ballot: None,
            asked: Vec::new(),
            replies: 0,
            fence: None,
            late: Vec::new(),
            seen: Revision(10),
            cut: false,
            promise: None,
            lease: Some(lease(host)),
        };
        let voters = if self.mode == Mode::Sync {
            [name(1)].into()
        } else {
            standbys.clone()
        };
        let quorum = voters.len() - 1;
        let mut state = State {
            now,
            etcd: Etcd {
                revision: 10,
                leader: Some(LeaderKey {
                    member: name(0),
                    lease: LeaseId(1),
                    created: Revision(5),
                }),
                sync: Some((
                    Revision(7),
                    Stored {
                        leader: name(0),
                        voters,
                        quorum,
                    },
                )),
                leases: (0..self.count)
                    .map(|host| (lease(host), (host, now + TTL)))
                    .collect(),
                granted: lease(self.count).0 - 1,
                request: None,
                failsafe: Some(Failsafe {
                    members: (0..self.count).map(name).collect(),
                    ..Failsafe::default()
                }),
            },
            hosts: (0..self.count).map(host).collect(),
            waiting: Vec::new(),
            acknowledged: BTreeSet::new(),
            written: 0,
            budget: self.budget,
            switched: false,
        };
        for host in 0..self.count {
            let id = lease(host);
            let mut node = state.hosts[host].node.take().unwrap();
            node.on(
                now,
                Event::Dcs {
                    cluster: state.cluster(),
                    linearizable: true,
                },
            );
            node.on(
                now,
                Event::LeaseGranted {
                    id,
                    granted: TTL,
                    sent: now,
                },
            );
            state.hosts[host].node = Some(node);
            let postgres = state.look(host);
            state.feed(
                host,
                Event::Postgres {
                    probe: u64::MAX,
                    postgres,
                },
            );
            let cluster = state.cluster();
            state.feed(
                host,
                Event::Dcs {
                    cluster,
                    linearizable: true,
                },
            );
        }
        state
    }
}

impl Model for Members {
    type State = State;
    type Action = Happens;

    fn init_states(&self) -> Vec<State> {
        vec![self.settled()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Happens>) {
        actions.push(Happens::TimePasses);
        let budget = state.budget;
        for (index, host) in state.hosts.iter().enumerate() {
            if host.node.is_none() {
                actions.push(Happens::AgentStarts(index));
                continue;
            }
            if let Some((_, action)) = &host.step {
                let asks_etcd = matches!(
                    action,
                    Step::AcquireLeader
                        | Step::ReleaseLeader
                        | Step::WriteSync { .. }
                        | Step::ClearSwitchover { .. }
                );
                if !(host.cut && asks_etcd) {
                    actions.push(Happens::StepIsDone(index));
                }
                if asks_etcd && (host.cut || budget.lost > 0) {
                    actions.push(Happens::AnswerIsLost(index));
                }
            }
            if host.ballot.is_some() {
                actions.push(Happens::BallotEnds(index));
            }
            if !host.cut && host.seen.0 < state.etcd.revision {
                actions.push(Happens::NewsArrives(index));
            }
            let upstream = host
                .server
                .upstream
                .filter(|_| host.server.runs == Runs::Standby);
            if let Some(upstream) = upstream
                .map(|upstream| &state.hosts[upstream].server)
                .filter(|upstream| upstream.runs == Runs::Primary)
            {
                let follows = upstream.wal.starts_with(&host.server.wal);
                if follows && (!host.server.streams || host.server.wal.len() < upstream.wal.len()) {
                    actions.push(Happens::WalArrives(index));
                }
            }
            if host.server.runs == Runs::Primary && budget.writes > 0 {
                actions.push(Happens::Write(index));
            }
            if budget.kills > 0 {
                actions.push(Happens::AgentDies(index));
                if host.server.runs != Runs::Not {
                    actions.push(Happens::PostmasterDies(index));
                }
            }
            if host.cut {
                actions.push(Happens::IsBack(index));
            } else if budget.cuts > 0 {
                actions.push(Happens::IsCutOff(index));
            }
        }
        if budget.switches > 0 && state.etcd.leader.is_some() {
            actions.push(Happens::SwitchoverIsAsked);
        }
    }

    #[expect(clippy::too_many_lines, reason = "a case for each thing that happens")]
    fn next_state(&self, last: &State, action: Happens) -> Option<State> {
        let mut state = last.clone();
        match action {
            Happens::TimePasses => state.time_passes(),
            Happens::StepIsDone(host) => {
                let (step, action) = state.hosts[host].step.take()?;
                let outcome = state.perform(host, &action);
                state.feed(host, Event::Finished { step, outcome });
            }
            Happens::AnswerIsLost(host) => {
                let (step, action) = state.hosts[host].step.take()?;
                if !state.hosts[host].cut {
                    state.budget.lost -= 1;
                    state.perform(host, &action);
                }
                state.feed(
                    host,
                    Event::Finished {
                        step,
                        outcome: Outcome::Unknown("no answer".to_owned()),
                    },
                );
            }
            Happens::NewsArrives(host) => {
                state.hosts[host].seen = Revision(state.etcd.revision);
                let cluster = state.cluster();
                state.feed(
                    host,
                    Event::Dcs {
                        cluster,
                        linearizable: false,
                    },
                );
            }
            Happens::BallotEnds(host) => {
                let ballot = state.hosts[host].ballot.take()?;
                state.feed(
                    host,
                    Event::Finished {
                        step: ballot.step,
                        outcome: Outcome::Votes(ballot.votes),
                    },
                );
            }
            Happens::WalArrives(host) => {
                let upstream = state.hosts[host].server.upstream?;
                let wal = state.hosts[upstream].server.wal.clone();
                state.hosts[host].server.wal = wal;
                state.hosts[host].server.streams = true;
                state.acknowledge();
                let postgres = state.look(upstream);
                state.feed(
                    upstream,
                    Event::Postgres {
                        probe: u64::MAX,
                        postgres,
                    },
                );
            }
            Happens::Write(host) => {
                state.budget.writes -= 1;
                state.written += 1;
                let timeline = state.hosts[host]
                    .server
                    .wal
                    .last()
                    .map_or(1, |record| record.1);
                state.hosts[host].server.wal.push((state.written, timeline));
                state.waiting.push(state.written);
                state.acknowledge();
            }
            Happens::PostmasterDies(host) => {
                state.budget.kills -= 1;
                state.stop(host);
                state.feed(host, Event::PostmasterGone);
            }
            Happens::AgentDies(host) => {
                state.budget.kills -= 1;
                // Its fence ends postgres with it.
                state.stop(host);
                let dead = &mut state.hosts[host];
                (dead.node, dead.step, dead.ballot, dead.fence) = (None, None, None, None);
                (dead.asked, dead.late) = (Vec::new(), Vec::new());
            }
            Happens::AgentStarts(host) => state.agent_starts(host, self.mode),
            Happens::IsCutOff(host) => {
                state.budget.cuts -= 1;
                state.hosts[host].cut = true;
            }
            Happens::IsBack(host) => state.hosts[host].cut = false,
            Happens::SwitchoverIsAsked => {
                state.budget.switches -= 1;
                state.switched = true;
                let leader = state.etcd.leader.clone()?;
                let revision = state.change();
                state.etcd.request = Some(SwitchoverRequest {
                    leader: Some(leader.member),
                    candidate: None,
                    revision,
                });
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one writer at most", |_, state: &State| {
                state
                    .hosts
                    .iter()
                    .filter(|host| host.server.runs == Runs::Primary)
                    .count()
                    <= 1
            }),
            Property::always(
                "a writer has every acknowledged commit",
                |_, state: &State| {
                    let has =
                        |host: &Host, id: u8| host.server.wal.iter().any(|record| record.0 == id);
                    let writers = state
                        .hosts
                        .iter()
                        .filter(|host| host.server.runs == Runs::Primary);
                    writers
                        .clone()
                        .all(|host| state.acknowledged.iter().all(|id| has(host, *id)))
                },
            ),
            Property::sometimes("another takes over", |_, state: &State| {
                !state.switched
                    && state.hosts[1..]
                        .iter()
                        .any(|host| host.server.runs == Runs::Primary)
            }),
            Property::sometimes(
                "a switchover comes to its end",
                |model: &Self, state: &State| {
                    model.budget.switches == 0
                        || state.switched
                            && state.budget.kills == model.budget.kills
                            && state.hosts[1..]
                                .iter()
                                .any(|host| host.server.runs == Runs::Primary)
                },
            ),
            Property::sometimes(
                "a commit of the new leader is acknowledged",
                |model: &Self, state: &State| {
                    let of_new = |host: &Host| {
                        host.server.wal.iter().any(|record| {
                            record.1 > 1 && state.acknowledged.contains(&record.0) && record.0 > 0
                        })
                    };
                    model.budget.writes == 0
                        || state.hosts[1..]
                            .iter()
                            .any(|host| host.server.runs == Runs::Primary && of_new(host))
                },
            ),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        state.now.since(Moment(BEGIN)) <= self.horizon
    }
}
