//! One attempt at one provider.

use std::error::Error as _;
use std::time::Duration;

use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;

use crate::body::{BodyError, Sent, SentBody, grpc_status};
use crate::head::Head;
use crate::headers::{NOT_PROCESSED, name_framing};
use crate::routes::route::{Route, Target};
use mrg_breaker::Outcome;
use mrg_policy::Ended;

/// The request as a provider gets it; `None` if its path is too long with the provider's base.
fn request(head: &Head, target: &Target, body: &Sent, http2: bool) -> Option<Request<SentBody>> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(target.scheme.clone());
    parts.authority = Some(target.authority.clone());
    parts.path_and_query = Some(target.path(&head.path)?);
    let mut request = Request::new(body.body());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    *request.version_mut() = if http2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    let headers = request.headers_mut();
    headers.clone_from(&head.headers);
    for (name, value) in &target.headers {
        headers.insert(name.clone(), value.clone());
    }
    if body.is_of_unknown_length() && !http2 {
        name_framing(&head.method, headers);
    }
    Some(request)
}

/// Sends the request and waits for the head of the answer, at most for `limit`.
pub(crate) async fn attempt(
    route: &Route,
    target: &Target,
    head: &Head,
    body: &Sent,
    limit: Duration,
) -> (Ended, Option<Response<Incoming>>) {
    let Some(request) = request(head, target, body, route.spec.http2) else {
        return (Ended::NotConnected, None);
    };
    let (ended, response, error) =
        match tokio::time::timeout(limit, route.client.request(request)).await {
            Err(_) => (Ended::TimedOut, None, None),
            Ok(Ok(mut response)) => {
                response.extensions_mut().remove::<ReasonPhrase>();
                (answered(head, &response), Some(response), None)
            }
            Ok(Err(error)) => (ended(&error), None, Some(error)),
        };
    if ended.outcome(&route.spec.breaker.failure_statuses) == Outcome::Failure {
        let why = match (ended, &error) {
            (_, Some(error)) => cause(error),
            (Ended::Status(status), None) => format!("answered {status}"),
            (Ended::Grpc(status), None) => format!("gRPC status {status}"),
            (Ended::Refused, None) => "its sidecar did not pass the request on".to_owned(),
            (_, None) => format!("no answer within {} ms", limit.as_millis()),
        };
        tracing::debug!(
            provider = target.provider.label,
            ?ended,
            why,
            "attempt failed"
        );
        target.provider.note_failure(why);
    }
    (ended, response)
}

/// What the head of an answer says.
fn answered(head: &Head, response: &Response<Incoming>) -> Ended {
    if response.headers().contains_key(NOT_PROCESSED) {
        return Ended::Refused;
    }
    let grpc = head.grpc.then(|| grpc_status(response.headers())).flatten();
    grpc.map_or(Ended::Status(response.status().as_u16()), Ended::Grpc)
}

/// An error in the words of its causes: what the client itself says ("client error (Connect)") adds
/// nothing to them.
fn cause(error: &hyper_util::client::legacy::Error) -> String {
    let cause = error.source();
    cause.map_or_else(|| mrg_telemetry::chain(error), mrg_telemetry::chain)
}

/// What an error says about the request. Where it is not known that the request was not sent, it
/// may have been.
pub(crate) fn ended(error: &hyper_util::client::legacy::Error) -> Ended {
    if error.is_connect() {
        return Ended::NotConnected;
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(BodyError::Caller(error)) = cause.downcast_ref::<BodyError>() {
            return if is_malformed(error) {
                Ended::Malformed
            } else {
                Ended::Cancelled
            };
        }
        if cause
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse)
        {
            return Ended::InvalidAnswer;
        }
        // The client gives a request back that it could not begin to send.
        if cause
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_canceled)
        {
            return Ended::NotConnected;
        }
        // RFC 9113, 8.7: a refused stream was not processed.
        if cause
            .downcast_ref::<h2::Error>()
            .is_some_and(|error| error.reason() == Some(h2::Reason::REFUSED_STREAM))
        {
            return Ended::NotConnected;
        }
        source = cause.source();
    }
    Ended::Reset
}

/// Whether a caller's body ended because its framing is wrong, not because the caller went away.
fn is_malformed(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(error) = cause.downcast_ref::<std::io::Error>() {
            return matches!(
                error.kind(),
                std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData
            );
        }
        source = cause.source();
    }
    error.is_parse()
}
