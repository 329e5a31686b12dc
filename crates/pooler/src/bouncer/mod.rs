//! Brings one PgBouncer process where a [`PoolTarget`] says, and keeps it there.

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng;
use rand::distr::Alphanumeric;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::config::PoolerConfig;
use mrg_pgbouncer::{Anchor, AnchorServer, Configuration, Console, Login, Pass, Paused, Pools};
use mrg_pool_core::{Address, Admission, PoolTarget};

const ANSWER_WITHIN: Duration = Duration::from_secs(3);
const START_WITHIN: Duration = Duration::from_secs(10);
/// Nothing announces that the last transaction is done while a pool has its anchor.
const DRAINED_YET: Duration = Duration::from_millis(4);
/// How often the pools are counted otherwise, and the anchors held.
const COUNT_EVERY: Duration = Duration::from_secs(2);
/// The Service stops sending new clients to a pod that ends a moment after it began to.
const STILL_SENT: Duration = Duration::from_secs(2);
/// How often, and how often at most, idle clients are looked for.
const EVICT_AGAIN: Duration = Duration::from_millis(50);
const EVICTIONS: u32 = 50;
/// How many lines of PgBouncer's log are kept for the report of its end.
const KEPT_LINES: usize = 3;
/// Between two signals, each more insistent.
const SIGNAL_AGAIN: Duration = Duration::from_secs(3);

/// What a process tells.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    /// It is where this target says.
    Settled(u64),
    /// And no transaction is under way.
    Drained(u64),
    /// How its pools stand.
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

/// A running process.
struct Running {
    child: Child,
    files: Configuration,
    console: Console,
    spare: Option<Console>,
    anchors: Vec<Anchor>,
    paused: Option<Paused>,
    refusing: bool,
    addresses: Vec<Address>,
    patience: Duration,
    drained: Option<u64>,
}

impl Bouncer {
    /// The process of this number; it starts with the first target that admits clients.
    pub(crate) fn new(number: u16, shared: Shared) -> Self {
        Self { number, shared }
    }

    /// Keeps the process running until it is told to stop.
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

    /// Runs the process until it is told to stop, or fails.
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
                    () = tokio::time::sleep(if draining { DRAINED_YET } else { COUNT_EVERY }) => {
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

    /// Starts it, anchored, with the door to the network still closed.
    async fn start(&mut self) -> anyhow::Result<Running> {
        let password = rand::rng()
            .sample_iter(Alphanumeric)
            .take(32)
            .map(char::from)
            .collect();
        let logins = self.shared.logins.borrow_and_update().clone();
        let files = self.shared.config.bouncer(
            self.number,
            logins,
            Login {
                user: "mrg-pooler".to_owned(),
                password,
            },
        );
        std::fs::create_dir_all(&files.directory)
            .with_context(|| format!("{} cannot be made", files.directory.display()))?;
        files
            .write(&self.shared.anchor_server.pass())
            .context("PgBouncer's files cannot be written")?;
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
        let mut child = command
            .spawn()
            .with_context(|| format!("{} cannot be started", self.shared.config.program))?;
        let log = child
            .stderr
            .take()
            .map(|log| LastLines::follow(log, self.number));
        let console = first_console(&files, &mut child, log.as_ref()).await?;
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
        let spare = Some(
            Console::open(
                &files.directory,
                files.port,
                &files.administrator,
                ANSWER_WITHIN,
            )
            .await?,
        );
        let patience = self.shared.config.patience();
        tracing::info!(
            process = self.number,
            pools = anchors.len(),
            "PgBouncer started"
        );
        let (addresses, refusing, drained) = (Vec::new(), false, None);
        Ok(Running {
            child,
            files,
            console,
            spare,
            anchors,
            paused: None,
            refusing,
            addresses,
            patience,
            drained,
        })
    }
}

/// How a process comes to its end: it is not sent new clients any more, refuses them, waits for
/// those that it has, and ends.
struct Ending {
    next: Instant,
    drain: Duration,
    refuses: bool,
    evictions: u32,
    signals: VecDeque<Signal>,
}

impl Ending {
    fn new(drain: Duration) -> Self {
        // Between two transactions; at once; in any case.
        let signals = VecDeque::from([Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL]);
        Self {
            next: Instant::now() + STILL_SENT,
            drain,
            refuses: false,
            evictions: EVICTIONS,
            signals,
        }
    }
}

async fn due(ending: Option<&Ending>) {
    match ending {
        Some(ending) => tokio::time::sleep_until(ending.next).await,
        None => std::future::pending().await,
    }
}

/// Waits until a flag is up; for ever if nobody can raise it any more.
async fn wait_true(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|up| *up).await.is_err() {
        std::future::pending::<()>().await;
    }
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
        match Console::open(
            &files.directory,
            files.port,
            &files.administrator,
            ANSWER_WITHIN,
        )
        .await
        {
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

/// The last lines of PgBouncer's log; all of it is passed on to the pooler's own log.
#[derive(Clone, Default)]
struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    /// Follows the log until it ends.
    fn follow(log: ChildStderr, process: u16) -> Self {
        let last = Self::default();
        let kept = last.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(log).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                // Time and process stand at the beginning: `2026-11-23 00:10:19.896 UTC [106] ERROR
                // ...`.
                let line = line
                    .split_once("] ")
                    .map_or(line.as_str(), |(_, rest)| rest)
                    .to_owned();
                tracing::info!(process, "pgbouncer: {line}");
                kept.push(line);
            }
        });
        last
    }

    /// A queue of lines is whole whatever happened under the lock.
    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        mrg_base::lock(&self.0)
    }

    fn push(&self, line: String) {
        let mut lines = self.lines();
        lines.push_back(line);
        if lines.len() > KEPT_LINES {
            lines.pop_front();
        }
    }

    fn join(&self) -> String {
        Vec::from(self.lines().clone()).join(" | ")
    }
}

