//! Listening: HTTP/1.1 and HTTP/2 on one port, with bounds on what a caller may cost.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::body::Answer;

/// Connections at a port; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
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
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_BYTES).half_close(false);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(64 << 10)
        // Streams that are reset as soon as they are opened cost the caller nothing (CVE-2023-44487).
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(100))
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(10));
    server
}

/// Serves connections until `stop` says so; then lets the requests end that are under way.
pub async fn listen<S, F>(listener: TcpListener, serve: S, mut stop: watch::Receiver<bool>)
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Answer>> + Send + 'static,
{
    let server = Arc::new(server());
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: those who are served will free some.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (server, serve, watcher) = (server.clone(), serve.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _place = place;
            if !speaks(&stream).await {
                return;
            }
            let service = service_fn(move |request| {
                let answer = serve(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            // A caller that breaks off is its own affair.
            if let Err(error) = watcher.watch(connection).await {
                tracing::trace!(error = crate::telemetry::chain(&*error), "connection");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(END_WITHIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way when the time to stop was over");
    }
}

async fn speaks(stream: &TcpStream) -> bool {
    // Not setting it costs latency, nothing else.
    let _ = stream.set_nodelay(true);
    tokio::time::timeout(SILENT_FOR, stream.readable()).await.is_ok_and(|ready| ready.is_ok())
}
