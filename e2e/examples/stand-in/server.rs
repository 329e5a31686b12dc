//! A server that can play any service of MRG, or any provider, and fail in every way that is asked
//! of it.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;

/// What goes wrong; `PUT /faults` changes it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "the JSON of a request: each fault may be asked for beside the others"
)]
pub(crate) struct Faults {
    /// Connections are refused, and those that stand are closed.
    pub refuse: bool,
    /// Answers never come.
    pub hang: bool,
    /// Answers come so much later; milliseconds.
    pub slow: u64,
    /// Answers have this status.
    pub status: Option<u16>,
    /// The connection is closed instead of an answer.
    pub reset: bool,
    /// Half of the body, then the connection is closed.
    pub half_body: bool,
    /// Half of the body, then nothing.
    pub stall_body: bool,
    /// Headers that answers have, too.
    pub headers: BTreeMap<String, String>,
    /// Trailers that answers have.
    pub trailers: BTreeMap<String, String>,
    /// After an answer its connection takes no more requests: GOAWAY in HTTP/2.
    pub goaway: bool,
    /// Only the share of requests fails, of a hundred; 0 is all.
    pub percent: u32,
    /// `/ready` says no.
    pub unready: bool,
}

/// What came, and what goes wrong.
#[derive(Default)]
pub(crate) struct Story {
    faults: Faults,
    requests: u64,
    errors: u64,
    /// How long the last answers took; seconds.
    took: VecDeque<f64>,
    by_key: BTreeMap<String, u64>,
    last: serde_json::Value,
}

/// So many answers are remembered for the quantiles.
const REMEMBERED: usize = 1000;

impl Story {
    fn answered(&mut self, took: Duration, good: bool) {
        self.errors += u64::from(!good);
        self.took.push_back(took.as_secs_f64());
        if self.took.len() > REMEMBERED {
            self.took.pop_front();
        }
    }

    /// As the analysis names them: `orderorchestrator_requests_total` and so on.
    fn metrics(&self, name: &str) -> String {
        let mut sorted: Vec<f64> = self.took.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: usize| {
            sorted
                .get((sorted.len() * share / 100).min(sorted.len().saturating_sub(1)))
                .copied()
                .unwrap_or(0.0)
        };
        let mut page = format!(
            "# TYPE {name}_requests_total counter\n{name}_requests_total {}\n",
            self.requests
        );
        let _ = write!(
            page,
            "# TYPE {name}_errors_total counter\n{name}_errors_total {}\n# TYPE {name}_request_duration_seconds summary\n",
            self.errors
        );
        for share in [50, 95, 99] {
            let _ = writeln!(
                page,
                "{name}_request_duration_seconds{{quantile=\"0.{share}\"}} {}",
                at(share)
            );
        }
        page
    }
}

/// A stand-in that serves.
#[derive(Clone)]
pub(crate) struct StandIn {
    name: String,
    story: Arc<Mutex<Story>>,
    address: SocketAddr,
}

/// A body that may break off.
pub(crate) enum Reply {
    Whole(Option<Bytes>),
    Trailed(Option<Bytes>, Option<http::HeaderMap>),
    Half(Option<Bytes>),
    Stalled(Option<Bytes>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let this = self.get_mut();
        let next = match this {
            Self::Whole(bytes)
            | Self::Trailed(bytes, _)
            | Self::Half(bytes)
            | Self::Stalled(bytes) => bytes.take(),
        };
        match (next, this) {
            (Some(bytes), _) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            (None, Self::Whole(_)) => Poll::Ready(None),
            (None, Self::Trailed(_, trailers)) => Poll::Ready(
                trailers
                    .take()
                    .map(|trailers| Ok(Frame::trailers(trailers))),
            ),
            (None, Self::Half(_)) => Poll::Ready(Some(Err(std::io::Error::other("as asked")))),
            (None, Self::Stalled(_)) => Poll::Pending,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Trailed(..) | Self::Half(_) | Self::Stalled(_) => SizeHint::default(),
        }
    }
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}

