//! The way from a handler, which runs on the REST API's runtime, to what runs on the agent's own.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::receipt::Receipts;
use crate::rest::Ask;
use mrg_bounds::{Panicked, contain};

/// How long the agent's loop may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long other work may take. It has deadlines of its own, which are shorter.
const WORK_WITHIN: Duration = Duration::from_secs(60);
/// How much work may be under way at once.
const PLACES: usize = 8;

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("the agent is stopping")]
    Stopping,
    #[error("no answer in time")]
    Late,
    #[error("{PLACES} requests that change something are under way; ask again when they are done")]
    Busy,
    #[error(transparent)]
    Panicked(#[from] Panicked),
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        match self {
            Unavailable::Panicked(panicked) => panicked.into_response(),
            other => (StatusCode::SERVICE_UNAVAILABLE, other.to_string()).into_response(),
        }
    }
}

/// The agent's own runtime.
#[derive(Clone)]
pub(crate) struct Core {
    runtime: Handle,
    places: Arc<Semaphore>,
    /// To the agent's loop.
    asks: mpsc::Sender<Ask>,
    /// How far the local standby has received.
    pub receipts: Arc<Receipts>,
}

impl Core {
    /// The way to the runtime that this is called on.
    pub(crate) fn new(asks: mpsc::Sender<Ask>, receipts: Arc<Receipts>) -> Self {
        Self {
            runtime: Handle::current(),
            places: Arc::new(Semaphore::new(PLACES)),
            asks,
            receipts,
        }
    }

    /// Does work on the agent's runtime. What it opens, a connection to etcd for one, is then served
    /// by that runtime whatever becomes of this one.
    pub(crate) async fn perform<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| Unavailable::Busy)?;
        let done = self.runtime.spawn(async move {
            let done = contain(work).await;
            drop(place);
            done
        });
        match tokio::time::timeout(WORK_WITHIN, done).await {
            Ok(Ok(done)) => Ok(done?),
            Ok(Err(_)) => Err(Unavailable::Stopping),
            Err(_) => Err(Unavailable::Late),
        }
    }

    /// Hands the agent's loop something that it does not answer.
    pub(crate) async fn tell(&self, ask: Ask) -> Result<(), Unavailable> {
        match tokio::time::timeout(ANSWER_WITHIN, self.asks.send(ask)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Unavailable::Stopping),
            Err(_) => Err(Unavailable::Late),
        }
    }

    /// Asks the agent's loop.
    pub(crate) async fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<T>) -> Ask,
    ) -> Result<T, Unavailable> {
        let (answered, answer) = oneshot::channel();
        self.tell(ask(answered)).await?;
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            // The loop has dropped the question, or not come to it.
            Ok(Err(_)) | Err(_) => Err(Unavailable::Late),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core() -> (Core, mpsc::Receiver<Ask>) {
        let (asks, asked) = mpsc::channel(1);
        (Core::new(asks, Arc::new(Receipts::new())), asked)
    }

    #[tokio::test]
    async fn work_that_panics_fails_its_request_alone() {
        let (core, _asked) = core();
        let failed = core.perform(async { assert!(!std::hint::black_box(true)) });
        assert!(matches!(failed.await, Err(Unavailable::Panicked(_))));
        assert!(matches!(core.perform(async { 7 }).await, Ok(7)));
    }

    #[tokio::test]
    async fn so_much_work_is_under_way_and_no_more() {
        let (core, _asked) = core();
        let mut waiting = Vec::new();
        for _ in 0..PLACES {
            let core = core.clone();
            let task = async move { core.perform(std::future::pending::<()>()).await };
            waiting.push(tokio::spawn(task));
        }
        tokio::task::yield_now().await;
        assert!(matches!(
            core.perform(async {}).await,
            Err(Unavailable::Busy)
        ));
    }

    #[tokio::test]
    async fn a_loop_that_has_ended_says_so() {
        let (core, asked) = core();
        drop(asked);
        let told = core.tell(Ask::Restart).await;
        assert_eq!(told.unwrap_err().to_string(), "the agent is stopping");
    }
}
