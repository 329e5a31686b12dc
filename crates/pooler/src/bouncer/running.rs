//! A running process: brought where a target says, and counted.

use std::time::Duration;

use anyhow::Context;
use tokio::process::Child;
use tokio::time::Instant;

use super::ANSWER_WITHIN;
use super::start::open_console;
use mrg_pgbouncer::{Anchor, Configuration, Console, Pass, Paused, Pools};
use mrg_pool_core::{Address, Admission, PoolTarget};

/// A running process.
pub(super) struct Running {
    pub(super) child: Child,
    pub(super) files: Configuration,
    pub(super) console: Console,
    pub(super) spare: Option<Console>,
    pub(super) anchors: Vec<Anchor>,
    pub(super) paused: Option<Paused>,
    pub(super) refusing: bool,
    pub(super) addresses: Vec<Address>,
    pub(super) patience: Duration,
    pub(super) drained: Option<u64>,
}

impl Running {
    pub(super) async fn rewrite(&self) -> anyhow::Result<()> {
        self.files
            .write(&Pass::Servers(self.addresses.clone()))
            .context("PgBouncer's files cannot be written")?;
        Ok(self.console.reload().await?)
    }

    pub(super) async fn bring_to(&mut self, target: &PoolTarget) -> anyhow::Result<()> {
        if target.admission != Admission::Open && self.paused.is_none() {
            let console = match self.spare.take() {
                Some(console) => console,
                None => open_console(&self.files).await?,
            };
            self.paused = Some(console.pause());
            // The command goes over a session of its own, so the following ones could overtake it.
            let deadline = Instant::now() + ANSWER_WITHIN;
            while !self.console.is_paused().await? {
                anyhow::ensure!(Instant::now() < deadline, "PgBouncer does not pause");
                tokio::task::yield_now().await;
            }
            self.drained = None;
        }
        if self.addresses != target.addresses {
            self.addresses.clone_from(&target.addresses);
            self.rewrite().await?;
        }
        if self.refusing != (target.admission == Admission::Rejecting) {
            self.refusing = !self.refusing;
            self.refuse().await?;
        }
        if target.admission == Admission::Open && self.paused.is_some() {
            self.console.resume().await?;
            self.paused = None;
            self.spare = Some(open_console(&self.files).await?);
        }
        Ok(())
    }

    /// Enables or disables the databases, as `refusing` says. While they are disabled new clients
    /// are turned away, and those that wait give up after a second.
    async fn refuse(&self) -> anyhow::Result<()> {
        for database in &self.files.databases {
            self.console.enable(&database.alias, !self.refusing).await?;
        }
        Ok(self
            .console
            .set_patience(if self.refusing {
                Duration::from_secs(1)
            } else {
                self.patience
            })
            .await?)
    }

    pub(super) async fn count(&self) -> anyhow::Result<Pools> {
        for anchor in &self.anchors {
            anyhow::ensure!(!anchor.is_lost(), "an anchor was lost");
            anchor.hold(ANSWER_WITHIN).await?;
        }
        Ok(self.console.pools(self.anchors.len() as u64).await?)
    }
}
