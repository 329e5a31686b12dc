//! The pooler's loop: events in, effects out.

mod effects;
mod events;
mod start;

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::answer::{Answer, Heartbeat};
use crate::config::PoolerConfig;
use crate::monitor::ReplicaMonitors;
use crate::processes::Processes;
use crate::publish::{PoolState, Publisher};
use mrg_clock::now;
use mrg_dcs::ClusterSnapshot;
use mrg_dcs_etcd::WatchCommand;
use mrg_pgbouncer::Login;
use mrg_pool_core::{Event, PoolCore, PoolTarget};

/// How long the removal of the pod's record may delay the end of the process.
const DEREGISTER_WITHIN: Duration = Duration::from_secs(2);

struct Pooler {
    config: Arc<PoolerConfig>,
    core: Box<dyn PoolCore>,
    answers: mpsc::Sender<Answer>,
    commands: mpsc::Sender<WatchCommand>,
    /// The cluster's keys as of the last event.
    snapshot: Arc<ClusterSnapshot>,
    heartbeat: Option<Heartbeat>,
    /// How many heartbeat connections were opened.
    heartbeats: u64,
    monitors: ReplicaMonitors,
    targets: watch::Sender<PoolTarget>,
    processes: Processes,
    publisher: Publisher,
    http: reqwest::Client,
    logins: watch::Receiver<Vec<Login>>,
}

/// Runs until SIGTERM or SIGINT, and then until the clients are gone.
///
/// # Errors
/// When the pooler cannot start: the passwords, the anchor's socket or the HTTP port.
pub async fn run(config: PoolerConfig) -> anyhow::Result<()> {
    let (mut pooler, mut inputs, mut tasks) = Pooler::start(config).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut ending = false;
    loop {
        tokio::select! {
            Some(event) = inputs.cluster.events.recv() => pooler.note_cluster(event),
            Some(event) = inputs.pause.events.recv() => pooler.note_pause(&event),
            Some((process, report)) = inputs.reports.recv() => pooler.note_report(process, report),
            Some(answer) = inputs.answers.recv() => pooler.note_answer(answer),
            () = pooler.due() => pooler.feed(Event::Tick),
            _ = terminate.recv() => ending = true,
            _ = interrupt.recv() => ending = true,
            Some(_) = tasks.bouncers.join_next(), if ending => if tasks.bouncers.is_empty() { break },
        }
        if ending && !tasks.stop.send_replace(true) {
            tracing::info!("asked to stop; letting clients go");
        }
    }
    // The record goes with the pod, so that no leader waits for it.
    drop((pooler, inputs));
    let _ = tokio::time::timeout(DEREGISTER_WITHIN, tasks.registration).await;
    tracing::info!("stopped");
    Ok(())
}

impl Pooler {
    async fn due(&self) {
        match self.core.wake_at() {
            Some(wake) => mrg_clock::sleep_until(wake).await,
            None => std::future::pending().await,
        }
    }

    /// Feeds an event to the core, performs the effects and publishes the result.
    fn feed(&mut self, event: Event) {
        let mut effects = self.core.on(now(), event);
        let number = self.processes.drained();
        effects.extend(self.core.on(now(), Event::Drained { number }));
        for effect in effects {
            self.perform(effect);
        }
        let state = PoolState::of(
            self.core.as_ref(),
            self.processes.all_settled(),
            self.processes.pools(),
            self.targets.borrow().number,
        );
        self.publisher.publish(&state);
    }
}
