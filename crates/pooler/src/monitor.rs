//! The replica monitors of a read pool: one connection to each server, probed twice a second.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use crate::answer::Answer;
use crate::probe;
use mrg_base::MemberName;
use mrg_pgbouncer::Login;
use mrg_pool_core::{Address, Event, Finding, Servers};

/// How often a server with an open connection is probed.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// The delay before the next attempt to connect.
const RECONNECT_DELAY: Duration = Duration::from_millis(250);

/// One monitor for each server; all of them end when this is dropped.
pub(crate) struct ReplicaMonitors {
    answers: mpsc::Sender<Answer>,
    logins: watch::Receiver<Vec<Login>>,
    database: String,
    tasks: JoinSet<()>,
    running: BTreeMap<MemberName, (Address, AbortHandle)>,
}

impl ReplicaMonitors {
    /// No monitors yet. Servers are asked in `database`, as the first of the users.
    pub(crate) fn new(
        answers: mpsc::Sender<Answer>,
        logins: watch::Receiver<Vec<Login>>,
        database: String,
    ) -> Self {
        Self {
            answers,
            logins,
            database,
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
        }
    }

    /// Starts and stops monitors until there is one for each of these servers.
    pub(crate) fn set(&mut self, servers: Servers) {
        while self.tasks.try_join_next().is_some() {}
        self.running.retain(|member, (address, task)| {
            let stays = servers.get(member) == Some(address) && !task.is_finished();
            if !stays {
                task.abort();
            }
            stays
        });
        for (member, address) in servers {
            if self.running.contains_key(&member) {
                continue;
            }
            let monitor = Monitor {
                answers: self.answers.clone(),
                member: member.clone(),
                address: address.clone(),
            };
            let task = monitor.run(self.logins.clone(), self.database.clone());
            self.running
                .insert(member, (address, self.tasks.spawn(task)));
        }
    }
}

struct Monitor {
    answers: mpsc::Sender<Answer>,
    member: MemberName,
    address: Address,
}

impl Monitor {
    /// Ends only when the answers are not received any more.
    async fn run(self, logins: watch::Receiver<Vec<Login>>, database: String) {
        loop {
            // Passwords may have been rotated since the last connection.
            let Some(login) = logins.borrow().first().cloned() else {
                return;
            };
            let (end, mut ended) = watch::channel(false);
            let on_end = async move {
                end.send_replace(true);
            };
            let connection = probe::connect(&self.address, &login, &database, on_end).await;
            while let Some(connection) = &connection {
                let finding = connection.probe().await;
                let lost = finding == Finding::Unreachable;
                if self.answer(finding).await.is_err() {
                    return;
                }
                tokio::select! {
                    _ = ended.wait_for(|ended| *ended) => break,
                    () = tokio::time::sleep(PROBE_INTERVAL) => if lost { break },
                }
            }
            if self.answer(Finding::Unreachable).await.is_err() {
                return;
            }
            tokio::time::sleep(RECONNECT_DELAY).await;
        }
    }

    async fn answer(&self, finding: Finding) -> Result<(), mpsc::error::SendError<Answer>> {
        let event = Event::Monitored {
            member: self.member.clone(),
            address: self.address.clone(),
            finding,
        };
        self.answers.send(Answer::Event(event)).await
    }
}
