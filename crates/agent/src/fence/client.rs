//! The agent's side of the fence.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};

use crate::fence::protocol::{Command, Event};
use mrg_base::Moment;

/// What went wrong between agent and fence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The fence could not be started.
    #[error("failed to start the fence")]
    Start(#[source] std::io::Error),
    /// The fence is gone; whatever it ran is dead, or about to be.
    #[error("the fence is gone")]
    Gone,
    /// The program did not start.
    #[error("failed to start {program}: {error}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        error: String,
    },
    /// The fence did not answer.
    #[error("the fence did not answer in time")]
    Timeout,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its status, if it exited.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl Exit {
    /// Whether it ended with status 0.
    pub fn is_success(self) -> bool {
        self.code == Some(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.code, self.signal) {
            (Some(code), _) => write!(f, "exit status {code}"),
            (None, Some(signal)) => write!(f, "signal {signal}"),
            (None, None) => write!(f, "an unknown end"),
        }
    }
}

/// A program to run.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Added to the environment.
    pub env: Vec<(String, String)>,
    /// Where its output goes.
    pub log: Option<PathBuf>,
    /// It may write to the cluster.
    pub writer: bool,
    /// Its orphans die with it.
    pub whole: bool,
}

#[derive(Default)]
struct Waiting {
    spawns: BTreeMap<u64, oneshot::Sender<Result<i32, String>>>,
    exits: BTreeMap<u64, oneshot::Sender<Exit>>,
    answers: BTreeMap<u64, oneshot::Sender<()>>,
    next: u64,
    deadline: Option<Moment>,
    gone: bool,
}

/// A running fence.
#[derive(Clone)]
pub struct Fence {
    commands: mpsc::UnboundedSender<Command>,
    waiting: Arc<Mutex<Waiting>>,
    /// The fence's process id.
    pub pid: u32,
}

/// The fence answers from a loop that does nothing slow but killing.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

impl Fence {
    /// Starts the fence: this program with the argument `fence`. `gone` is told when it ends.
    pub fn start(gone: oneshot::Sender<()>) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(Error::Start)?;
        let mut child = tokio::process::Command::new(program)
            .arg("fence")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(Error::Start)?;
        let broken = || Error::Start(std::io::Error::other("no pipe"));
        let stdin = child.stdin.take().ok_or_else(broken)?;
        let stdout = child.stdout.take().ok_or_else(broken)?;
        let pid = child.id().ok_or_else(broken)?;
        let (commands, queue) = mpsc::unbounded_channel();
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        tokio::spawn(write_commands(stdin, queue));
        tokio::spawn(read_events(stdout, child, waiting.clone(), gone));
        Ok(Self {
            commands,
            waiting,
            pid,
        })
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn next(&self) -> Result<u64, Error> {
        let mut waiting = self.waiting();
        if waiting.gone {
            return Err(Error::Gone);
        }
        waiting.next += 1;
        Ok(waiting.next)
    }

    fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).map_err(|_| Error::Gone)
    }

    /// Runs a program; gives its name, its process id, and a receiver for its end.
    pub async fn spawn(
        &self,
        process: Process,
    ) -> Result<(u64, i32, oneshot::Receiver<Exit>), Error> {
        let id = self.next()?;
        let (spawned, answer) = oneshot::channel();
        let (exited, exit) = oneshot::channel();
        {
            let mut waiting = self.waiting();
            waiting.spawns.insert(id, spawned);
            waiting.exits.insert(id, exited);
        }
        let Process {
            argv,
            env,
            log,
            writer,
            whole,
        } = process;
        let program = argv.first().cloned().unwrap_or_default();
        self.send(Command::Spawn {
            id,
            argv,
            env,
            log,
            writer,
            whole,
        })?;
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(Ok(pid))) => Ok((id, pid, exit)),
            Ok(Ok(Err(error))) => Err(Error::Spawn { program, error }),
            Ok(Err(_)) => Err(Error::Gone),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Sends a signal to a program.
    pub fn signal(&self, id: u64, signal: Signal) -> Result<(), Error> {
        self.send(Command::Signal {
            id,
            signal: signal as i32,
        })
    }

    async fn answered(&self, command: impl FnOnce(u64) -> Command) -> Result<(), Error> {
        let id = self.next()?;
        let (answered, answer) = oneshot::channel();
        self.waiting().answers.insert(id, answered);
        self.send(command(id))?;
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::Gone),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Sets the deadline, and returns once it is in force.
    pub async fn arm(&self, by: Option<Moment>) -> Result<(), Error> {
        self.answered(|id| Command::Arm { id, by }).await?;
        self.waiting().deadline = by;
        Ok(())
    }

    /// Whether a deadline is set that lies ahead by more than the killing takes.
    pub fn is_armed(&self) -> bool {
        self.waiting()
            .deadline
            .is_some_and(|by| mrg_clock::now() < by)
    }

    /// Kills everything, and returns once nothing runs.
    pub async fn kill(&self) -> Result<(), Error> {
        self.answered(|id| Command::Kill { id }).await
    }
}

async fn write_commands(mut stdin: ChildStdin, mut queue: mpsc::UnboundedReceiver<Command>) {
    while let Some(command) = queue.recv().await {
        let mut line = serde_json::to_vec(&command).unwrap_or_default();
        line.push(b'\n');
        if stdin.write_all(&line).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}

async fn read_events(
    stdout: ChildStdout,
    mut child: Child,
    waiting: Arc<Mutex<Waiting>>,
    gone: oneshot::Sender<()>,
) {
    let lock = || {
        waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    };
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(event) = serde_json::from_str(&line) else {
            continue;
        };
        let mut waiting = lock();
        match event {
            Event::Spawned { id, pid } => {
                waiting
                    .spawns
                    .remove(&id)
                    .map(|spawned| spawned.send(Ok(pid)));
            }
            Event::SpawnFailed { id, error } => {
                waiting.exits.remove(&id);
                waiting
                    .spawns
                    .remove(&id)
                    .map(|spawned| spawned.send(Err(error)));
            }
            Event::Exited { id, code, signal } => {
                waiting
                    .exits
                    .remove(&id)
                    .map(|exited| exited.send(Exit { code, signal }));
            }
            Event::Armed { id } | Event::Killed { id } => {
                waiting
                    .answers
                    .remove(&id)
                    .map(|answered| answered.send(()));
            }
            Event::Fenced => {
                waiting.deadline = None;
                tracing::warn!(
                    "the lease could not be proved in time: postgres was killed by the fence"
                );
            }
        }
    }
    let _ = child.wait().await;
    {
        let mut waiting = lock();
        let next = waiting.next;
        *waiting = Waiting {
            gone: true,
            next,
            ..Waiting::default()
        };
    }
    let _ = gone.send(());
}
