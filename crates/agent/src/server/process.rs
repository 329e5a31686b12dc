//! The postmaster: started, signalled and killed through the fence.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use crate::fence::{Error, Exit, Fence, Printed, Process};
use crate::server::guarded::Guarded;

/// The fence reports the end of a postmaster right after it has killed it.
const EXIT_REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// The postmaster, as far as the agent's loop knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// This agent has started none.
    #[default]
    Absent,
    /// The fence runs it under this id. Its end may have been reported, but not taken note of.
    Running(u64),
    /// It has ended, and every process of it.
    Exited,
}

impl State {
    fn id(self) -> Option<u64> {
        match self {
            Self::Running(id) => Some(id),
            Self::Absent | Self::Exited => None,
        }
    }

    /// The state once the ends of all postmasters up to the id `ended` are known. Ids ascend.
    fn after_end_of(self, ended: u64) -> Self {
        match self {
            Self::Running(id) if id <= ended => Self::Exited,
            other => other,
        }
    }
}

pub(super) struct Postmaster {
    fence: Fence,
    state: Guarded<State>,
    /// The id of the last postmaster whose end the fence has reported; 0 before the first.
    ended: watch::Sender<u64>,
    /// The end of its log.
    log_end: Arc<Guarded<String>>,
    exits: mpsc::UnboundedSender<()>,
}

impl Postmaster {
    /// `exits` receives a message for every postmaster that ends.
    pub(super) fn new(fence: Fence, exits: mpsc::UnboundedSender<()>) -> Self {
        Self {
            fence,
            state: Guarded::default(),
            ended: watch::Sender::new(0),
            log_end: Arc::default(),
            exits,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.id().is_some()
    }

    fn id(&self) -> Option<u64> {
        self.state.read(|state| state.id())
    }

    /// Starts a postmaster and gives its process id. The caller has made sure that none runs.
    pub(super) async fn start(&self, process: Process) -> Result<i32, Error> {
        let (id, pid, exit) = self.fence.spawn(process).await?;
        self.state.change(|state| *state = State::Running(id));
        tokio::spawn(report_exit(
            id,
            exit,
            self.log_end.clone(),
            self.ended.clone(),
            self.exits.clone(),
        ));
        Ok(pid)
    }

    /// The end of the log of the postmaster that ended last.
    pub(super) fn log_end(&self) -> String {
        self.log_end.read(Clone::clone)
    }

    /// What the running postmaster has printed so far; nothing if none runs.
    pub(super) async fn output(&self) -> Result<Printed, Error> {
        match self.id() {
            Some(id) => self.fence.output(id).await,
            None => Ok(Printed::default()),
        }
    }

    /// Takes note of the end that the fence has reported; whether one was new.
    ///
    /// A reported end changes the state only here, so that no probe calls the server stopped before
    /// the election has received the event.
    pub(super) fn note_exit(&self) -> bool {
        let ended = *self.ended.borrow();
        self.state.change(|state| {
            let before = std::mem::replace(state, state.after_end_of(ended));
            before != *state
        })
    }

    /// Makes a running postmaster read its files again.
    pub(super) fn reload(&self) -> Result<(), Error> {
        self.id()
            .map_or(Ok(()), |id| self.fence.signal(id, Signal::SIGHUP))
    }

    /// Shuts a running postmaster down ("fast"), and kills it if it has not ended in time.
    pub(super) async fn stop(&self, timeout: Duration) -> Result<(), Error> {
        let Some(id) = self.id() else { return Ok(()) };
        let mut ended = self.ended.subscribe();
        self.fence.signal(id, Signal::SIGINT)?;
        let late = tokio::time::timeout(timeout, ended.wait_for(|ended| *ended >= id))
            .await
            .is_err();
        if late {
            tracing::warn!("postgres did not stop in time; killing it");
            self.kill().await?;
        }
        Ok(())
    }

    /// Kills every process that the fence runs, and returns when none is left.
    ///
    /// - `Running`: the postmaster dies with all its processes. It counts as `Exited` on return, even
    ///   if the report of its end is late: the fence has confirmed that nothing runs.
    /// - `Absent`, `Exited`: there is no postmaster to wait for. The fence is called all the same: a
    ///   program of an aborted step (`pg_basebackup`, `pg_rewind`) may run, and the leader key may be
    ///   released only when nothing can write any more.
    ///
    /// On an error something may still run, and the state is what it was.
    pub(super) async fn kill(&self) -> Result<(), Error> {
        let running = self.id();
        self.fence.kill().await?;
        if let Some(id) = running {
            let mut ended = self.ended.subscribe();
            let reported = ended.wait_for(|ended| *ended >= id);
            let _ = tokio::time::timeout(EXIT_REPORT_TIMEOUT, reported).await;
            self.state.change(|state| *state = state.after_end_of(id));
        }
        Ok(())
    }
}

async fn report_exit(
    id: u64,
    exit: oneshot::Receiver<Exit>,
    log_end: Arc<Guarded<String>>,
    ended: watch::Sender<u64>,
    exits: mpsc::UnboundedSender<()>,
) {
    if let Ok(exit) = exit.await {
        tracing::warn!(%exit, "the postmaster ended, and every process of it");
        log_end.change(|kept| *kept = exit.output);
    } else {
        tracing::warn!("the fence ended, and postgres with it");
    }
    ended.send_replace(id);
    let _ = exits.send(());
}

#[cfg(test)]
mod tests {
    use super::State::{Absent, Exited, Running};

    #[test]
    fn only_the_end_of_the_running_postmaster_or_a_later_one_ends_it() {
        for (state, ended, after) in [
            (Absent, 7, Absent),
            (Exited, 7, Exited),
            (Running(7), 0, Running(7)),
            (Running(7), 6, Running(7)),
            (Running(7), 7, Exited),
            (Running(7), 8, Exited),
        ] {
            assert_eq!(state.after_end_of(ended), after, "{state:?}, {ended}");
        }
    }

    #[test]
    fn only_a_running_postmaster_is_signalled() {
        assert_eq!(
            [Absent, Running(7), Exited].map(super::State::id),
            [None, Some(7), None]
        );
    }
}
