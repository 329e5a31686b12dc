//! PgBouncer's log.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::ChildStderr;

/// How many lines of PgBouncer's log are kept for the report of its end.
const KEPT_LINES: usize = 3;

/// The last lines of PgBouncer's log; all of it is passed on to the pooler's own log.
#[derive(Clone, Default)]
pub(super) struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    /// Follows the log until it ends.
    pub(super) fn follow(log: ChildStderr, process: u16) -> Self {
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

    pub(super) fn join(&self) -> String {
        Vec::from(self.lines().clone()).join(" | ")
    }
}
