//! Follows the keys of a cluster: a linearizable read, then a watch from that revision, and a read
//! again whenever asked, whenever the watch breaks, and as a backstop.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::etcd::{Etcd, entry};
use mrg_dcs::{Error, Section};
use mrg_election::Revision;

/// What the watch reports.
#[derive(Clone, Debug)]
pub enum WatchEvent<S> {
    /// A newer state. `asked` counts the [`WatchCommand::Read`]s that this state is surely newer
    /// than.
    Seen {
        /// The state.
        snapshot: Arc<S>,
        /// How many reads had been asked for when the read began.
        asked: u64,
    },
    /// etcd does not answer.
    Lost(Arc<Error>),
}

/// What the watch is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchCommand {
    /// Read again, now. The number counts them.
    Read(u64),
    /// New timers: read at least every so often, and give a read so long.
    Timers {
        /// The backstop.
        every: Duration,
        /// The limit for a read.
        within: Duration,
    },
}

struct Timers {
    every: Duration,
    within: Duration,
}

/// Follows a section of the keys until the receiver of `events` is gone.
pub async fn watch<S: Section>(
    etcd: Arc<Etcd>,
    mut commands: mpsc::Receiver<WatchCommand>,
    events: mpsc::Sender<WatchEvent<S>>,
) {
    let mut timers = Timers {
        every: Duration::from_secs(10),
        within: Duration::from_secs(3),
    };
    let mut asked = 0;
    while !events.is_closed() {
        let began_after = asked;
        match etcd.read_at::<S>(timers.within).await {
            Ok((revision, section)) => {
                let snapshot = Arc::new(section);
                let seen = WatchEvent::Seen {
                    snapshot: snapshot.clone(),
                    asked: began_after,
                };
                if events.send(seen).await.is_err() {
                    return;
                }
                follow(
                    &etcd,
                    revision,
                    snapshot,
                    &mut commands,
                    &events,
                    &mut timers,
                    &mut asked,
                )
                .await;
            }
            Err(error) => {
                if events
                    .send(WatchEvent::Lost(Arc::new(error)))
                    .await
                    .is_err()
                {
                    return;
                }
                // Let go of a member that answers without a leader; a moment's pause keeps a dead
                // network from spinning the processor.
                etcd.rotate_now();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while let Ok(command) = commands.try_recv() {
            obey(command, &mut timers, &mut asked);
        }
    }
}

fn obey(command: WatchCommand, timers: &mut Timers, asked: &mut u64) -> bool {
    match command {
        WatchCommand::Read(count) => *asked = count.max(*asked),
        WatchCommand::Timers { every, within } => *timers = Timers { every, within },
    }
    matches!(command, WatchCommand::Read(_))
}

/// Watches until something calls for a fresh read.
async fn follow<S: Section>(
    etcd: &Etcd,
    mut revision: Revision,
    mut snapshot: Arc<S>,
    commands: &mut mpsc::Receiver<WatchCommand>,
    events: &mpsc::Sender<WatchEvent<S>>,
    timers: &mut Timers,
    asked: &mut u64,
) {
    let prefix = S::prefix(etcd.keys());
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(revision.0.saturating_add(1));
    let Ok(mut client) = etcd.client(timers.within).await else {
        return;
    };
    let opened =
        tokio::time::timeout(timers.within, client.watch(prefix.as_str(), Some(options))).await;
    let Ok(Ok(mut stream)) = opened else {
        etcd.rotate_now();
        return;
    };
    let backstop = Instant::now() + timers.every;
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            command = commands.recv() => match command {
                Some(command) if obey(command, timers, asked) => return,
                Some(_) => continue,
                None => return,
            },
            () = tokio::time::sleep_until(backstop) => return,
        };
        let Ok(Some(message)) = message else {
            etcd.rotate_now();
            return;
        };
        if message.canceled() {
            return;
        }
        let mut next = S::clone(&snapshot);
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            let key = String::from_utf8_lossy(kv.key());
            let Some(key) = key.strip_prefix(&prefix) else {
                continue;
            };
            match event.event_type() {
                EventType::Put => next.put(key, &entry(kv.clone())),
                EventType::Delete => next.delete(key),
            }
            revision = revision.max(Revision(kv.mod_revision()));
        }
        if message.events().is_empty() {
            continue;
        }
        next.advance(revision);
        snapshot = Arc::new(next);
        let seen = WatchEvent::Seen {
            snapshot: snapshot.clone(),
            asked: 0,
        };
        if events.send(seen).await.is_err() {
            return;
        }
    }
}
