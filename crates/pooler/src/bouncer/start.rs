//! How a process starts: configured, anchored, and not reachable over the network yet.

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use rand::Rng;
use rand::distr::Alphanumeric;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::log::LastLines;
use super::running::{Logins, Running};
use super::{ANSWER_WITHIN, Bouncer};
use mrg_pgbouncer::{ADMINISTRATOR, Anchor, Configuration, Console, Error, Login};

/// How long PgBouncer may take until it answers for the first time.
const START_WITHIN: Duration = Duration::from_secs(10);

impl Bouncer {
    /// Starts it, anchored, with the door to the network still closed.
    pub(super) async fn start(&mut self) -> anyhow::Result<Running> {
        let files = self.write_files()?;
        let mut child = self.spawn(&files)?;
        let log = child
            .stderr
            .take()
            .map(|log| LastLines::follow(log, self.number));
        let console = first_console(&files, &mut child, log.as_ref()).await?;
        let anchors = anchor_pools(&files).await?;
        let spare = Some(open_console(&files).await?);
        tracing::info!(
            process = self.number,
            pools = anchors.len(),
            "PgBouncer started"
        );
        Ok(Running {
            child,
            files,
            console,
            spare,
            anchors,
            paused: None,
            refusing: false,
            addresses: Vec::new(),
            patience: self.shared.config.patience(),
            logins: Logins::new(self.shared.config.login_within()),
            drained: None,
        })
    }

    /// Writes the files of a process whose pools lead to the anchor's server.
    fn write_files(&mut self) -> anyhow::Result<Configuration> {
        let password = rand::rng()
            .sample_iter(Alphanumeric)
            .take(32)
            .map(char::from)
            .collect();
        let administrator = Login {
            user: ADMINISTRATOR.to_owned(),
            password,
        };
        let logins = self.shared.logins.borrow_and_update().clone();
        let files = self
            .shared
            .config
            .bouncer(self.number, logins, administrator);
        std::fs::create_dir_all(&files.directory)
            .with_context(|| format!("{} cannot be made", files.directory.display()))?;
        files
            .write(&self.shared.anchor_server.pass())
            .context("PgBouncer's files cannot be written")?;
        Ok(files)
    }

    fn spawn(&self, files: &Configuration) -> anyhow::Result<Child> {
        let mut command = Command::new(&self.shared.config.program);
        // Debian keeps PgBouncer where a user's PATH does not lead.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin"));
        command
            .arg(files.file())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
            .spawn()
            .with_context(|| format!("{} cannot be started", self.shared.config.program))
    }
}

/// One anchor for each pool, which is one for each database and user.
async fn anchor_pools(files: &Configuration) -> anyhow::Result<Vec<Anchor>> {
    let mut anchors = Vec::new();
    for database in &files.databases {
        for login in &files.logins {
            let anchor = Anchor::drop_in(
                &files.directory,
                files.port,
                login,
                &database.alias,
                ANSWER_WITHIN,
            )
            .await;
            anchors.push(anchor.with_context(|| {
                format!(
                    "the pool of {} in {} cannot be anchored",
                    login.user, database.alias
                )
            })?);
        }
    }
    Ok(anchors)
}

/// A session with the admin console.
pub(super) async fn open_console(files: &Configuration) -> Result<Console, Error> {
    Console::open(
        &files.directory,
        files.port,
        &files.administrator,
        ANSWER_WITHIN,
    )
    .await
}

/// The first session; PgBouncer's socket is there a few milliseconds after its start, and nothing
/// announces it.
async fn first_console(
    files: &Configuration,
    child: &mut Child,
    log: Option<&LastLines>,
) -> anyhow::Result<Console> {
    let deadline = Instant::now() + START_WITHIN;
    loop {
        match open_console(files).await {
            Ok(console) => return Ok(console),
            Err(error) if Instant::now() >= deadline => {
                return Err(error).context("PgBouncer does not answer");
            }
            Err(_) => {}
        }
        if let Some(status) = child.try_wait()? {
            // The end of its log may still be on its way.
            tokio::time::sleep(Duration::from_millis(20)).await;
            anyhow::bail!(
                "PgBouncer ended at its start: {status}: {}",
                log.map(LastLines::join).unwrap_or_default()
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
