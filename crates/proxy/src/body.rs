//! Bodies. They stream: a frame that comes in is the frame that goes out.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::cache::recorder::Recorder;
use crate::counters::InFlight;
use crate::provider::Permit;
use mrg_base::lock;
use mrg_breaker::Outcome;
use mrg_policy::grpc_outcome;

/// A request's body, to be sent once, or again if need be.
#[derive(Clone)]
pub(crate) enum Sent {
    /// There is none.
    Empty,
    /// All of it is in memory.
    Whole(Bytes),
    /// It is passed on while it arrives. It can be sent again only as long as none of it was read.
    Streaming {
        /// Where it is until then.
        slot: Arc<Mutex<Option<Incoming>>>,
        /// What is known of its length.
        hint: SizeHint,
    },
}

impl Sent {
    /// A body that was not read.
    pub(crate) fn streaming(body: Incoming) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        let hint = body.size_hint();
        Self::Streaming {
            slot: Arc::new(Mutex::new(Some(body))),
            hint,
        }
    }

    /// Whether all of it can be sent again.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => true,
            Self::Streaming { slot, .. } => lock(slot).is_some(),
        }
    }

    /// To be sent.
    pub(crate) fn body(&self) -> SentBody {
        match self {
            Self::Empty => SentBody::Whole(None),
            Self::Whole(bytes) => SentBody::Whole(Some(bytes.clone())),
            Self::Streaming { slot, hint } => SentBody::Streaming {
                slot: slot.clone(),
                hint: *hint,
                begun: None,
            },
        }
    }
}

/// One sending of it.
pub(crate) enum SentBody {
    /// All of it is in memory.
    Whole(Option<Bytes>),
    /// Taken from its slot when it is first read.
    Streaming {
        /// Where it is.
        slot: Arc<Mutex<Option<Incoming>>>,
        /// What is known of its length.
        hint: SizeHint,
        /// The body, once taken.
        begun: Option<Incoming>,
    },
}

/// Why a request's body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The caller's connection broke.
    #[error("failed to read the caller's body")]
    Caller(#[source] hyper::Error),
    /// It was sent before.
    #[error("the body was sent before and cannot be sent again")]
    Gone,
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streaming { slot, begun, .. } => {
                if begun.is_none() {
                    *begun = lock(slot).take();
                }
                let Some(body) = begun else {
                    return Poll::Ready(Some(Err(BodyError::Gone)));
                };
                Pin::new(body)
                    .poll_frame(context)
                    .map(|frame| frame.map(|frame| frame.map_err(BodyError::Caller)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Streaming { begun, .. } => begun.as_ref().is_some_and(Body::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Streaming {
                begun: Some(body), ..
            } => body.size_hint(),
            Self::Streaming { hint, .. } => *hint,
        }
    }
}

/// What follows the end of an answer's body: the breaker gets the outcome, the cache the copy, and
/// the request is no longer in flight.
#[derive(Default)]
pub(crate) struct Watch {
    /// To be given back when the body has ended.
    pub permit: Option<Permit>,
    /// Whether the outcome is gRPC's status, which is in the trailers.
    pub grpc: bool,
    /// Records a copy for bad times.
    pub recorder: Option<Recorder>,
    /// Held until the end.
    pub hold: Option<InFlight>,
    /// How long the permit is held after the head: a body that never ends must not keep a half-open
    /// breaker from closing.
    pub patience: Duration,
    /// When `patience` is over; made when the body first makes the caller wait.
    deadline: Option<Pin<Box<Sleep>>>,
    /// Whether something of the body has come.
    begun: bool,
}

/// An answer's body.
pub(crate) enum Answer {
    /// Made here.
    Own(Option<Bytes>),
    /// The upstream's.
    Upstream(Incoming, Box<Watch>),
}

impl Answer {
    /// Made here.
    pub(crate) fn own(bytes: impl Into<Bytes>) -> Self {
        Self::Own(Some(bytes.into()).filter(|bytes: &Bytes| !bytes.is_empty()))
    }
}

impl Watch {
    /// A watch that holds this until the end.
    pub(crate) fn over(hold: Option<InFlight>) -> Box<Self> {
        Box::new(Self {
            hold,
            ..Self::default()
        })
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if self.grpc
            && let Some(permit) = self.permit.take()
        {
            permit.end(grpc_status(trailers).map_or(Outcome::Failure, grpc_outcome));
        }
    }

    /// The body has nothing to read yet. A permit whose time is over is given back: as a success if
    /// some of the body came, as a failure otherwise.
    fn wait(&mut self, context: &mut Context<'_>) {
        if self.permit.is_none() {
            return;
        }
        let deadline = self
            .deadline
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(self.patience)));
        if deadline.as_mut().poll(context).is_ready()
            && let Some(permit) = self.permit.take()
        {
            permit.end(if self.begun {
                Outcome::Success
            } else {
                Outcome::Failure
            });
        }
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            permit.end(if self.grpc && outcome == Outcome::Success {
                Outcome::Failure
            } else {
                outcome
            });
        }
        if let Some(recorder) = self.recorder.take().filter(|_| outcome == Outcome::Success) {
            recorder.store();
        }
        self.hold = None;
    }
}

/// gRPC's status in an answer's headers or trailers.
pub(crate) fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(body, watch) => {
                let polled = Pin::new(&mut *body).poll_frame(context);
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => {
                        watch.begun = true;
                        if let (Some(data), Some(recorder)) =
                            (frame.data_ref(), &mut watch.recorder)
                        {
                            recorder.read(data);
                        }
                        if let Some(trailers) = frame.trailers_ref() {
                            watch.trailers(trailers);
                        }
                        // The last frame may be the last poll.
                        if body.is_end_stream() {
                            watch.end(Outcome::Success);
                        }
                    }
                    Poll::Ready(None) => watch.end(Outcome::Success),
                    Poll::Ready(Some(Err(_))) => watch.end(Outcome::Failure),
                    Poll::Pending => watch.wait(context),
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            Self::Upstream(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Upstream(body, _) => body.size_hint(),
        }
    }
}