impl StandIn {
    /// Serves at this address; port 0 takes any.
    pub(crate) fn start(name: &str, address: SocketAddr) -> std::io::Result<Self> {
        let listener = bind(address)?;
        let stand_in = Self {
            name: name.to_owned(),
            story: Arc::default(),
            address: listener.local_addr()?,
        };
        tokio::spawn(stand_in.clone().accept(listener));
        Ok(stand_in)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn story(&self) -> std::sync::MutexGuard<'_, Story> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fail(&self, faults: Faults) {
        self.story().faults = faults;
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> u64 {
        self.story().requests
    }

    /// How often each idempotency key came.
    pub(crate) fn by_key(&self) -> BTreeMap<String, u64> {
        self.story().by_key.clone()
    }

    /// What came last.
    pub(crate) fn last(&self) -> serde_json::Value {
        self.story().last.clone()
    }

    async fn accept(self, mut listener: TcpListener) {
        loop {
            if self.story().faults.refuse {
                drop(listener);
                while self.story().faults.refuse {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                listener = loop {
                    match bind(self.address) {
                        Ok(listener) => break listener,
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                };
            }
            let Ok(Ok((stream, _))) =
                tokio::time::timeout(Duration::from_millis(5), listener.accept()).await
            else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let stand_in = self.clone();
            tokio::spawn(async move {
                let enough = Arc::new(Notify::new());
                let told = enough.clone();
                let service = service_fn(move |request| {
                    let (stand_in, told) = (stand_in.clone(), told.clone());
                    async move {
                        let goaway = stand_in.story().faults.goaway;
                        let answer = stand_in.serve(request).await;
                        if goaway {
                            told.notify_one();
                        }
                        answer
                    }
                });
                let server = auto::Builder::new(TokioExecutor::new());
                let mut connection = std::pin::pin!(
                    server.serve_connection_with_upgrades(TokioIo::new(stream), service)
                );
                loop {
                    tokio::select! {
                        _ = connection.as_mut() => return,
                        () = enough.notified() => connection.as_mut().graceful_shutdown(),
                    }
                }
            });
        }
    }

    async fn serve(
        self,
        mut request: Request<Incoming>,
    ) -> Result<Response<Reply>, std::io::Error> {
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::PUT, "/faults") => {
                let body = request
                    .into_body()
                    .collect()
                    .await
                    .map_err(std::io::Error::other)?
                    .to_bytes();
                match serde_json::from_slice(&body) {
                    Ok(faults) => self.fail(faults),
                    Err(error) => return Ok(reply(StatusCode::BAD_REQUEST, error.to_string())),
                }
                return Ok(reply(StatusCode::OK, "ok".to_owned()));
            }
            (&Method::GET, "/received") => {
                let story = self.story();
                let text = json!({ "requests": story.requests, "byKey": story.by_key, "last": story.last }).to_string();
                drop(story);
                return Ok(reply(StatusCode::OK, text));
            }
            (&Method::POST, "/call") => {
                let body = request
                    .into_body()
                    .collect()
                    .await
                    .map_err(std::io::Error::other)?
                    .to_bytes();
                let text = match serde_json::from_slice(&body) {
                    Ok(wanted) => call(wanted).await,
                    Err(error) => json!({ "error": error.to_string() }),
                };
                return Ok(reply(StatusCode::OK, text.to_string()));
            }
            (&Method::GET, "/metrics") => {
                return Ok(reply(StatusCode::OK, self.story().metrics(&self.name)));
            }
            (&Method::GET, "/health") => return Ok(reply(StatusCode::OK, "ok".to_owned())),
            (&Method::GET, "/ready") => {
                let status = if self.story().faults.unready {
                    StatusCode::SERVICE_UNAVAILABLE
                } else {
                    StatusCode::OK
                };
                return Ok(reply(status, status.to_string()));
            }
            _ => {}
        }
        if request.headers().contains_key(http::header::UPGRADE)
            && request.version() == http::Version::HTTP_11
        {
            tokio::spawn(echo(hyper::upgrade::on(&mut request)));
            let mut response = reply(StatusCode::SWITCHING_PROTOCOLS, String::new());
            response.headers_mut().insert(
                http::header::CONNECTION,
                http::HeaderValue::from_static("upgrade"),
            );
            response.headers_mut().insert(
                http::header::UPGRADE,
                http::HeaderValue::from_static("echo"),
            );
            return Ok(response);
        }
        let (began, story) = (std::time::Instant::now(), self.story.clone());
        let answer = self.answer(request).await;
        let good = answer
            .as_ref()
            .is_ok_and(|answer| !answer.status().is_server_error());
        story
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .answered(began.elapsed(), good);
        answer
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Reply>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map_err(std::io::Error::other)?
            .to_bytes();
        let headers: BTreeMap<String, String> = parts
            .headers
            .iter()
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect();
        let seen = json!({
            "name": self.name, "method": parts.method.as_str(), "path": parts.uri.to_string(), "version": format!("{:?}", parts.version),
            "headers": headers, "body": String::from_utf8_lossy(&body),
        });
        let faults = {
            let mut story = self.story();
            story.requests += 1;
            if let Some(key) = headers.get("idempotency-key") {
                *story.by_key.entry(key.clone()).or_default() += 1;
            }
            story.last = seen.clone();
            let spared =
                story.faults.percent > 0 && story.requests % 100 >= u64::from(story.faults.percent);
            if spared {
                Faults::default()
            } else {
                story.faults.clone()
            }
        };
        if faults.hang {
            std::future::pending::<Infallible>().await;
        }
        tokio::time::sleep(Duration::from_millis(faults.slow)).await;
        if faults.reset || faults.refuse {
            return Err(std::io::Error::other("as asked"));
        }
        let text = seen.to_string();
        let mut response = reply(
            faults
                .status
                .and_then(|status| StatusCode::from_u16(status).ok())
                .unwrap_or(StatusCode::OK),
            text.clone(),
        );
        for (name, value) in &faults.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<http::HeaderName>(), value.parse()) {
                response.headers_mut().insert(name, value);
            }
        }
        let half = Some(Bytes::from(text[..text.len() / 2].to_owned()));
        if faults.half_body {
            *response.body_mut() = Reply::Half(half);
        } else if !faults.trailers.is_empty() {
            let trailers = faults
                .trailers
                .iter()
                .filter_map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)))
                .collect();
            *response.body_mut() = Reply::Trailed(Some(Bytes::from(text)), Some(trailers));
        } else if faults.stall_body {
            *response.body_mut() = Reply::Stalled(half);
        }
        Ok(response)
    }
}

/// A call that this service is told to make.
#[derive(Deserialize)]
struct Call {
    url: String,
    method: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
}

async fn call(wanted: Call) -> serde_json::Value {
    let method = wanted.method.parse().unwrap_or(reqwest::Method::GET);
    let mut request = reqwest::Client::new()
        .request(method, wanted.url)
        .body(wanted.body)
        .timeout(Duration::from_secs(15));
    for (name, value) in wanted.headers {
        request = request.header(name, value);
    }
    match request.send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let headers: BTreeMap<String, String> = answer
                .headers()
                .iter()
                .map(|(name, value)| {
                    (
                        name.to_string(),
                        String::from_utf8_lossy(value.as_bytes()).into_owned(),
                    )
                })
                .collect();
            json!({ "status": status, "headers": headers, "body": answer.text().await.unwrap_or_default() })
        }
        Err(error) => json!({ "error": error.to_string() }),
    }
}

async fn echo(upgrade: hyper::upgrade::OnUpgrade) {
    let Ok(upgraded) = upgrade.await else { return };
    let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

fn reply(status: StatusCode, text: String) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(
        Some(Bytes::from(text)).filter(|bytes| !bytes.is_empty()),
    ));
    *response.status_mut() = status;
    response
}
