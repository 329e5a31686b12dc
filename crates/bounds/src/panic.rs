//! A panic ends the request that it happened in; elsewhere, the process.
//!
//! The invariants are asserted in release, and no task looks after most others. So what is not known
//! to be one request's own work must not go on without the part that panicked: the process aborts,
//! and the fence ends postgres.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

thread_local! {
    /// Whether this thread runs contained work.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Work that ended with a panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this request failed through a bug, which the log describes; nothing else is affected. Please report it"
)]
pub struct Panicked;

impl IntoResponse for Panicked {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}

/// From here on a panic outside [`contain`] aborts the process, whichever thread or task it happens
/// in. One within is logged.
pub fn abort_unless_contained() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if CONTAINED.try_with(Cell::get).unwrap_or(false) {
            let at = panic.location().map(ToString::to_string);
            tracing::error!(
                panic = message(panic.payload()),
                at,
                "a request failed through a bug; please report it"
            );
        } else {
            report(panic);
            std::process::abort();
        }
    }));
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// Marks this thread while it runs contained work.
struct Mark {
    before: bool,
}

impl Mark {
    fn set() -> Self {
        Self {
            before: CONTAINED.replace(true),
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        CONTAINED.set(self.before);
    }
}

/// Does work that is one request's own. State that the work shares must be whole between any two of
/// its statements.
///
/// # Errors
/// If the work panics; it is dropped then.
pub async fn contain<F: Future>(work: F) -> Result<F::Output, Panicked> {
    let mut work = pin!(work);
    std::future::poll_fn(move |context| {
        let mark = Mark::set();
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        drop(mark);
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    })
    .await
}

/// A layer of a router: a handler that panics answers 500.
pub async fn contained(request: Request, next: Next) -> Response {
    let answered = contain(next.run(request)).await;
    answered.unwrap_or_else(IntoResponse::into_response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_gives_an_error_and_the_thread_goes_on_unmarked() {
        let answer = contain(async {
            tokio::task::yield_now().await;
            assert!(CONTAINED.get());
            assert!(!std::hint::black_box(true), "a bug");
            7
        });
        assert_eq!(answer.await, Err(Panicked));
        assert!(!CONTAINED.get());
        assert_eq!(contain(async { 7 }).await, Ok(7));
        assert!(!CONTAINED.get());
    }

    #[tokio::test]
    async fn contained_work_that_waits_leaves_the_thread_to_others_unmarked() {
        let (answer, waited) = tokio::sync::oneshot::channel();
        let waiting = tokio::spawn(contain(waited));
        tokio::task::yield_now().await;
        assert!(!CONTAINED.get());
        let _ = answer.send(());
        assert_eq!(waiting.await.unwrap(), Ok(Ok(())));
    }
}
