//! Keeps this pod's record in etcd, under a lease of its own: whoever is gone is not waited for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use mrg_base::Millis;
use mrg_dcs::poolers::PoolerRecord;
use mrg_dcs::{Error, Store};
use mrg_election::LeaseId;
use mrg_telemetry::chain;

const TTL: Millis = Millis::seconds(10);
const KEEP_EVERY: Duration = Duration::from_secs(3);
const WITHIN: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(250);

/// Writes the record whenever it changes, until nobody can change it any more; then the record
/// goes.
pub(crate) async fn register(
    store: Arc<impl Store>,
    pod: String,
    mut records: watch::Receiver<PoolerRecord>,
) {
    let mut lease = None;
    while records.has_changed().is_ok() {
        let held = match lease {
            Some(held) => held,
            None => match store.grant(TTL, WITHIN).await {
                Ok(granted) => *lease.insert(granted.id),
                Err(error) => {
                    tracing::debug!(error = chain(&error), "no lease for this pod's record");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
            },
        };
        match keep(store.as_ref(), &pod, held, &mut records).await {
            Ok(()) => {
                let _ = store.revoke(held, WITHIN).await;
                return;
            }
            Err(error) => {
                tracing::info!(
                    error = chain(&error),
                    "this pod's record is written under a new lease"
                );
                lease = None;
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Keeps lease and record in step; ends well when nobody can change the record any more.
async fn keep(
    store: &impl Store,
    pod: &str,
    lease: LeaseId,
    records: &mut watch::Receiver<PoolerRecord>,
) -> Result<(), Error> {
    let mut keep_at = Instant::now() + KEEP_EVERY;
    records.mark_changed();
    loop {
        tokio::select! {
            changed = records.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let record = records.borrow_and_update().clone();
                let published = store.publish_pooler(pod, record, lease, WITHIN).await;
                published.into_result()?;
            }
            () = tokio::time::sleep_until(keep_at) => {
                store.keep_alive(lease, WITHIN).await?;
                keep_at = Instant::now() + KEEP_EVERY;
            }
        }
    }
}
