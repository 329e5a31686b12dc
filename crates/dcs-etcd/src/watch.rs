//! Follows the keys of a cluster: a linearizable read, then a watch from that revision, and a read
//! again whenever asked, whenever the watch breaks, and as a backstop.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::etcd::{Error, Etcd, entry};
use mrg_dcs::wire::Entries;

/// The keys as of a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// As of when.
    pub revision: i64,
    /// The keys, without the prefix.
    pub entries: Entries,
}

/// What the watch reports.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// A newer state. `asked` counts the [`WatchCommand::Read`]s that this state is surely newer
    /// than.
    Seen {
        /// The state.
        snapshot: Arc<Snapshot>,
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

/// Follows `prefix` until the receiver of `events` is gone.
pub async fn watch(
    etcd: Arc<Etcd>,
    prefix: String,
    mut commands: mpsc::Receiver<WatchCommand>,
    events: mpsc::Sender<WatchEvent>,
) {
    let mut timers = Timers {
        every: Duration::from_secs(10),
        within: Duration::from_secs(3),
    };
    let mut asked = 0;
    while !events.is_closed() {
        let began_after = asked;
        match etcd.read(&prefix, timers.within).await {
            Ok((revision, entries)) => {
                let snapshot = Arc::new(Snapshot { revision, entries });
                let seen = WatchEvent::Seen {
                    snapshot: snapshot.clone(),
                    asked: began_after,
                };
                if events.send(seen).await.is_err() {
                    return;
                }
                follow(
                    &etcd,
                    &prefix,
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
async fn follow(
    etcd: &Etcd,
    prefix: &str,
    mut snapshot: Arc<Snapshot>,
    commands: &mut mpsc::Receiver<WatchCommand>,
    events: &mpsc::Sender<WatchEvent>,
    timers: &mut Timers,
    asked: &mut u64,
) {
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(snapshot.revision + 1);
    let Ok(mut client) = etcd.client(timers.within).await else {
        return;
    };
    let opened = tokio::time::timeout(timers.within, client.watch(prefix, Some(options))).await;
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
        let mut next = Snapshot::clone(&snapshot);
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            let key = String::from_utf8_lossy(kv.key());
            let Some(key) = key.strip_prefix(prefix) else {
                continue;
            };
            match event.event_type() {
                EventType::Put => next.entries.insert(key.to_owned(), entry(kv.clone())),
                EventType::Delete => next.entries.remove(key),
            };
            next.revision = next.revision.max(kv.mod_revision());
        }
        if message.events().is_empty() {
            continue;
        }
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
