//! Serves a router over HTTP/1.1, with bounds on what clients may cost.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::panic::contain;
use crate::places::{Id, Phase, Places};

/// After a failed `accept`, out of file descriptors most likely: connections that end free some.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(20);
/// How often it is logged at most that connections are closed.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// What the clients of a listener may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections in all.
    pub connections: usize,
    /// Open connections of one address. Well below `connections`, so that one client cannot have
    /// them all.
    pub per_peer: usize,
    /// The head of a request in bytes; at least 8192.
    pub head_bytes: usize,
    /// How long the first head of a connection may take, from its beginning.
    pub head_within: Duration,
    /// How long an answer may take to be read by the client and be followed by the whole next head.
    pub idle: Duration,
    /// How long a request may take to be answered from the end of its head, with its body.
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            per_peer: 64,
            head_bytes: 16 << 10,
            head_within: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            request: Duration::from_secs(15),
        }
    }
}

impl Limits {
    /// The same with no more connections than a quarter of the files that the process may open: the
    /// rest is for its own work.
    #[must_use]
    pub fn within_open_files(self, open_files: u64) -> Self {
        let files = usize::try_from(open_files / 4).unwrap_or(usize::MAX);
        let connections = self.connections.min(files.max(4));
        Self {
            connections,
            per_peer: self.per_peer.min(connections.div_ceil(4)),
            ..self
        }
    }
}

/// How many connections were closed because there were too many.
#[derive(Clone, Debug, Default)]
pub struct Displaced(Arc<AtomicU64>);

impl Displaced {
    /// Since the process began.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Serves from a thread and a runtime of its own until the process ends, so that no load on this
/// listener takes time away from the caller's runtime. `listener` must not block.
///
/// # Errors
/// If the thread or its runtime cannot be started.
pub fn serve_on_own_thread(
    name: &'static str,
    listener: std::net::TcpListener,
    router: Router,
    limits: Limits,
    displaced: Displaced,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let listener = {
        let _context = runtime.enter();
        TcpListener::from_std(listener)?
    };
    let serve = move || match runtime.block_on(serve(name, listener, router, limits, displaced)) {};
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(serve)?;
    Ok(())
}

/// Serves for ever. `name` is for the log.
pub async fn serve(
    name: &'static str,
    listener: TcpListener,
    router: Router,
    limits: Limits,
    displaced: Displaced,
) -> Infallible {
    let listening = Arc::new(Listening {
        limits,
        server: server(&limits),
        router,
        open: Mutex::new(Open {
            places: Places::new(limits.connections, limits.per_peer),
            ends: BTreeMap::new(),
        }),
    });
    let mut log = Log::new(name, displaced);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (connection, closed) = listening.admit(peer);
                if closed {
                    log.closed(&limits, peer);
                }
                if let Some(connection) = connection {
                    tokio::spawn(connection.run(stream));
                }
            }
            Err(_) => tokio::time::sleep(ACCEPT_AGAIN_AFTER).await,
        }
    }
}

fn server(limits: &Limits) -> http1::Builder {
    let mut server = http1::Builder::new();
    // Every deadline is that of `Connection::run`.
    server.max_buf_size(limits.head_bytes);
    server
}

/// What all connections of a listener share.
struct Listening {
    limits: Limits,
    server: http1::Builder,
    router: Router,
    open: Mutex<Open>,
}

struct Open {
    places: Places,
    /// Ends the connection of this number.
    ends: BTreeMap<Id, oneshot::Sender<()>>,
}

impl Listening {
    /// The new connection, unless there is no place for it; and whether a connection was closed for
    /// want of places, be it another.
    fn admit(self: &Arc<Self>, peer: SocketAddr) -> (Option<Connection>, bool) {
        let mut open = mrg_base::lock(&self.open);
        let now = Instant::now();
        let Some(place) = open.places.take(peer.ip(), now.into_std()) else {
            return (None, true);
        };
        if let Some(end) = place.instead_of.and_then(|id| open.ends.remove(&id)) {
            let _ = end.send(());
        }
        let (end, ended) = oneshot::channel();
        open.ends.insert(place.id, end);
        let connection = Connection {
            id: place.id,
            listening: self.clone(),
            ended,
            deadline: watch::Sender::new(now + self.limits.head_within),
        };
        (Some(connection), place.instead_of.is_some())
    }

