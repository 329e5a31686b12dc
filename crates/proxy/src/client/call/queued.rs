//! Calls that wait in the queue, since no provider served them.

use bytes::Bytes;
use http::Response;

use super::{Call, Unserved, unserved};
use crate::answer::queued;
use crate::body::{Answer, Sent};
use crate::queue::{Enqueued, Status};
use mrg_policy::{OnAmbiguous, Reason};

impl Call<'_> {
    /// The ticket of a request with the same key that is pending: sent beside it, this one could be
    /// processed twice. `None`: there is none, or the request is none that is queued.
    pub(super) async fn pending(&self) -> Option<Response<Answer>> {
        let queue = self.route.queue.as_ref()?;
        let limits = self.route.spec.fallback.queue.as_ref()?;
        let method = self.head.method.as_str();
        let key = self.queue_key()?;
        if !limits.methods.iter().any(|queued| method == queued) {
            return None;
        }
        let name = &self.route.spec.name;
        let (ticket, status) = queue.pending(name, key).await?;
        Some(queued(name, &ticket, status, Reason::AlreadyQueued))
    }

    /// Puts the request into the queue; `None` if it is none that is queued.
    pub(super) async fn enqueue(&self, why: &Unserved) -> Option<Response<Answer>> {
        let queue = self.route.queue.as_ref()?;
        let limits = self.route.spec.fallback.queue.as_ref()?;
        let status = self.status_for(why.reason)?;
        if !limits
            .methods
            .iter()
            .any(|method| self.head.method.as_str() == method)
        {
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
