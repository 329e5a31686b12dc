//! How a process ends: its clients are let go before it is stopped.

use std::collections::VecDeque;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::running::Running;

/// The Service stops sending new clients to a pod that ends a moment after it began to.
const STILL_SENT: Duration = Duration::from_secs(2);
/// The interval between two rounds in which idle clients are evicted.
const EVICTION_INTERVAL: Duration = Duration::from_millis(50);
/// How many rounds there are at most.
const MAX_EVICTIONS: u32 = 50;
/// The interval between two signals, each more insistent than the last.
const SIGNAL_INTERVAL: Duration = Duration::from_secs(3);

/// How a process comes to its end: it is not sent new clients any more, refuses them, waits for
/// those that it has, and ends.
pub(super) struct Ending {
    next: Instant,
    drain: Duration,
    pub(super) refuses: bool,
    evictions: u32,
    signals: VecDeque<Signal>,
}

impl Ending {
    pub(super) fn new(drain: Duration) -> Self {
        // Between two transactions; at once; in any case.
        let signals = VecDeque::from([Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL]);
        Self {
            next: Instant::now() + STILL_SENT,
            drain,
            refuses: false,
            evictions: MAX_EVICTIONS,
            signals,
        }
    }
}

pub(super) async fn due(ending: Option<&Ending>) {
    match ending {
        Some(ending) => tokio::time::sleep_until(ending.next).await,
        None => std::future::pending().await,
    }
}

impl Running {
    /// One step further towards the end.
    pub(super) async fn let_go(&mut self, ending: &mut Ending) -> anyhow::Result<()> {
        if !ending.refuses {
            ending.refuses = true;
            ending.next = Instant::now() + ending.drain;
            return Ok(self.console.shut_down_after_clients().await?);
        }
        // Clients that stay are evicted while they are idle. One that sends its next query at that
        // moment gets an error.
        if ending.evictions > 0 {
            ending.evictions -= 1;
            self.anchors.clear();
            let ended = self.console.end_idle_clients().await?;
            ending.next = Instant::now()
                + if ended > 0 {
                    EVICTION_INTERVAL
                } else {
                    EVICTION_INTERVAL * 4
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
        ending.next = Instant::now() + SIGNAL_INTERVAL;
        Ok(())
    }
}
