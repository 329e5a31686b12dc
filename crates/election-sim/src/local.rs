//! What a step does to the local server.

use crate::event::ServerEvent;
use crate::postgres::Server;
use crate::steps::failed;
use crate::world::World;
use mrg_election::{Action, Outcome, StopMode};

impl World {
    /// Begins what a step does to the local server; how long it takes.
    pub(crate) fn begin_local(&mut self, member: usize, action: &Action) -> u64 {
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
                    ServerEvent::Names {
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

    pub(crate) fn complete(&mut self, member: usize, action: &Action, incarnation: u32) -> Outcome {
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
}