impl Running {
    async fn rewrite(&self) -> anyhow::Result<()> {
        self.files
            .write(&Pass::Servers(self.addresses.clone()))
            .context("PgBouncer's files cannot be written")?;
        Ok(self.console.reload().await?)
    }

    async fn bring_to(&mut self, target: &PoolTarget) -> anyhow::Result<()> {
        if target.admission != Admission::Open && self.paused.is_none() {
            let console = match self.spare.take() {
                Some(console) => console,
                None => self.open().await?,
            };
            self.paused = Some(console.pause());
            // The command goes another way than those that follow.
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
            self.spare = Some(self.open().await?);
        }
        Ok(())
    }

    async fn open(&self) -> anyhow::Result<Console> {
        Ok(Console::open(
            &self.files.directory,
            self.files.port,
            &self.files.administrator,
            ANSWER_WITHIN,
        )
        .await?)
    }

    /// New clients are turned away, and those that wait do not wait longer; or the other way round.
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

    async fn count(&self) -> anyhow::Result<Pools> {
        for anchor in &self.anchors {
            anyhow::ensure!(!anchor.is_lost(), "an anchor was lost");
            anchor.hold(ANSWER_WITHIN).await?;
        }
        Ok(self.console.pools(self.anchors.len() as u64).await?)
    }

    /// One step further towards the end.
    async fn let_go(&mut self, ending: &mut Ending) -> anyhow::Result<()> {
        if !ending.refuses {
            ending.refuses = true;
            ending.next = Instant::now() + ending.drain;
            return Ok(self.console.shut_down_after_clients().await?);
        }
        // Those that stay are ended while they are idle, as far as that comes; one that sends its
        // next query that very moment gets an error.
        if ending.evictions > 0 {
            ending.evictions -= 1;
            self.anchors.clear();
            let ended = self.console.end_idle_clients().await?;
            ending.next = Instant::now()
                + if ended > 0 {
                    EVICT_AGAIN
                } else {
                    EVICT_AGAIN * 4
                };
            return Ok(());
        }
        let pid = self
            .child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .map(Pid::from_raw);
        self.anchors.clear();
        if let (Some(pid), Some(signal)) = (pid, ending.signals.pop_front()) {
            let _ = kill(pid, signal);
        }
        ending.next = Instant::now() + SIGNAL_AGAIN;
        Ok(())
    }
}
