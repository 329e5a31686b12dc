//! Brings one PgBouncer process where a [`PoolTarget`] says, and keeps it there.

mod ending;
mod log;
mod running;
mod start;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::config::PoolerConfig;
use ending::{Ending, due};
use mrg_pgbouncer::{AnchorServer, Login, Pools};
use mrg_pool_core::{Admission, PoolTarget};

/// How long PgBouncer may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// How often a paused process is asked whether it is drained: nothing announces that the last
/// transaction is done while a pool has its anchor.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(4);
/// How often the pools are counted otherwise, and the anchors held.
const COUNT_INTERVAL: Duration = Duration::from_secs(2);

/// A message of a process.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    /// It has reached the target of this number.
    Settled(u64),
    /// It has no transaction under way under the target of this number.
    Drained(u64),
    /// The state of its pools.
    Pools(Pools),
    /// It ended, and why; it is started again.
    Ended(String),
}

/// What the processes of a pod have in common.
#[derive(Clone)]
pub(crate) struct Shared {
    pub config: Arc<PoolerConfig>,
    pub anchor_server: Arc<AnchorServer>,
    pub targets: watch::Receiver<PoolTarget>,
    pub logins: watch::Receiver<Vec<Login>>,
    /// Raised when the process is to end.
    pub stop: watch::Receiver<bool>,
    pub reports: mpsc::Sender<(u16, Report)>,
}

/// One PgBouncer process.
pub(crate) struct Bouncer {
    number: u16,
    shared: Shared,
}

impl Bouncer {
    /// The process of this number; it starts with the first target that admits clients.
    pub(crate) fn new(number: u16, shared: Shared) -> Self {
        Self { number, shared }
    }

    /// Keeps the process running until `stop` is raised.
    pub(crate) async fn run(mut self) {
        let mut pause = Duration::from_millis(100);
        loop {
            tokio::select! {
                first = self.shared.targets.wait_for(|target| target.admission == Admission::Open) => if first.is_err() { return },
                () = wait_true(&mut self.shared.stop) => return,
            }
            let began = Instant::now();
            let Err(error) = self.serve().await else {
                return;
            };
            let why = format!("{error:#}");
            tracing::error!(process = self.number, why, "PgBouncer is started again");
            self.report(Report::Ended(why)).await;
            pause = if began.elapsed() > Duration::from_secs(60) {
                Duration::from_millis(100)
            } else {
                (pause * 2).min(Duration::from_secs(5))
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn report(&self, report: Report) {
        let _ = self.shared.reports.send((self.number, report)).await;
    }

    /// Runs the process until `stop` is raised and its clients are gone.
    ///
    /// # Errors
    /// If it does not start, cannot be brought to its target, or ends by itself.
    async fn serve(&mut self) -> anyhow::Result<()> {
        let mut running = self.start().await?;
        let mut ending = None;
        loop {
            let target = self.shared.targets.borrow_and_update().clone();
            running
                .bring_to(&target)
                .await
                .with_context(|| format!("target {} was not reached", target.number))?;
            self.report(Report::Settled(target.number)).await;
            loop {
                let draining =
                    target.admission == Admission::Paused && running.drained != Some(target.number);
                tokio::select! {
                    changed = self.shared.targets.changed() => { changed?; break }
                    changed = self.shared.logins.changed() => {
                        changed?;
                        running.files.logins.clone_from(&self.shared.logins.borrow_and_update());
                        running.rewrite().await?;
                    }
                    status = running.child.wait() => {
                        anyhow::ensure!(ending.is_some(), "PgBouncer ended: {}", status?);
                        return Ok(());
                    }
                    // Until the clients are gone it goes on to follow its targets: a leader may
                    // hand over meanwhile.
                    () = wait_true(&mut self.shared.stop), if ending.is_none() => ending = Some(Ending::new(self.shared.config.drain_ms.duration())),
                    () = due(ending.as_ref()), if ending.is_some() => {
                        let Some(stage) = ending.as_mut() else { continue };
                        running.let_go(stage).await?;
                    }
                    () = tokio::time::sleep(if draining { DRAIN_POLL_INTERVAL } else { COUNT_INTERVAL }) => {
                        let pools = running.count().await?;
                        if draining && pools.servers_active == 0 {
                            running.drained = Some(target.number);
                            self.report(Report::Drained(target.number)).await;
                        }
                        if pools.clients == 0 && ending.as_ref().is_some_and(|ending| ending.refuses) {
                            // The anchors are clients, too.
                            running.anchors.clear();
                        }
                        self.report(Report::Pools(pools)).await;
                    }
                }
            }
        }
    }
}

/// Waits until a flag is raised; for ever once its sender is gone.
async fn wait_true(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|up| *up).await.is_err() {
        std::future::pending::<()>().await;
    }
}
