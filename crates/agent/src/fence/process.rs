//! The fence's own loop: no runtime, little that can fail.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::fence::descendants::kill_descendants;
use crate::fence::output::Output;
use crate::fence::protocol::{Command, Event};
use mrg_base::{Millis, Moment};

/// A command with a long connection string fits.
const READ_SIZE: usize = 65_536;
/// Killing begins this long before the deadline, to be done by then.
const KILL_TAKES: Millis = Millis(150);

#[derive(Default)]
struct State {
    /// Running programs by process id.
    programs: BTreeMap<i32, Program>,
    deadline: Option<Moment>,
    /// The last deadline has passed.
    fenced: bool,
    /// Processes that were reported as [`Event::PastReturn`].
    past_return: BTreeSet<i32>,
}

struct Program {
    id: u64,
    whole: bool,
    /// What it prints, if that does not go to a file.
    output: Option<Output>,
}

/// Runs until the pipe from the agent closes; then kills everything and returns.
///
/// # Errors
/// If the process cannot be set up as a subreaper with a signal file descriptor (nothing was started
/// then), or cannot wait for commands any more. What was started is the agent's child then, and the
/// agent kills it.
pub fn run() -> std::io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    let signals = block_signals()?;
    let stdin = std::io::stdin();
    let mut state = State::default();
    let mut pending = Vec::new();
    let mut buffer = vec![0; READ_SIZE];
    loop {
        let (commands_ready, signals_ready) = wait(stdin.as_fd(), signals.as_fd(), state.deadline)?;
        // The deadline comes first, whatever else there is to do.
        state.enforce();
        if signals_ready {
            while let Ok(Some(_)) = signals.read_signal() {}
            state.reap();
        }
        if commands_ready {
            match stdin.lock().read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(length) => pending.extend(buffer.iter().take(length)),
            }
            while let Some(line) = take_line(&mut pending) {
                match serde_json::from_slice(&line) {
                    Ok(command) => state.handle(command),
                    Err(_) => break,
                }
            }
        }
    }
    state.kill_all();
    Ok(())
}

/// Makes `SIGCHLD` readable. The terminal's and the container's signals are for the agent, which
/// sends the commands that follow from them.
fn block_signals() -> std::io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        mask.add(signal);
    }
    mask.thread_block()?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    Ok(SignalFd::with_flags(&mask, flags)?)
}

/// The first whole line of what was read, with its end.
fn take_line(pending: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = pending.iter().position(|byte| *byte == b'\n')?;
    Some(pending.drain(..=end).collect())
}

/// Waits for a command, a signal or the deadline.
fn wait(
    commands: BorrowedFd<'_>,
    signals: BorrowedFd<'_>,
    deadline: Option<Moment>,
) -> std::io::Result<(bool, bool)> {
    let mut descriptors = [
        PollFd::new(commands, PollFlags::POLLIN),
        PollFd::new(signals, PollFlags::POLLIN),
    ];
    let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
        // poll counts on a clock that stops in suspension; waking at least every 100 ms near the
        // end bounds what that can cost.
        let left = (deadline - KILL_TAKES).since(mrg_clock::now()).0.min(500);
        PollTimeout::from(u16::try_from(left).unwrap_or(500))
    });
    match poll(&mut descriptors, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let [commands, signals] = descriptors.map(|descriptor| descriptor.any().unwrap_or(true));
    Ok((commands, signals))
}

fn report(event: &Event) {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    // If the agent is gone, the next read ends, and everything with it.
    let _ = std::io::stdout().lock().write_all(&line);
    let _ = std::io::stdout().lock().flush();
}

impl State {
    fn enforce(&mut self) {
        if self
            .deadline
            .is_some_and(|deadline| mrg_clock::now() >= deadline - KILL_TAKES)
        {
            self.deadline = None;
            self.fenced = true;
            self.kill_all();
            report(&Event::Fenced);
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Spawn {
                id,
                argv,
                env,
                log,
                writer,
                whole,
            } => {
                let refused = writer && (self.fenced || self.deadline.is_none());
                let started = if refused {
                    Err("a writer needs an armed fence".to_owned())
                } else {
                    spawn(&argv, env, log.as_deref()).map_err(|error| error.to_string())
                };
                match started {
                    Ok((pid, output)) => {
                        self.programs.insert(pid, Program { id, whole, output });
                        report(&Event::Spawned { id, pid });
                    }
                    Err(error) => report(&Event::SpawnFailed { id, error }),
                }
            }
            Command::Signal { id, signal } => self.signal(id, signal),
            Command::Arm { id, by } => {
                self.deadline = by;
                self.fenced = false;
                self.enforce();
                report(&Event::Armed { id });
            }
            Command::Kill { id } => {
                self.kill_all();
                report(&Event::Killed { id });
            }
            Command::Output { id, program } => {
                let (text, printed) = self.output(program).unwrap_or_default();
                report(&Event::Output { id, text, printed });
            }
        }
    }

