//! Calls that wait in the queue, since no provider served them.

use bytes::Bytes;
use http::Response;

use super::{Call, Unserved, unserved};
use crate::answer::queued;
use crate::body::{Answer, Sent};
use crate::queue::{Enqueued, Status};
use mrg_policy::{OnAmbiguous, Queue, Reason};

impl Call<'_> {
    /// The ticket of a request with the same key that is pending: sent beside it, this one could be
    /// processed twice. `None`: there is none.
    pub(super) async fn pending(&self, key: &str) -> Option<Response<Answer>> {
        let queue = self.route.queue.as_ref()?;
        let name = &self.route.spec.name;
        let (ticket, status) = queue.pending(name, key).await?;
        Some(queued(name, &ticket, status, Reason::AlreadyQueued))
    }

    /// Puts the request into the queue; `None` if it is none that is queued.
    pub(super) async fn enqueue(&self, why: &Unserved) -> Option<Response<Answer>> {
        let queue = self.route.queue.as_ref()?;
        let limits = self.route.spec.fallback.queue.as_ref()?;
        let status = self.status_for(why.reason)?;
        if !self.has_queued_method(limits) {
            return None;
        }
        let refuse = |reason| {
            Some(unserved(
                self.route,
                reason,
                why.retry_after,
                self.head.grpc,
            ))
        };
        let (Some(key), Some(body)) = (self.queue_key(), self.whole_body()) else {
            return refuse(Reason::NotQueueable);
        };
        let name = &self.route.spec.name;
        match queue
            .enqueue(name, key, &self.head, body, status, limits)
            .await
        {
            Ok(Enqueued::Ticket(ticket, status)) => {
                self.route.shared.fallbacks.add();
                Some(queued(name, &ticket, status, why.reason))
            }
            Ok(Enqueued::Full) => refuse(Reason::QueueFull),
            Err(error) => {
                tracing::error!(
                    dependency = name,
                    error = mrg_telemetry::chain(&error),
                    "a request could not be kept"
                );
                refuse(Reason::QueueUnavailable)
            }
        }
    }

    /// The status with which a request waits that was not served for this reason; `None`: it does
    /// not wait.
    fn status_for(&self, why: Reason) -> Option<Status> {
        match why {
            Reason::BreakerOpen | Reason::NotConnected | Reason::NotAccepted => {
                Some(Status::Waiting)
            }
            Reason::Ambiguous | Reason::TimedOut
                if self.route.spec.on_ambiguous == OnAmbiguous::Queue =>
            {
                Some(Status::NeedsReview)
            }
            _ => None,
        }
    }

    /// The key by which the request may be pending; `None` if it is none that is queued.
    pub(super) fn pending_key(&self) -> Option<&str> {
        let limits = self.route.spec.fallback.queue.as_ref()?;
        let queued = self.route.queue.is_some() && self.has_queued_method(limits);
        self.queue_key().filter(|_| queued)
    }

    fn has_queued_method(&self, limits: &Queue) -> bool {
        let method = self.head.method.as_str();
        limits.methods.iter().any(|queued| method == queued)
    }

    fn queue_key(&self) -> Option<&str> {
        let name = self.route.queue_key.as_ref()?;
        let key = self.head.headers.get(name)?.to_str().ok()?;
        Some(key).filter(|key| !key.is_empty())
    }

    /// The body, if all of it is in memory.
    fn whole_body(&self) -> Option<Bytes> {
        match &self.body {
            Sent::Empty => Some(Bytes::new()),
            Sent::Whole(body) => Some(body.clone()),
            Sent::Streaming { .. } => None,
        }
    }
}
