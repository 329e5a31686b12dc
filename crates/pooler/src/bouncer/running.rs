//! A running process: brought where a target says, and counted.

use std::time::Duration;

use anyhow::Context;
use tokio::process::Child;
use tokio::time::Instant;

use super::ANSWER_WITHIN;
use super::start::open_console;
use crate::config::LOGIN_TIMEOUT;
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
    pub(super) logins: Logins,
    pub(super) drained: Option<u64>,
}

/// How long clients may take to log in.
pub(super) enum Logins {
    /// The user's own setting, whatever happens.
    AsSet,
    /// So long, while clients work.
    Within(Duration),
    /// As long as a query may wait, for clients wait.
    Patient(Duration),
    /// The same until this moment: clients that came in between get the usual time from here on.
    PatientUntil(Instant, Duration),
}

impl Logins {
    /// `within` is how long while clients work; `None` for the user's own setting.
    pub(super) fn new(within: Option<Duration>) -> Self {
        within.map_or(Logins::AsSet, Logins::Within)
    }
}

impl Running {
    /// Sets something until the next change of it. The files have it as well, so that it outlives
    /// that they are read again.
    async fn set(&mut self, name: &str, within: Duration) -> anyhow::Result<()> {
        let seconds = within.as_secs().max(1).to_string();
        self.console.set(name, &seconds).await?;
        self.files.settings.insert(name.to_owned(), seconds);
        Ok(())
    }

    /// Gives clients that log in as long as queries have.
    async fn wait_for_logins(&mut self) -> anyhow::Result<()> {
        let (Logins::Within(within) | Logins::PatientUntil(_, within)) = self.logins else {
            return Ok(());
        };
        self.set(LOGIN_TIMEOUT, self.patience).await?;
        self.logins = Logins::Patient(within);
        Ok(())
    }

    /// The usual time to log in is in force again, after a while.
    fn hurry_logins(&mut self) {
        if let Logins::Patient(within) = self.logins {
            self.logins = Logins::PatientUntil(Instant::now() + within, within);
        }
    }

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
            self.wait_for_logins().await?;
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
            self.hurry_logins();
            self.spare = Some(open_console(&self.files).await?);
        }
        Ok(())
    }

    /// Enables or disables the databases, as `refusing` says. While they are disabled new clients
    /// are turned away, and those that wait give up after a second.
    async fn refuse(&mut self) -> anyhow::Result<()> {
        for database in &self.files.databases {
            self.console.enable(&database.alias, !self.refusing).await?;
        }
        let patience = if self.refusing {
            Duration::from_secs(1)
        } else {
            self.patience
        };
        self.set("query_wait_timeout", patience).await
    }

    pub(super) async fn count(&mut self) -> anyhow::Result<Pools> {
        if let Logins::PatientUntil(until, within) = self.logins
            && Instant::now() >= until
        {
            self.set(LOGIN_TIMEOUT, within).await?;
            self.logins = Logins::Within(within);
        }
        for anchor in &self.anchors {
            anyhow::ensure!(!anchor.is_lost(), "an anchor was lost");
            anchor.hold(ANSWER_WITHIN).await?;
        }
        Ok(self.console.pools(self.anchors.len() as u64).await?)
    }
}
