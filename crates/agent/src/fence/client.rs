//! The agent's side of the fence.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::{mpsc, oneshot};

use crate::fence::protocol::{Command, Event};
use mrg_base::{Moment, lock};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("failed to start the fence")]
    Start(#[source] std::io::Error),
    /// Every process that the fence ran is dead, or about to be.
    #[error("the fence is gone")]
    Gone,
    #[error("failed to start {program}: {error}")]
    Spawn {
        program: String,
        /// The fence's own error, as it sent it.
        error: String,
    },
    #[error("the fence did not answer in time")]
    Timeout,
}

/// How a program ended: with a status, or by a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// The end of its output; empty if that went to a file.
    pub output: String,
}

impl Exit {
    pub(crate) fn is_success(&self) -> bool {
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
pub(crate) struct Process {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Added to the fence's environment.
    pub env: Vec<(String, String)>,
    /// Where its output is appended; the fence's own standard error if `None`.
    pub log: Option<PathBuf>,
    /// It may write to the cluster: refused without an armed deadline that lies ahead.
    pub writer: bool,
    /// Its orphans are killed when it ends, before its end is reported.
    pub whole: bool,
}

/// What a program has printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Printed {
    /// The last lines.
    pub text: String,
    /// How many bytes there were in all.
    pub bytes: u64,
}

impl Printed {
    /// What was printed after the first so many bytes, as far as it is kept.
    pub(crate) fn after(&self, bytes: u64) -> &str {
        let new = self.bytes.saturating_sub(bytes);
        let skipped = (self.text.len() as u64).saturating_sub(new);
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        // What is not UTF-8 was replaced, so the place may be off by some bytes, and in a character.
        let boundary = (skipped..=self.text.len()).find(|at| self.text.is_char_boundary(*at));
        boundary
            .and_then(|at| self.text.get(at..))
            .unwrap_or_default()
    }
}

/// What the fence has not answered yet, by the id of the command.
#[derive(Default)]
struct Waiting {
    spawns: BTreeMap<u64, oneshot::Sender<Result<i32, String>>>,
    exits: BTreeMap<u64, oneshot::Sender<Exit>>,
    answers: BTreeMap<u64, oneshot::Sender<()>>,
    outputs: BTreeMap<u64, oneshot::Sender<Printed>>,
    /// The last id that was used; ids ascend.
    last: u64,
    /// The deadline that the fence has confirmed, until it passes.
    deadline: Option<Moment>,
    /// The fence has ended.
    gone: bool,
}

/// A handle of the running fence.
#[derive(Clone)]
pub(crate) struct Fence {
    commands: mpsc::UnboundedSender<Command>,
    waiting: Arc<Mutex<Waiting>>,
    /// The fence's process id.
    pub pid: u32,
}

/// The fence answers from a loop that does nothing slow but killing.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

impl Fence {
    /// Starts the fence: this program with the argument `fence`. It and what it runs have nothing but
    /// `environment`. `gone` receives a message when it has ended.
    pub(crate) fn start(
        environment: Vec<(OsString, OsString)>,
        gone: oneshot::Sender<()>,
    ) -> Result<Self, Error> {
        let program = std::env::current_exe().map_err(Error::Start)?;
        let mut child = tokio::process::Command::new(program)
            .arg("fence")
            .env_clear()
            .envs(environment)
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
        lock(&self.waiting)
    }

    fn next_id(&self) -> Result<u64, Error> {
        let mut waiting = self.waiting();
        if waiting.gone {
            return Err(Error::Gone);
        }
        waiting.last += 1;
        Ok(waiting.last)
    }

    fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).map_err(|_| Error::Gone)
    }

    /// Runs a program; gives the fence's id of it, its process id, and a receiver for its end. Ids
    /// ascend.
    pub(crate) async fn spawn(
        &self,
        process: Process,
    ) -> Result<(u64, i32, oneshot::Receiver<Exit>), Error> {
        let id = self.next_id()?;
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
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(Ok(pid))) => Ok((id, pid, exit)),
            Ok(Ok(Err(error))) => Err(Error::Spawn { program, error }),
            Ok(Err(_)) => Err(Error::Gone),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Sends a signal to a program, by the fence's id of it. One that has ended is not an error.
    pub(crate) fn signal(&self, id: u64, signal: Signal) -> Result<(), Error> {
        self.send(Command::Signal {
            id,
            signal: signal as i32,
        })
    }

    async fn answered(&self, command: impl FnOnce(u64) -> Command) -> Result<(), Error> {
        let id = self.next_id()?;
        let (answered, answer) = oneshot::channel();
        self.waiting().answers.insert(id, answered);
        self.send(command(id))?;
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::Gone),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Sets the deadline by which everything is killed, and returns once it is in force; `None`
    /// removes it.
    pub(crate) async fn arm(&self, by: Option<Moment>) -> Result<(), Error> {
        self.answered(|id| Command::Arm { id, by }).await?;
        self.waiting().deadline = by;
        Ok(())
    }

    /// Whether a deadline is in force that lies ahead.
    pub(crate) fn is_armed(&self) -> bool {
        self.waiting()
            .deadline
            .is_some_and(|by| mrg_clock::now() < by)
    }

    /// What a running program has printed, by the fence's id of it.
    pub(crate) async fn output(&self, program: u64) -> Result<Printed, Error> {
        let id = self.next_id()?;
        let (answered, answer) = oneshot::channel();
        self.waiting().outputs.insert(id, answered);
        self.send(Command::Output { id, program })?;
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(printed)) => Ok(printed),
            Ok(Err(_)) => Err(Error::Gone),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Kills everything, and returns once nothing runs. The deadline stays in force.
    pub(crate) async fn kill(&self) -> Result<(), Error> {
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
    let waiting = || lock(&waiting);
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Ok(event) = serde_json::from_str(&line) {
            waiting().take(event);
        }
    }
    let _ = child.wait().await;
    waiting().end();
    let _ = gone.send(());
}

impl Waiting {
    fn take(&mut self, event: Event) {
        match event {
            Event::Spawned { id, pid } => resolve(&mut self.spawns, id, Ok(pid)),
            Event::SpawnFailed { id, error } => {
                self.exits.remove(&id);
                resolve(&mut self.spawns, id, Err(error));
            }
            Event::Exited {
                id,
                code,
                signal,
                output,
            } => {
                let exit = Exit {
                    code,
                    signal,
                    output,
                };
                resolve(&mut self.exits, id, exit);
            }
            Event::Output { id, text, printed } => {
                let bytes = printed;
                resolve(&mut self.outputs, id, Printed { text, bytes });
            }
            Event::Armed { id } | Event::Killed { id } => resolve(&mut self.answers, id, ()),
            Event::PastReturn { pids } => tracing::warn!(
                ?pids,
                "killed processes wait in the kernel, as for a disk that hangs; they never run again and count as dead"
            ),
            Event::Fenced => {
                self.deadline = None;
                tracing::warn!(
                    "the lease could not be proved in time: postgres was killed by the fence"
                );
            }
        }
    }

    /// Drops everything that waits: it ends with [`Error::Gone`].
    fn end(&mut self) {
        *self = Self {
            gone: true,
            last: self.last,
            ..Self::default()
        };
    }
}

/// One that does not wait any more has timed out or was aborted.
fn resolve<T>(waiting: &mut BTreeMap<u64, oneshot::Sender<T>>, id: u64, answer: T) {
    if let Some(sender) = waiting.remove(&id) {
        let _ = sender.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use super::Printed;

    #[test]
    fn what_was_printed_after_a_moment_is_found_in_what_is_kept() {
        let printed = Printed {
            text: "äbc\n".to_owned(),
            bytes: 105,
        };
        for (after, expected) in [
            (0, "äbc\n"),
            (100, "äbc\n"),
            (101, "bc\n"),
            (102, "bc\n"),
            (104, "\n"),
            (105, ""),
            (999, ""),
        ] {
            assert_eq!(printed.after(after), expected, "{after}");
        }
    }
}
