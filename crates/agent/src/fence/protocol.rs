//! What agent and fence say to each other: one JSON object a line.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use mrg_base::Moment;

/// From the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Command {
    /// Run a program.
    Spawn {
        /// The agent's name for it.
        id: u64,
        /// Program and arguments.
        argv: Vec<String>,
        /// Added to the environment.
        env: Vec<(String, String)>,
        /// Where its output goes; the fence's own standard error if none.
        log: Option<PathBuf>,
        /// Whether it may write to the cluster: refused without an armed deadline that lies ahead.
        writer: bool,
        /// Whether its orphans are killed when it ends, before its end is reported.
        whole: bool,
    },
    /// Send a signal to a running program.
    Signal {
        /// Which.
        id: u64,
        /// The signal's number.
        signal: i32,
    },
    /// Kill everything by this moment; `None` disarms.
    Arm {
        /// Names the answer.
        id: u64,
        /// The deadline.
        by: Option<Moment>,
    },
    /// Kill everything now.
    Kill {
        /// Names the answer.
        id: u64,
    },
}

/// From the fence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Event {
    /// The program runs.
    Spawned {
        /// Which.
        id: u64,
        /// Its process id.
        pid: i32,
    },
    /// The program does not run.
    SpawnFailed {
        /// Which.
        id: u64,
        /// Why.
        error: String,
    },
    /// The program has ended.
    Exited {
        /// Which.
        id: u64,
        /// Its exit status, if it exited by itself.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// The deadline is set.
    Armed {
        /// The command that set it.
        id: u64,
    },
    /// Nothing runs any more.
    Killed {
        /// The command that asked for it.
        id: u64,
    },
    /// The deadline passed and everything was killed.
    Fenced,
}
