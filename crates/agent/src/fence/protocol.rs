//! Messages between agent and fence: one JSON object a line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use mrg_base::Moment;

/// From the agent. Every command has an id of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Command {
    /// Run a program; the id stands for it from now on. See [`Process`](super::Process).
    Spawn {
        id: u64,
        argv: Vec<String>,
        env: Vec<(String, String)>,
        log: Option<PathBuf>,
        writer: bool,
        whole: bool,
    },
    /// Send a signal, by its number, to a running program.
    Signal { id: u64, signal: i32 },
    /// Kill everything by this moment; `None` removes the deadline.
    Arm { id: u64, by: Option<Moment> },
    /// Kill everything now.
    Kill { id: u64 },
    /// Say what a running program has printed; the number stands for the program.
    Output { id: u64, program: u64 },
}

/// From the fence. The id is that of the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Event {
    Spawned {
        id: u64,
        pid: i32,
    },
    SpawnFailed {
        id: u64,
        error: String,
    },
    /// The program has ended: with a status, or by a signal.
    Exited {
        id: u64,
        code: Option<i32>,
        signal: Option<i32>,
        /// The end of its output, if that did not go to a file.
        output: String,
    },
    /// The deadline is in force.
    Armed {
        id: u64,
    },
    /// These were killed and cannot die yet; they never run again.
    PastReturn {
        pids: Vec<i32>,
    },
    /// Nothing runs any more.
    Killed {
        id: u64,
    },
    /// The end of what a program has printed so far; empty if that goes to a file, or if it has
    /// ended.
    Output {
        id: u64,
        text: String,
        /// How many bytes it has printed since it started.
        printed: u64,
    },
    /// The deadline has passed, and everything was killed.
    Fenced,
}
