//! Follows the keys of a cluster: a linearizable read, then a watch from that revision, and a read
//! again whenever asked, whenever the watch breaks, and as a backstop.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::etcd::{Etcd, entry};
use crate::failure::failed;
use mrg_dcs::health::Access;
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
    /// etcd went back in time: it was emptied, restored from a backup, or replaced. What follows
    /// was read since.
    Reset,
    /// etcd does not answer.
    Lost(Arc<Error>),
}

/// What the watch is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchCommand {
    /// Read again, now. The number counts them.
    Read(u64),
    /// Read again, now, for no one who waits for the answer.
    Again,
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

pub(super) const WATCH: &str = "watch the keys";

/// A watch that ends sooner than this was of no use.
const LIVES_LEAST: Duration = Duration::from_secs(1);

/// The pause after a read or a watch that failed.
const RETRY_LEAST: Duration = Duration::from_millis(100);

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
    let mut resets = 0;
    // Watches in a row that failed.
    let mut failures = 0;
    while !events.is_closed() {
        let began_after = asked;
        match etcd.read_at::<S>(timers.within).await {
            Ok((revision, section, seen_resets)) => {
                if std::mem::replace(&mut resets, seen_resets) != seen_resets
                    && events.send(WatchEvent::Reset).await.is_err()
                {
                    return;
                }
                let snapshot = Arc::new(section);
                let seen = WatchEvent::Seen {
                    snapshot: snapshot.clone(),
                    asked: began_after,
                };
                if events.send(seen).await.is_err() {
                    return;
                }
                let followed = follow(
                    &etcd,
                    (revision, resets),
                    snapshot,
                    &mut commands,
                    &events,
                    &mut timers,
                    &mut asked,
                )
                .await;
                etcd.note(Access::Watch, &followed);
                failures = if followed.is_ok() { 0 } else { failures + 1 };
                // One that broke is opened again at once. Where only reads are answered, they take
                // the place of the watch, and not as fast as they can.
                if failures > 1 {
                    let pause = (RETRY_LEAST * failures).min(timers.every);
                    pause_or_read(pause, &mut commands, &mut timers, &mut asked).await;
                }
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
                tokio::time::sleep(RETRY_LEAST).await;
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
        WatchCommand::Again => {}
    }
    matches!(command, WatchCommand::Read(_) | WatchCommand::Again)
}

/// Waits, but not longer than until a read is asked for.
async fn pause_or_read(
    pause: Duration,
    commands: &mut mpsc::Receiver<WatchCommand>,
    timers: &mut Timers,
    asked: &mut u64,
) {
    let until = Instant::now() + pause;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(command) if obey(command, timers, asked) => return,
                Some(_) => {}
                None => return,
            },
            () = tokio::time::sleep_until(until) => return,
        }
    }
}

/// Watches until something calls for a fresh read.
///
/// # Errors
/// If the watch cannot be opened, or ends at once.
async fn follow<S: Section>(
    etcd: &Etcd,
    (mut revision, resets): (Revision, u64),
    mut snapshot: Arc<S>,
    commands: &mut mpsc::Receiver<WatchCommand>,
    events: &mpsc::Sender<WatchEvent<S>>,
    timers: &mut Timers,
    asked: &mut u64,
) -> Result<(), Error> {
    let prefix = S::prefix(etcd.keys());
    let options = WatchOptions::new()
        .with_prefix()
        .with_start_revision(revision.0.saturating_add(1));
    let mut stream = etcd.open_watch(&prefix, options, timers.within).await?;
    let opened = Instant::now();
    let backstop = opened + timers.every;
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            command = commands.recv() => match command {
                Some(command) if obey(command, timers, asked) => return Ok(()),
                Some(_) => continue,
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(backstop) => return Ok(()),
        };
        let message = match message {
            Ok(Some(message)) => message,
            ended => {
                let source = ended.err().unwrap_or_else(|| {
                    etcd_client::Error::WatchError("the watch ended".to_owned())
                });
                let error = failed(WATCH, &etcd.endpoint(), source);
                etcd.rotate_now();
                return if opened.elapsed() < LIVES_LEAST {
                    Err(error)
                } else {
                    Ok(())
                };
            }
        };
        if message.canceled() {
            // What was compacted meanwhile is read again.
            if message.compact_revision() > 0 || opened.elapsed() >= LIVES_LEAST {
                return Ok(());
            }
            let reason = message.cancel_reason().to_owned();
            let source = etcd_client::Error::WatchError(reason);
            return Err(failed(WATCH, &etcd.endpoint(), source));
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
        etcd.advance(resets, revision);
        snapshot = Arc::new(next);
        let seen = WatchEvent::Seen {
            snapshot: snapshot.clone(),
            asked: 0,
        };
        if events.send(seen).await.is_err() {
            return Ok(());
        }
    }
}
