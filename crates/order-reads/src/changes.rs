//! Receives notifications of orders that change, at the moment of the commit (LISTEN), and forgets
//! their copies. While they are not received, copies of active orders are not trusted; copies from
//! before they were received again never are.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc;
use tokio::sync::watch;
use tokio_postgres::{AsyncMessage, Config, NoTls};

use super::order::{Micros, OrderId};
use super::read::Reader;
use mrg_telemetry::chain;

/// How often the connection is probed for whether it still reaches a primary. A connection that dies
/// in silence is noticed after this and [`ANSWER_TIMEOUT`].
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the database may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Why no more notifications are received.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the database does not answer")]
    Database(#[from] tokio_postgres::Error),
    #[error("no answer within {} ms", ANSWER_TIMEOUT.as_millis())]
    Late,
    #[error("the server is a standby, and standbys tell no changes")]
    Standby,
    #[error("the connection ended")]
    Ended,
}

/// Receives for ever. The connection must reach the primary itself: poolers in transaction mode do not
/// pass notifications on.
pub(crate) async fn receive(
    config: Config,
    reader: &Reader,
    received_since: &watch::Sender<Option<Micros>>,
) {
    let mut wait = Duration::from_millis(50);
    loop {
        let Err(error) = listen(&config, reader, received_since).await;
        if received_since.send_replace(None).is_some() {
            tracing::warn!(error = %chain(&error), "changes of orders are not heard; copies of active orders are not trusted until they are");
            wait = Duration::from_millis(50);
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(2));
    }
}

async fn listen(
    config: &Config,
    reader: &Reader,
    received_since: &watch::Sender<Option<Micros>>,
) -> Result<std::convert::Infallible, Error> {
    let (client, mut connection) = tokio::time::timeout(ANSWER_TIMEOUT * 2, config.connect(NoTls))
        .await
        .map_err(|_| Error::Late)??;
    let (sender, mut notifications) = mpsc::unbounded::<String>();
    let pump = tokio::spawn(async move {
        let mut messages =
            futures::stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = sender.unbounded_send(notification.payload().to_owned());
            }
        }
    });
    // The pump ends with the client; a hanging one is ended here.
    let _end = AbortOnDrop(pump);
    let query = async |statement: &str| {
        tokio::time::timeout(ANSWER_TIMEOUT, client.simple_query(statement))
            .await
            .map_err(|_| Error::Late)
    };
    query("LISTEN mrg_orders").await??;
    let probe = async || -> Result<(), Error> {
        let rows = query("SELECT pg_is_in_recovery()").await??;
        let standby = rows.iter().any(|row| matches!(row, tokio_postgres::SimpleQueryMessage::Row(row) if row.get(0) == Some("t")));
        if standby { Err(Error::Standby) } else { Ok(()) }
    };
    probe().await?;
    // A little later than now, for the clocks of those who make copies.
    received_since.send_replace(Some(Micros(Micros::now().0 + 100_000)));
    tracing::info!("changes of orders are heard");
    let mut tick = tokio::time::interval(PROBE_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            change = notifications.next() => forget(&change.ok_or(Error::Ended)?, reader).await,
            _ = tick.tick() => probe().await?,
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Forgets the copies of a changed order. What cannot be forgotten stands for at most the time that
/// copies count as fresh.
async fn forget(change: &str, reader: &Reader) {
    let parsed = change.split_once(' ').and_then(|(id, version)| {
        Some((id.parse::<OrderId>().ok()?, version.parse::<i64>().ok()?))
    });
    let Some((id, version)) = parsed else {
        reader.metrics.malformed.fetch_add(1, Relaxed);
        return;
    };
    reader.metrics.changes.fetch_add(1, Relaxed);
    if let Some(cache) = &reader.cache
        && let Err(error) = cache.forget(id, version).await
    {
        reader.metrics.forget_failed.fetch_add(1, Relaxed);
        tracing::debug!(error = %chain(&error), %id, "a copy was not forgotten");
    }
}