    fn note(&self, id: Id, phase: Phase, now: Instant) {
        let mut open = mrg_base::lock(&self.open);
        open.places.note(id, phase, now.into_std());
    }
}

struct Connection {
    id: Id,
    listening: Arc<Listening>,
    /// Another connection takes the place of this one.
    ended: oneshot::Receiver<()>,
    /// When it is closed, unless something happens before.
    deadline: watch::Sender<Instant>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = mrg_base::lock(&self.listening.open);
        open.places.leave(self.id);
        open.ends.remove(&self.id);
    }
}

impl Connection {
    /// Serves requests until the client goes, a deadline passes or another takes the place.
    async fn run(mut self, stream: TcpStream) {
        // Not setting it costs latency, nothing else.
        let _ = stream.set_nodelay(true);
        let mut deadlines = self.deadline.subscribe();
        let handler = Handler {
            id: self.id,
            listening: self.listening.clone(),
            deadline: self.deadline.clone(),
        };
        let server = &self.listening.server;
        let mut served = pin!(server.serve_connection(TokioIo::new(stream), handler));
        loop {
            let deadline = *deadlines.borrow_and_update();
            tokio::select! {
                // A client that breaks off is no fault of this program.
                _ = served.as_mut() => return,
                _ = &mut self.ended => return,
                () = tokio::time::sleep_until(deadline) => return,
                Ok(()) = deadlines.changed() => {}
            }
        }
    }
}

/// Answers the requests of one connection.
struct Handler {
    id: Id,
    listening: Arc<Listening>,
    deadline: watch::Sender<Instant>,
}

impl Service<Request<Incoming>> for Handler {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (id, listening) = (self.id, self.listening.clone());
        let deadline = self.deadline.clone();
        Box::pin(async move {
            let limits = listening.limits;
            let began = Instant::now();
            listening.note(id, Phase::Serving, began);
            deadline.send_replace(began + limits.request + limits.idle);
            let answered = answer(&listening.router, request, limits.request).await;
            let now = Instant::now();
            listening.note(id, Phase::Waiting, now);
            deadline.send_replace(now + limits.idle);
            Ok(answered)
        })
    }
}

/// The router's answer, if it gives one in time and without a panic.
async fn answer(router: &Router, request: Request<Incoming>, within: Duration) -> Response {
    let router = TowerToHyperService::new(router.clone());
    let answered = contain(tokio::time::timeout(within, router.call(request))).await;
    match answered {
        Ok(Ok(Ok(response))) => response,
        Ok(Ok(Err(never))) => match never {},
        Ok(Err(_)) => {
            let text = format!("no answer within {} s", within.as_secs());
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        Err(panicked) => panicked.into_response(),
    }
}

/// Counts closed connections, and says so now and then.
struct Log {
    name: &'static str,
    displaced: Displaced,
    last: Option<(Instant, u64)>,
}

impl Log {
    fn new(name: &'static str, displaced: Displaced) -> Self {
        Self {
            name,
            displaced,
            last: None,
        }
    }

    fn closed(&mut self, limits: &Limits, peer: SocketAddr) {
        let count = self.displaced.0.fetch_add(1, Ordering::Relaxed) + 1;
        let now = Instant::now();
        let before = match self.last {
            Some((at, _)) if now.duration_since(at) < LOG_INTERVAL => return,
            Some((_, before)) => before,
            None => 0,
        };
        self.last = Some((now, count));
        tracing::warn!(
            listener = self.name,
            closed = count - before,
            %peer,
            limit = limits.connections,
            limit_per_peer = limits.per_peer,
            "too many connections; those that have waited longest are closed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_open_files_for_everything_else() {
        let limits = |open_files| {
            let limits = Limits::default().within_open_files(open_files);
            (limits.connections, limits.per_peer)
        };
        assert_eq!(limits(1 << 20), (256, 64));
        assert_eq!(limits(1024), (256, 64));
        assert_eq!(limits(256), (64, 16));
        assert_eq!(limits(0), (4, 1));
    }
}
