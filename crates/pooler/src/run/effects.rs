//! What the core wants done, and how it is done.

use std::time::Duration;

use super::Pooler;
use crate::answer::{Answer, Heartbeat};
use crate::probe;
use mrg_dcs_etcd::WatchCommand;
use mrg_pool_core::{Effect, Event, Finding, Leader, Retargeted};

/// How long the agent of a leader may take to answer.
const CONFIRM_WITHIN: Duration = Duration::from_secs(1);

impl Pooler {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Retarget(target) => {
                tracing::info!(
                    admission = ?target.admission,
                    addresses = ?target.addresses,
                    "the pool's target changed"
                );
                self.targets.send_replace(target);
            }
            Effect::Probe { probe, leader } => self.probe(probe, leader),
            Effect::ConfirmLeadership(leader) => self.confirm_leadership(&leader),
            Effect::ReadDcs(number) => {
                // A full queue holds an older request; the watch's own backstop reads, too.
                let _ = self.commands.try_send(WatchCommand::Read(number));
            }
            Effect::Acknowledge { pause, drained } => self.publisher.acknowledge(pause, drained),
            Effect::Monitor(servers) => self.monitors.set(servers),
            Effect::Retargeted(retargeted) => self.report_retargeted(&retargeted),
        }
    }

    fn report_retargeted(&self, retargeted: &Retargeted) {
        let Retargeted {
            cause,
            paused,
            servers,
        } = retargeted;
        tracing::info!(%cause, held_ms = paused.0, ?servers, "clients work again");
        let clients = self.processes.pools().clients;
        self.publisher.note_retargeted(retargeted, clients);
    }

    fn probe(&mut self, probe: u64, leader: Leader) {
        self.heartbeats += 1;
        let number = self.heartbeats;
        let answers = self.answers.clone();
        let login = self.logins.borrow().first().cloned();
        let database = self.config.databases.first().map(|it| it.name.clone());
        tokio::spawn(async move {
            let ended = answers.clone();
            let on_end = async move {
                let _ = ended.send(Answer::HeartbeatEnded(number)).await;
            };
            let (finding, connection) = match (login, database) {
                (Some(login), Some(database)) => {
                    probe::leader(&leader.address, &login, &database, on_end).await
                }
                _ => (Finding::Unreachable, None),
            };
            let heartbeat = connection.map(|connection| Heartbeat {
                number,
                key: leader.key,
                _connection: connection,
            });
            let answer = Answer::Probed {
                probe,
                finding,
                heartbeat,
            };
            let _ = answers.send(answer).await;
        });
    }

    /// Asks the agent whether it holds a lease or promises: `/primary` answers 200 only then.
    fn confirm_leadership(&self, leader: &Leader) {
        let member = self.snapshot.member(&leader.member);
        let base = member.and_then(mrg_dcs::wire::MemberData::api_base);
        let (http, answers, key) = (self.http.clone(), self.answers.clone(), leader.key);
        tokio::spawn(async move {
            let leads = match base {
                Some(base) => {
                    let request = http.get(format!("{base}/primary")).timeout(CONFIRM_WITHIN);
                    let response = request.send().await;
                    response.is_ok_and(|response| response.status() == reqwest::StatusCode::OK)
                }
                None => false,
            };
            let event = Event::LeadershipAnswered { key, leads };
            let _ = answers.send(Answer::Event(event)).await;
        });
    }
}
