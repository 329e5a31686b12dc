//! Says in the log how etcd answers, and passes it on.

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use mrg_base::Moment;
use mrg_dcs::health::{Health, Notice, Notices, REMIND_EVERY};

/// How etcd answers, from now on.
#[derive(Debug)]
pub struct HealthLog {
    health: watch::Receiver<Health>,
    notices: Notices,
    started: Instant,
}

impl HealthLog {
    /// Times count from `started`.
    pub(super) fn new(health: &watch::Sender<Health>, started: Instant) -> Self {
        let mut health = health.subscribe();
        // What failed before counts as news.
        health.mark_changed();
        Self {
            health,
            notices: Notices::default(),
            started,
        }
    }

    /// Waits until a request fails, or is answered after it had failed, logs what is new, and gives
    /// the whole. Returns also once a minute, when what lasts is said again. `None`: there is no
    /// client of etcd any more.
    pub async fn next(&mut self) -> Option<Health> {
        let changed = timeout(REMIND_EVERY.duration(), self.health.changed()).await;
        if matches!(changed, Ok(Err(_))) {
            return None;
        }
        let health = self.health.borrow_and_update().clone();
        for notice in self.notices.on(since(self.started), &health) {
            say(&notice);
        }
        Some(health)
    }
}

/// The time since a moment, as one that can be compared with others of this origin.
pub(super) fn since(started: Instant) -> Moment {
    Moment(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX))
}

fn say(notice: &Notice) {
    match notice {
        Notice::Failing { access, text } => {
            tracing::warn!(
                request = access.name(),
                error = text,
                "etcd does not do what it is asked"
            );
        }
        Notice::Answered { access, after } => tracing::info!(
            request = access.name(),
            after_ms = after.0,
            "etcd does again what it is asked"
        ),
        Notice::PassedOver { text } => tracing::warn!(
            error = text,
            "an endpoint of etcd fails; another one was asked and answered"
        ),
    }
}