    fn output(&self, id: u64) -> Option<(String, u64)> {
        let mut programs = self.programs.values();
        let program = programs.find(|program| program.id == id)?;
        Some(program.output.as_ref()?.so_far())
    }

    fn signal(&self, id: u64, signal: i32) {
        let pid = self
            .programs
            .iter()
            .find_map(|(pid, program)| (program.id == id).then_some(*pid));
        if let (Some(pid), Ok(signal)) = (pid, Signal::try_from(signal)) {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    fn reap(&mut self) {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
            self.ended(status, true);
        }
    }

    fn ended(&mut self, status: WaitStatus, with_orphans: bool) {
        let (pid, code, signal) = match status {
            WaitStatus::Exited(pid, code) => (pid, Some(code), None),
            WaitStatus::Signaled(pid, signal, _) => (pid, None, Some(signal as i32)),
            _ => return,
        };
        let Some(program) = self.programs.remove(&pid.as_raw()) else {
            return;
        };
        if program.whole && with_orphans {
            let spare: BTreeSet<i32> = self.programs.keys().copied().collect();
            let mut others = Vec::new();
            let past_return =
                kill_descendants(&spare, &self.past_return, |status| others.push(status));
            self.note_past_return(past_return);
            for other in others {
                self.ended(other, false);
            }
        }
        report(&Event::Exited {
            id: program.id,
            code,
            signal,
            output: program
                .output
                .map(|output| output.end())
                .unwrap_or_default(),
        });
    }

    fn kill_all(&mut self) {
        let mut ended = Vec::new();
        let past_return = kill_descendants(&BTreeSet::new(), &self.past_return, |status| {
            ended.push(status);
        });
        self.note_past_return(past_return);
        for status in ended {
            self.ended(status, false);
        }
    }

    /// Each such process is reported once.
    fn note_past_return(&mut self, found: BTreeSet<i32>) {
        let pids: Vec<i32> = found.difference(&self.past_return).copied().collect();
        if !pids.is_empty() {
            report(&Event::PastReturn { pids });
        }
        self.past_return = found;
    }
}

fn spawn(
    argv: &[String],
    env: Vec<(String, String)>,
    log: Option<&std::path::Path>,
) -> std::io::Result<(i32, Option<Output>)> {
    let (to, output): (OwnedFd, _) = if let Some(path) = log {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        (file.into(), None)
    } else {
        let (reader, writer) = std::io::pipe()?;
        (writer.into(), Some(Output::copy(reader)?))
    };
    // This program in the child, whatever has become of its file: it asks to die with the fence.
    let child = std::process::Command::new("/proc/self/exe")
        .arg("run")
        .arg(std::process::id().to_string())
        .arg("--")
        .args(argv)
        .envs(env)
        .stdin(Stdio::null())
        .stdout(to.try_clone()?)
        .stderr(to)
        .spawn()?;
    // The child is waited for by number, together with the orphans.
    let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
    Ok((pid, output))
}

/// Replaces this process by a program that the kernel kills when the fence dies, however that
/// happens: an agent and its fence that are killed together leave no server behind. Returns only
/// with the reason why that failed.
pub fn become_program(fence: u32, argv: &[std::ffi::OsString]) -> std::io::Error {
    if let Err(errno) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
        return errno.into();
    }
    // A fence that died before the line above is not noticed by it.
    if u32::try_from(nix::unistd::getppid().as_raw()) != Ok(fence) {
        return std::io::Error::other("the fence is gone");
    }
    let Some((program, arguments)) = argv.split_first() else {
        return std::io::Error::new(std::io::ErrorKind::InvalidInput, "no program given");
    };
    let error = std::process::Command::new(program).args(arguments).exec();
    let program = program.to_string_lossy();
    std::io::Error::new(error.kind(), format!("{program}: {error}"))
}
