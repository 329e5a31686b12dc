//! Bodies. They stream: a frame that comes in is the frame that goes out.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::task::AbortHandle;

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
        slot: Arc<Mutex<Option<Arriving>>>,
        /// What is known of its length.
        hint: SizeHint,
    },
}

/// A body of which some frames may have been read ahead.
pub(crate) struct Arriving {
    read: VecDeque<Frame<Bytes>>,
    rest: Incoming,
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.iter().filter_map(Frame::data_ref);
        let read: u64 = read.map(|data| data.len() as u64).sum();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(read + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(read + upper);
        }
        hint
    }
}

impl Sent {
    /// A body that was not read.
    pub(crate) fn streaming(body: Incoming) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        let hint = body.size_hint();
        Self::Streaming {
            slot: Arc::new(Mutex::new(Some(Arriving {
                read: VecDeque::new(),
                rest: body,
            }))),
            hint,
        }
    }

    /// Reads a body of unknown length ahead, up to so many bytes and for so long. If it ends within
    /// that, it can be sent again; if not, it goes on with what was read.
    ///
    /// # Errors
    /// If the body breaks off.
    pub(crate) async fn gathered(
        mut body: Incoming,
        limit: u64,
        within: Duration,
    ) -> Result<Self, hyper::Error> {
        let deadline = tokio::time::Instant::now() + within;
        let (mut read, mut length) = (VecDeque::new(), 0);
        let mut has_trailers = false;
        while length <= limit {
            match tokio::time::timeout_at(deadline, body.frame()).await {
                Ok(Some(frame)) => {
                    let frame = frame?;
                    length += frame.data_ref().map_or(0, |data| data.len() as u64);
                    has_trailers |= frame.is_trailers();
                    read.push_back(frame);
                }
                // Trailers do not fit into what is sent again.
                Ok(None) if !has_trailers => {
                    let frames = read.into_iter().filter_map(|frame| frame.into_data().ok());
                    let whole = frames.fold(BytesMut::new(), |mut whole, data| {
                        whole.extend_from_slice(&data);
                        whole
                    });
                    return Ok(Self::Whole(whole.freeze()));
                }
                Ok(None) | Err(_) => break,
            }
        }
        Ok(Self::Streaming {
            slot: Arc::new(Mutex::new(Some(Arriving { read, rest: body }))),
            hint: SizeHint::new(),
        })
    }

    /// Whether all of it can be sent again.
    pub(crate) fn is_whole(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => true,
            Self::Streaming { slot, .. } => lock(slot).is_some(),
        }
    }

    /// Whether there is one whose length is not known.
    pub(crate) fn is_of_unknown_length(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => false,
            Self::Streaming { hint, .. } => hint.exact().is_none(),
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
        slot: Arc<Mutex<Option<Arriving>>>,
        /// What is known of its length.
        hint: SizeHint,
        /// The body, once taken.
        begun: Option<Arriving>,
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
    permit: Option<HeldPermit>,
    /// Whether the outcome is gRPC's status, which is in the trailers.
    pub grpc: bool,
    /// Records a copy for bad times.
    pub recorder: Option<Recorder>,
    /// Held until the end.
    pub hold: Option<InFlight>,
}

/// A permit that ends with the body, or when its time is over: a body that never ends, or that its
/// caller reads slowly or not at all, must not keep a half-open breaker from closing.
struct HeldPermit {
    state: Arc<PermitState>,
    timer: AbortHandle,
}

struct PermitState {
    permit: Mutex<Option<Permit>>,
    /// What the body has been so far: one of [`UNREAD`], [`SILENT`], [`BEGUN`].
    seen: AtomicU8,
    /// Whether silence says nothing, as that of an event stream.
    may_be_quiet: bool,
}

/// Nothing was read of the body.
const UNREAD: u8 = 0;
/// It was read, and nothing came.
const SILENT: u8 = 1;
/// Some of it came.
const BEGUN: u8 = 2;

impl HeldPermit {
    fn new(permit: Permit, patience: Duration, may_be_quiet: bool) -> Self {
        let state = Arc::new(PermitState {
            permit: Mutex::new(Some(permit)),
            seen: AtomicU8::new(UNREAD),
            may_be_quiet,
        });
        let held = state.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(patience).await;
            held.end(held.so_far(), "the body of an answer did not come");
        });
        Self {
            state,
            timer: timer.abort_handle(),
        }
    }

    fn see(&self, what: u8) {
        self.state.seen.fetch_max(what, Ordering::Relaxed);
    }
}

impl Drop for HeldPermit {
    fn drop(&mut self) {
        self.timer.abort();
        // Not given back yet: the caller went away.
        self.state.end(Outcome::Excluded, "");
    }
}

impl PermitState {
    /// What the body says of the provider when the permit's time is over.
    fn so_far(&self) -> Outcome {
        match self.seen.load(Ordering::Relaxed) {
            BEGUN => Outcome::Success,
            SILENT if self.may_be_quiet => Outcome::Success,
            SILENT => Outcome::Failure,
            _ => Outcome::Excluded,
        }
    }

    fn end(&self, outcome: Outcome, failure: &str) {
        if let Some(permit) = lock(&self.permit).take() {
            if outcome == Outcome::Failure {
                permit.note_failure(failure);
            }
            permit.end(outcome);
        }
    }
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

    /// Holds the permit until the body has ended, for `patience` at most. `may_be_quiet`: nothing
    /// of the body need come within that time.
    pub(crate) fn hold_permit(&mut self, permit: Permit, patience: Duration, may_be_quiet: bool) {
        self.permit = Some(HeldPermit::new(permit, patience, may_be_quiet));
    }

    fn see(&self, what: u8) {
        if let Some(permit) = &self.permit {
            permit.see(what);
        }
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if self.grpc
            && let Some(permit) = self.permit.take()
        {
            let status = grpc_status(trailers);
            let outcome = status.map_or(Outcome::Failure, grpc_outcome);
            permit
                .state
                .end(outcome, "a gRPC answer ended with a failure");
        }
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(permit) = self.permit.take() {
            if self.grpc && outcome == Outcome::Success {
                let failure = "a gRPC answer ended without a status";
                permit.state.end(Outcome::Failure, failure);
            } else {
                permit.state.end(outcome, "the body of an answer broke off");
            }
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
                        watch.see(BEGUN);
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
                    Poll::Pending => watch.see(SILENT),
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
