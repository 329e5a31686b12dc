//! Listening: HTTP/1.1 and HTTP/2 on one port, with bounds on what a caller may cost.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::body::Answer;

/// Connections at a port; more wait in the kernel's queue.
const CONNECTIONS: u32 = 4096;
/// How long a request's head may take (slow loris).
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// How long a new connection may be silent.
const SILENT_FOR: Duration = Duration::from_secs(60);
/// How long a request's head may be.
const HEAD_BYTES: usize = 64 << 10;
/// How many requests one HTTP/2 connection may have under way.
const STREAMS: u32 = 256;
/// How long connections may take to end once the proxy stops.
const END_WITHIN: Duration = Duration::from_secs(25);

fn server() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES)
        .half_close(false);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(64 << 10)
        // Streams that are reset as soon as they are opened cost the caller nothing
        // (CVE-2023-44487).
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(100))
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(10));
    server
}

/// How far a listener is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It serves.
    Serving,
    /// It serves, and asks whoever it answers to come by another connection next time: they find
    /// one who stays.
    Leaving,
    /// No new connections; what is under way ends.
    Stopping,
}

/// Serves connections until `phase` says to stop; then lets the requests end that are under way.
pub(crate) async fn listen<S, F>(listener: TcpListener, serve: S, mut phase: watch::Receiver<Phase>)
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Answer>> + Send + 'static,
{
    let server = Arc::new(server());
    let places = Arc::new(Semaphore::new(CONNECTIONS as usize));
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
            // Out of file descriptors, most likely: those who are served will free some.
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
    if tokio::time::timeout(END_WITHIN, places.acquire_many(CONNECTIONS))
        .await
        .is_err()
    {
        tracing::warn!("requests were still under way when the time to stop was over");
    }
}

/// The end of the one who would say so counts as the last phase.
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
        serve(request).map(move |mut answer| {
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
    let mut told = Phase::Serving;
    loop {
        let next = if told == Phase::Serving {
            Phase::Leaving
        } else {
            Phase::Stopping
        };
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                // A caller that breaks off is its own affair.
                if let Err(error) = ended {
                    tracing::trace!(error = mrg_telemetry::chain(&*error), "connection");
                }
                return;
            }
            () = reaches(&mut phase, next), if told < Phase::Stopping => {
                told = next;
                // HTTP/2 has words for it. HTTP/1 has none between two requests, where closing
                // would meet the next one: its answer says so.
                if told == Phase::Stopping || http2.load(Ordering::Relaxed) {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

async fn speaks(stream: &TcpStream) -> bool {
    // Not setting it costs latency, nothing else.
    let _ = stream.set_nodelay(true);
    tokio::time::timeout(SILENT_FOR, stream.readable())
        .await
        .is_ok_and(|ready| ready.is_ok())
}
