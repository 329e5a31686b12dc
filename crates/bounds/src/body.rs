//! Bodies of requests and of answers, read whole: so many bytes, within so much time.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It is too long; at most this many bytes were read.
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
    /// It did not come in time.
    #[error("the body was not there after {} s", .0.as_secs())]
    Late(Duration),
    /// The connection broke, or the body was not valid HTTP.
    #[error("the body broke off")]
    Broken(#[source] Source),
}

impl IntoResponse for BodyError {
    fn into_response(self) -> Response {
        let status = match self {
            BodyError::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Late(_) => StatusCode::REQUEST_TIMEOUT,
            BodyError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        // What is left of the body would be taken for the next request.
        (status, [(header::CONNECTION, "close")], self.to_string()).into_response()
    }
}

/// Reads a body of at most `limit` bytes to its end. One that announces more is not read at all.
///
/// # Errors
/// If it is longer, does not end `within` this time, or breaks off.
pub async fn read<B>(body: B, limit: usize, within: Duration) -> Result<Bytes, BodyError>
where
    B: http_body::Body,
    B::Error: Into<Source>,
{
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(BodyError::TooLong(limit));
    }
    let whole = Limited::new(body, limit).collect();
    match tokio::time::timeout(within, whole).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(BodyError::TooLong(limit)),
        Ok(Err(error)) => Err(BodyError::Broken(error)),
        Err(_) => Err(BodyError::Late(within)),
    }
}

/// The request with its body read, for a layer of a router: as [`read`].
///
/// # Errors
/// As [`read`]; the error is the answer to the request.
pub async fn with_body(
    request: Request,
    limit: usize,
    within: Duration,
) -> Result<Request, BodyError> {
    let (head, body) = request.into_parts();
    let bytes = read(body, limit, within).await?;
    Ok(Request::from_parts(head, Body::from(bytes)))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body_util::Full;
    use hyper::body::Frame;
    use tokio::sync::mpsc;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(5);

    /// A body whose length is not announced.
    struct Chunks(mpsc::UnboundedReceiver<&'static [u8]>);

    impl http_body::Body for Chunks {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            let chunk = std::task::ready!(self.0.poll_recv(context));
            Poll::Ready(chunk.map(|bytes| Ok(Frame::data(Bytes::from_static(bytes)))))
        }
    }

    fn chunks(chunks: &[&'static [u8]]) -> (mpsc::UnboundedSender<&'static [u8]>, Chunks) {
        let (sender, receiver) = mpsc::unbounded_channel();
        for chunk in chunks {
            sender.send(*chunk).unwrap();
        }
        (sender, Chunks(receiver))
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        let body = |length| Full::new(Bytes::from(vec![b'x'; length]));
        assert_eq!(read(body(10), 10, WITHIN).await.unwrap().len(), 10);
        let refused = read(body(11), 10, WITHIN).await.unwrap_err();
        assert!(matches!(refused, BodyError::TooLong(10)), "{refused}");
    }

    #[tokio::test]
    async fn a_body_of_unknown_length_is_read_up_to_its_limit() {
        let (end, body) = chunks(&[b"12345", b"67890"]);
        drop(end);
        assert_eq!(read(body, 10, WITHIN).await.unwrap(), "1234567890");
        let (_endless, body) = chunks(&[b"12345", b"67890", b"1"]);
        let refused = read(body, 10, WITHIN).await.unwrap_err();
        assert!(matches!(refused, BodyError::TooLong(10)), "{refused}");
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let (_sender, body) = chunks(&[b"12345"]);
        let late = read(body, 10, Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(late, BodyError::Late(_)), "{late}");
        assert_eq!(late.into_response().status(), StatusCode::REQUEST_TIMEOUT);
    }
}
