//! How etcd answers, on its way to the status, the log and the node.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::context::Context;
use mrg_dcs::health::Access;
use mrg_election::Event;

/// Follows how etcd answers this member's requests, until the loop has ended.
pub(super) async fn follow(context: Arc<Context>, events: mpsc::Sender<Event>) {
    let mut log = context.store.health();
    let mut failing = false;
    while let Some(health) = log.next().await {
        let fails = health.fails(Access::Write);
        context.update(|status| status.etcd = Arc::new(health));
        if std::mem::replace(&mut failing, fails) != fails
            && events.send(Event::WritesFail(fails)).await.is_err()
        {
            return;
        }
    }
}
