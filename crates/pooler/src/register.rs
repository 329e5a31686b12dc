//! Keeps this pod's record in etcd under a lease of its own, so that no leader waits for a pod that
//! is gone.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use mrg_base::Millis;
use mrg_dcs::poolers::PoolerRecord;
use mrg_dcs::{Error, Store};
use mrg_election::LeaseId;
use mrg_telemetry::chain;

/// The time to live of the lease.
const TTL: Millis = Millis::seconds(10);
/// How often the lease is kept alive.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(3);
/// How long etcd may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// The delay before a new lease after a failure.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Writes the record whenever it changes. Once the record's sender is gone the lease is revoked,
/// and the record goes with it.
pub(crate) async fn register(
    store: Arc<impl Store>,
    pod: String,
    mut records: watch::Receiver<PoolerRecord>,
) {
    let mut lease = None;
    while records.has_changed().is_ok() {
        let held = match lease {
            Some(held) => held,
            None => match store.grant(TTL, ANSWER_WITHIN).await {
                Ok(granted) => *lease.insert(granted.id),
                Err(error) => {
                    tracing::debug!(error = chain(&error), "no lease for this pod's record");
                    tokio::time::sleep(RETRY_DELAY).await;
                    continue;
                }
            },
        };
        match keep(store.as_ref(), &pod, held, &mut records).await {
            Ok(()) => {
                let _ = store.revoke(held, ANSWER_WITHIN).await;
                return;
            }
            Err(error) => {
                tracing::info!(
                    error = chain(&error),
                    "this pod's record is written under a new lease"
                );
                lease = None;
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

/// Keeps the lease alive and the record current until the record's sender is gone.
///
/// # Errors
/// If etcd does not answer or the lease has ended: the record needs a new one.
async fn keep(
    store: &impl Store,
    pod: &str,
    lease: LeaseId,
    records: &mut watch::Receiver<PoolerRecord>,
) -> Result<(), Error> {
    let mut keep_at = Instant::now() + KEEP_ALIVE_INTERVAL;
    records.mark_changed();
    loop {
        tokio::select! {
            changed = records.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let record = records.borrow_and_update().clone();
                let published = store.publish_pooler(pod, record, lease, ANSWER_WITHIN).await;
                published.into_result()?;
            }
            () = tokio::time::sleep_until(keep_at) => {
                store.keep_alive(lease, ANSWER_WITHIN).await?;
                keep_at = Instant::now() + KEEP_ALIVE_INTERVAL;
            }
        }
    }
}
