//! Sends the requests that wait, once the dependency is back: paced, and through the same breakers
//! as all others.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::client::call::{self, Resent};
use crate::phase::Phase;
use crate::queue::{Item, Location, Status};
use crate::routes::route::{CurrentRoute, Route};
use mrg_breaker::State;
use mrg_policy::{Queue as Limits, Reason, Settlement, settlement};

/// How often the queue is polled: nothing announces a request that another proxy has queued, or that
/// a pause is over.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// How often a request is sent again whose credential was refused.
const CREDENTIAL_INTERVAL: Duration = Duration::from_secs(300);

/// Works until `phase` says to stop; a request that is being sent then is sent to its end.
pub(crate) async fn work(
    current: CurrentRoute,
    mut changes: watch::Receiver<u64>,
    mut phase: watch::Receiver<Phase>,
) {
    let mut refused = false;
    loop {
        if *phase.borrow() == Phase::Stopping {
            return;
        }
        let route = current.get();
        let (Some(queue), Some(limits)) = (&route.queue, &route.spec.fallback.queue) else {
            tokio::select! {
                _ = changes.changed() => {}
                _ = phase.changed() => {}
            }
            continue;
        };
        queue.move_to_postgres().await;
        // While all breakers are open a request would only be refused.
        let lets_through = route
            .targets
            .iter()
            .any(|target| target.provider.status().0 != State::Open);
        if lets_through {
            // A breaker has just half-opened. The requests that failed before it opened are the
            // probes that it needs now; their pauses need not end first.
            if std::mem::take(&mut refused) {
                queue.hurry(&route.spec.name).await;
            }
            let repeatable = may_be_sent_twice(&route, limits);
            if let Some((item, at)) = queue.claim(&route.spec.name, limits, repeatable).await {
                send(&route, limits, item, at, repeatable).await;
                tokio::time::sleep(Duration::from_secs(1) / limits.per_second.max(1)).await;
                continue;
            }
        }
        refused = !lets_through;
        tokio::select! {
            () = queue.news.notified() => {}
            _ = changes.changed() => {}
            _ = phase.changed() => {}
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
}

/// Whether the dependency recognises a request by the key under which it is queued.
fn may_be_sent_twice(route: &Route, limits: &Limits) -> bool {
    route
        .spec
        .retry
        .idempotency_header
        .as_ref()
        .is_some_and(|name| name.eq_ignore_ascii_case(&limits.idempotency_header))
}

/// What becomes of a request by the status that it was answered with; where it is sent again, not
/// before `later`.
fn settled(
    code: u16,
    repeatable: bool,
    words: &str,
    later: Timestamp,
) -> (Status, Option<Timestamp>, String) {
    let mut note = format!("answered {code}");
    if !words.is_empty() && code >= 300 {
        note.push_str(": ");
        note.push_str(words);
    }
    match settlement(code, repeatable) {
        Settlement::Done => (Status::Done, None, note),
        Settlement::Later => (Status::Waiting, Some(later), note),
        Settlement::AfterCredential => {
            let much_later = later.max(Timestamp::now() + CREDENTIAL_INTERVAL);
            note.push_str("; sent again once the credential is another, every five minutes");
            (Status::Waiting, Some(much_later), note)
        }
        Settlement::Ambiguous => {
            note.push_str("; it may have been processed");
            (Status::NeedsReview, None, note)
        }
        Settlement::Refused => {
            note.push_str("; it was refused as it is, and is sent again only if people say so");
            (Status::NeedsReview, None, note)
        }
    }
}

async fn send(
    route: &std::sync::Arc<Route>,
    limits: &Limits,
    item: Item,
    at: Location,
    repeatable: bool,
) {
    let Some(queue) = &route.queue else { return };
    let Some(head) = item.head() else {
        queue
            .settle(
                &item,
                at,
                Status::NeedsReview,
                None,
                "what is written down is no request",
            )
            .await;
        return;
    };
    let later = Timestamp::now() + limits.retry_after.0.duration();
    let (status, retry_at, note) = match call::send_again(route, head, item.body.clone()).await {
        Resent::Answered {
            status,
            retry_after,
            words,
        } => {
            let asked = Timestamp::now() + retry_after.unwrap_or_default();
            settled(status, repeatable, &words, later.max(asked))
        }
        // Not sent at all: its turn comes again as soon as the breaker half-opens.
        Resent::Unserved(Reason::BreakerOpen, Some(left)) => (
            Status::Waiting,
            Some(Timestamp::now() + left.duration()),
            String::new(),
        ),
        Resent::Unserved(reason @ (Reason::Ambiguous | Reason::TimedOut), _) if !repeatable => {
            (Status::NeedsReview, None, reason.sentence().to_owned())
        }
        Resent::Unserved(reason, _) => (Status::Waiting, Some(later), reason.sentence().to_owned()),
    };
    tracing::info!(
        ticket = item.ticket,
        dependency = item.dependency,
        attempts = item.attempts,
        standing = status.name(),
        note,
        "sent from the queue"
    );
    queue.settle(&item, at, status, retry_at, &note).await;
}
