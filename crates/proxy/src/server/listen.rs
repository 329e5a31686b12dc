//! Listening: HTTP/1.1 and HTTP/2 on one port, with bounds on what a caller may cost.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{Either, ready};
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::answer::own;
use crate::body::Answer;
use crate::phase::Phase;
use crate::server::message::fault;
use mrg_bounds::{Panicked, contain};

/// Connections at a port; more wait in the kernel's queue.
const MAX_CONNECTIONS: u32 = 4096;
/// How long a request's head may take (slow loris).
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a new connection may be silent.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request's head may be; bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// How many requests one HTTP/2 connection may have under way.
const MAX_STREAMS: u32 = 256;
/// How long connections may take to end once the proxy stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .half_close(false);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(64 << 10)
        // Streams that are reset as soon as they are opened cost the caller nothing
        // (CVE-2023-44487).
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(100))
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(10));
    server
}

/// Serves connections until `phase` says to stop; then lets the requests end that are under way.
pub(crate) async fn listen<S, F>(listener: TcpListener, serve: S, mut phase: watch::Receiver<Phase>)
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Answer>> + Send + 'static,
{
    let server = Arc::new(server());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = reaches(&mut phase, Phase::Stopping) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = reaches(&mut phase, Phase::Stopping) => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: connections that end will free some.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (server, serve, phase) = (server.clone(), serve.clone(), phase.clone());
        tokio::spawn(async move {
            let _place = place;
            if speaks(&stream).await {
                connection(&server, stream, serve, phase).await;
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, places.acquire_many(MAX_CONNECTIONS))
        .await
        .is_err()
    {
        tracing::warn!("requests were still under way when the time to stop was over");
    }
}

/// Waits until `phase` is at least `wanted`. A sender that is gone counts as the last phase.
async fn reaches(phase: &mut watch::Receiver<Phase>, wanted: Phase) {
    let _ = phase.wait_for(|phase| *phase >= wanted).await;
}

async fn connection<S, F>(
    server: &auto::Builder<TokioExecutor>,
    stream: TcpStream,
    serve: S,
    mut phase: watch::Receiver<Phase>,
) where
    S: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Answer>> + Send + 'static,
{
    let http2 = Arc::new(AtomicBool::new(false));
    let (seen, now) = (http2.clone(), phase.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let version = request.version();
        if version == Version::HTTP_2 {
            seen.store(true, Ordering::Relaxed);
        }
        let now = now.clone();
        let served = match fault(&request) {
            None => Either::Left(contain(serve(request))),
            Some(fault) => Either::Right(ready(Ok(fault.answer()))),
        };
        served.map(move |answered| {
            let mut answer = answered.unwrap_or_else(panicked);
            if version < Version::HTTP_2
                && *now.borrow() >= Phase::Leaving
                && answer.status() != StatusCode::SWITCHING_PROTOCOLS
            {
                answer
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        })
    });
    let mut connection = pin!(server.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut known = Phase::Serving;
    loop {
        let next = if known == Phase::Serving {
            Phase::Leaving
        } else {
            Phase::Stopping
        };
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                // A caller that breaks off is no fault of the proxy.
                if let Err(error) = ended {
                    tracing::trace!(error = mrg_telemetry::chain(&*error), "connection");
                }
                return;
            }
            () = reaches(&mut phase, next), if known < Phase::Stopping => {
                known = next;
                // HTTP/2 has GOAWAY. HTTP/1 has no such frame, and closing between two requests
                // could cut off the next one: the answer to it says `connection: close`.
                if known == Phase::Stopping || http2.load(Ordering::Relaxed) {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// The answer to a request in which the proxy itself has failed.
fn panicked(error: Panicked) -> Response<Answer> {
    let text = format!("{error}\n");
    own(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", text)
}

async fn speaks(stream: &TcpStream) -> bool {
    // Not setting it costs latency, nothing else.
    let _ = stream.set_nodelay(true);
    tokio::time::timeout(FIRST_BYTE_TIMEOUT, stream.readable())
        .await
        .is_ok_and(|ready| ready.is_ok())
}
