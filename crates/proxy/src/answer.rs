//! Answers that are made here: problem+json (RFC 9457) for HTTP, a status for gRPC.

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde_json::json;

use crate::body::Answer;
use crate::headers::REASON;
use crate::queue::Status;
use mrg_base::Millis;
use mrg_policy::Reason;

/// The answer to a request that was not served.
pub(crate) fn refusal(
    reason: Reason,
    dependency: &str,
    retry_after: Option<Millis>,
    grpc: bool,
) -> Response<Answer> {
    if grpc {
        return grpc_refusal(reason, dependency);
    }
    let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let seconds = retry_after.map(|left| left.0.div_ceil(1000).max(1));
    let body = json!({
        "type": format!("urn:mrg:{}", reason.name()),
        "title": reason.name(),
        "status": status.as_u16(),
        "detail": format!("{dependency}: {}", reason.sentence()),
        "dependency": dependency,
        "retryAfterSeconds": seconds,
    });
    let mut response = own(status, "application/problem+json", body.to_string());
    response
        .headers_mut()
        .insert(REASON, HeaderValue::from_static(reason.name()));
    if let Some(seconds) = seconds {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A Trailers-Only response: gRPC's status is in the headers (gRPC over HTTP/2, "Responses").
fn grpc_refusal(reason: Reason, dependency: &str) -> Response<Answer> {
    // UNAVAILABLE says that the call may be tried again, DEADLINE_EXCEEDED that it may have been
    // processed.
    let status = if reason.status() == 504 { 4 } else { 14 };
    let mut response = own(StatusCode::OK, "application/grpc", String::new());
    let headers = response.headers_mut();
    headers.insert(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from(status),
    );
    if let Ok(message) = HeaderValue::try_from(format!("{dependency}: {}", reason.sentence())) {
        headers.insert(HeaderName::from_static("grpc-message"), message);
    }
    headers.insert(REASON, HeaderValue::from_static(reason.name()));
    response
}

/// The answer to a request that is in the queue now, or was before.
pub(crate) fn queued(
    dependency: &str,
    ticket: &str,
    status: Status,
    reason: Reason,
) -> Response<Answer> {
    let note = match status {
        Status::Waiting => "kept; it will be sent when the dependency is back",
        Status::Sending => "kept; it is being sent",
        Status::Done => "it was sent and answered before",
        Status::NeedsReview => "kept; it may have been processed, and people will ask",
        Status::Expired | Status::Discarded => "kept; it will not be sent unless people say so",
    };
    let body = json!({ "ticket": ticket, "status": "queued", "standing": status, "dependency": dependency, "note": note });
    let mut response = own(StatusCode::ACCEPTED, "application/json", body.to_string());
    response
        .headers_mut()
        .insert(REASON, HeaderValue::from_static(reason.name()));
    response
}

/// An answer with a body.
pub(crate) fn own(
    status: StatusCode,
    content_type: &'static str,
    body: String,
) -> Response<Answer> {
    let mut response = Response::new(Answer::own(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
