//! What an attempt's end says: about the upstream, and about whether the request was processed.

use std::fmt;

use mrg_breaker::Outcome;

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// An answer with this HTTP status.
    Status(u16),
    /// A gRPC answer with this status.
    Grpc(u32),
    /// The sidecar of the one that was called answered in its place: the workload did not get the
    /// request.
    Refused,
    /// No connection stood in time, or none could be made.
    NotConnected,
    /// The connection broke after the request may have been sent.
    Reset,
    /// The attempt's time was over.
    TimedOut,
    /// What came as an answer is none, or is longer than an answer's head may be.
    InvalidAnswer,
    /// The caller went away.
    Cancelled,
    /// The caller's message broke the rules of its framing after some of it may have been sent on.
    Malformed,
}

/// Whether the upstream has processed a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processed {
    /// It answered.
    Answered,
    /// It certainly has not.
    No,
    /// It may have been processed, or not.
    Unknown,
}

/// What a request lets happen to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// It changes nothing: it may be sent again, to any provider.
    pub safe: bool,
    /// The same provider may get it twice.
    pub repeatable: bool,
}

/// Why a workload got no answer of its dependency. Its name is in the header `x-mrg-reason`, in
/// metrics and in logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The breakers of all providers refused.
    BreakerOpen,
    /// Too many requests are under way.
    TooManyConcurrent,
    /// No provider could be connected to.
    NotConnected,
    /// The connection broke after the request may have been sent.
    Ambiguous,
    /// What came as an answer is none.
    InvalidAnswer,
    /// No answer came in time.
    TimedOut,
    /// The caller's own message is none.
    Malformed,
    /// Every provider said that it did not take the request.
    NotAccepted,
    /// The provider answered with an error, in whose place another answer was given.
    Failed,
    /// No provider takes requests of this kind.
    NoProvider,
    /// A request with the same key waits in the queue.
    AlreadyQueued,
    /// The queue is full.
    QueueFull,
    /// The queue cannot keep anything now.
    QueueUnavailable,
    /// The request cannot be queued.
    NotQueueable,
}

impl Reason {
    /// Every one.
    pub const ALL: [Self; 14] = [
        Self::BreakerOpen,
        Self::TooManyConcurrent,
        Self::NotConnected,
        Self::Ambiguous,
        Self::InvalidAnswer,
        Self::TimedOut,
        Self::Malformed,
        Self::NotAccepted,
        Self::Failed,
        Self::NoProvider,
        Self::AlreadyQueued,
        Self::QueueFull,
        Self::QueueUnavailable,
        Self::NotQueueable,
    ];

    /// As it stands in headers and labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::BreakerOpen => "BreakerOpen",
            Self::TooManyConcurrent => "TooManyConcurrent",
            Self::NotConnected => "NotConnected",
            Self::Ambiguous => "Ambiguous",
            Self::InvalidAnswer => "InvalidAnswer",
            Self::TimedOut => "TimedOut",
            Self::Malformed => "Malformed",
            Self::NotAccepted => "NotAccepted",
            Self::Failed => "Failed",
            Self::NoProvider => "NoProvider",
            Self::AlreadyQueued => "AlreadyQueued",
            Self::QueueFull => "QueueFull",
            Self::QueueUnavailable => "QueueUnavailable",
            Self::NotQueueable => "NotQueueable",
        }
    }

    /// The reason in words, for the answer to the workload.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::BreakerOpen => {
                "the breaker of every provider is open; try again after Retry-After"
            }
            Self::TooManyConcurrent => {
                "too many requests to this dependency are under way in this pod; try again"
            }
            Self::NotConnected => "no provider could be connected to; the request was not sent",
            Self::Ambiguous => {
                "the connection broke before an answer; the request may have been processed: ask before sending it again"
            }
            Self::TimedOut => {
                "no answer came in time; the request may have been processed: ask before sending it again"
            }
            Self::InvalidAnswer => {
                "the provider's answer is not HTTP, or has more header fields than it may (100); the request may have been processed"
            }
            Self::Malformed => {
                "the body of the request is framed wrongly; some of it may have been sent on"
            }
            Self::Failed => "the provider answered with an error",
            Self::NotAccepted => "every provider said that it did not take the request",
            Self::NoProvider => "no provider takes requests of this kind; see providers[].accepts",
            Self::AlreadyQueued => "a request with the same key waits in the queue",
            Self::QueueFull => {
                "nobody could serve the request and the queue is full; it was not kept"
            }
            Self::QueueUnavailable => {
                "nobody could serve the request and the queue cannot keep it now; it was not kept"
            }
            Self::NotQueueable => {
                "nobody could serve the request, and it cannot be queued: it lacks the idempotency header, or is too long"
            }
        }
    }

    /// The status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Ambiguous | Self::TimedOut => 504,
            Self::AlreadyQueued => 202,
            Self::Malformed => 400,
            Self::NotConnected | Self::Failed | Self::InvalidAnswer => 502,
            Self::BreakerOpen
            | Self::TooManyConcurrent
            | Self::NotAccepted
            | Self::NoProvider
            | Self::QueueFull
            | Self::QueueUnavailable
            | Self::NotQueueable => 503,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Ended {
    /// What it says about the upstream.
    pub fn outcome(self, failure_statuses: &[u16]) -> Outcome {
        match self {
            Self::Status(status) => status_outcome(status, failure_statuses),
            Self::Grpc(status) => grpc_outcome(status),
            Self::Refused
            | Self::NotConnected
            | Self::Reset
            | Self::InvalidAnswer
            | Self::TimedOut => Outcome::Failure,
            Self::Cancelled | Self::Malformed => Outcome::Excluded,
        }
    }

    /// Whether the request was processed. `not_accepted` are the statuses by which a provider says
    /// that it was not.
    pub fn processed(self, not_accepted: &[u16]) -> Processed {
        match self {
            Self::Status(status) if not_accepted.contains(&status) => Processed::No,
            Self::Status(_) | Self::Grpc(_) => Processed::Answered,
            Self::Refused | Self::NotConnected => Processed::No,
            Self::Reset
            | Self::InvalidAnswer
            | Self::TimedOut
            | Self::Cancelled
            | Self::Malformed => Processed::Unknown,
        }
    }
}

/// 5xx are failures, except 501, which says what the upstream is, not how it does. 4xx are the
/// caller's, and say nothing.
pub fn status_outcome(status: u16, failure_statuses: &[u16]) -> Outcome {
    match status {
        _ if failure_statuses.contains(&status) => Outcome::Failure,
        501 => Outcome::Success,
        500.. => Outcome::Failure,
        400..500 => Outcome::Excluded,
        _ => Outcome::Success,
    }
}

/// `DEADLINE_EXCEEDED`, INTERNAL, UNAVAILABLE and `DATA_LOSS` are failures; what the caller caused says
/// nothing. The numbers are gRPC's (<https://grpc.io/docs/guides/status-codes/>).
pub fn grpc_outcome(status: u32) -> Outcome {
    match status {
        0 => Outcome::Success,
        4 | 13 | 14 | 15 => Outcome::Failure,
        _ => Outcome::Excluded,
    }
}
