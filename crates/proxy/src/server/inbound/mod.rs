//! The inbound side: requests to the workload, as many at a time as it can take and no longer than
//! they may take, with a share of them for its canary.

mod canary;
mod traffic;

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::answer::refusal;
use crate::body::{Answer, Sent, SentBody, Watch};
use crate::client::attempt;
use crate::counters::{Concurrency, Counter, InFlight};
use crate::headers::{NOT_PROCESSED, is_grpc, name_framing, strip_hop_by_hop, upgrade_of};
use crate::routes::convert;
use canary::{CanaryTurn, CanaryUpstream};
use mrg_policy::{CanaryReport, CheckedInbound, Ended, Inbound, Reason, Route};
use mrg_telemetry::Histogram;
use traffic::{Answered, failed};

/// Serves the requests to the workload.
pub(crate) struct InboundHandler {
    limits: Inbound,
    authority: Authority,
    canary: Option<CanaryUpstream>,
    routes: Vec<(Route, CanaryUpstream)>,
    http1: Client<HttpConnector, SentBody>,
    http2: Client<HttpConnector, SentBody>,
    /// Requests under way.
    pub concurrency: Concurrency,
    /// How long answers took.
    pub latencies: Histogram,
    /// Requests that were refused because too many were under way.
    pub refused: Counter,
    /// Answers with 5xx, and requests without an answer.
    pub failed: Counter,
}

/// Where a request goes, and in whose comparison its answer is counted.
struct RouteChoice<'a> {
    /// The canary's turn; `None`: to the workload.
    to: Option<CanaryTurn<'a>>,
    /// The canary that the workload is compared with; `None`: there is none.
    counted: Option<&'a CanaryUpstream>,
}

impl InboundHandler {
    /// A handler for a workload that listens on the loopback of the pod.
    pub(crate) fn new(
        limits: Inbound,
        parsed: &CheckedInbound,
        changes: &watch::Sender<u64>,
    ) -> Self {
        let connector = || {
            let mut tcp = HttpConnector::new();
            tcp.set_nodelay(true);
            tcp.set_connect_timeout(Some(Duration::from_secs(1)));
            tcp
        };
        let builder = || {
            let mut builder = Client::builder(TokioExecutor::new());
            builder
                .pool_idle_timeout(Duration::from_secs(4))
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new());
            builder
        };
        let canary = limits.canary.clone().zip(parsed.canary.as_ref());
        let routes = limits.routes.iter().zip(&parsed.routes);
        Self {
            authority: convert::authority(&parsed.workload),
            canary: canary.map(|(spec, authority)| CanaryUpstream::new(spec, authority, changes)),
            routes: routes
                .map(|(route, authority)| {
                    let upstream = CanaryUpstream::new(route.to.clone(), authority, changes);
                    (route.clone(), upstream)
                })
                .collect(),
            limits,
            http1: builder().build(connector()),
            http2: builder().http2_only(true).build(connector()),
            concurrency: Concurrency::default(),
            latencies: Histogram::default(),
            refused: Counter::default(),
            failed: Counter::default(),
        }
    }

    /// A handler in place of `before`: connections stay, counters start from zero.
    pub(crate) fn after(
        before: &Self,
        limits: Inbound,
        parsed: &CheckedInbound,
        changes: &watch::Sender<u64>,
    ) -> Self {
        let mut handler = Self::new(limits, parsed, changes);
        if handler.limits.target_port == before.limits.target_port {
            (handler.http1, handler.http2) = (before.http1.clone(), before.http2.clone());
        }
        handler
    }

    /// How the canary fares, if there is one.
    pub(crate) fn canary(&self) -> Option<CanaryReport> {
        self.canary.as_ref().map(CanaryUpstream::report)
    }

    /// How the routes fare.
    pub(crate) fn routes(&self) -> Vec<CanaryReport> {
        self.routes
            .iter()
            .map(|(_, upstream)| upstream.report())
            .collect()
    }

    /// The configuration.
    pub(crate) fn limits(&self) -> &Inbound {
        &self.limits
    }

    /// Serves one request.
    pub(crate) async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let began = Instant::now();
        let grpc = is_grpc(request.headers());
        let Some(in_flight) = self.concurrency.enter(self.limits.max_concurrent) else {
            self.refused.add();
            return not_processed(refusal(Reason::TooManyConcurrent, "inbound", None, grpc));
        };
        let http2 = request.version() == Version::HTTP_2;
        let client = if http2 { &self.http2 } else { &self.http1 };
        let protocol = upgrade_of(&request);
        let (caller, parts, body) = self.for_workload(request, protocol.as_ref());
        let choice = self.choose(&parts);
        let answered = match choice.to {
            Some(turn) => self.call_canary(turn, client, parts, body).await,
            None => {
                self.call_workload(choice.counted, client, parts, &body)
                    .await
            }
        };
        self.latencies.record(began.elapsed());
        match answered {
            Ok(Ok(response)) if response.status() == http::StatusCode::SWITCHING_PROTOCOLS => {
                crate::client::upgrade::pass(caller, response, protocol, in_flight)
            }
            Ok(Ok(response)) => self.pass(response, in_flight),
            Ok(Err(error)) => match attempt::ended(&error) {
                Ended::NotConnected => not_processed(self.no_answer(Reason::NotConnected, grpc)),
                // Not the workload's failure.
                Ended::Malformed => refusal(Reason::Malformed, "inbound", None, grpc),
                Ended::InvalidAnswer => self.no_answer(Reason::InvalidAnswer, grpc),
                _ => self.no_answer(Reason::Ambiguous, grpc),
            },
            Err(_) => self.no_answer(Reason::TimedOut, grpc),
        }
    }

    fn pass(&self, response: Response<Incoming>, in_flight: InFlight) -> Response<Answer> {
        if response.status().is_server_error() {
            self.failed.add();
        }
        let (mut parts, body) = response.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        Response::from_parts(parts, Answer::Upstream(body, Watch::over(Some(in_flight))))
    }

    fn no_answer(&self, reason: Reason, grpc: bool) -> Response<Answer> {
        self.failed.add();
        refusal(reason, "inbound", None, grpc)
    }

    fn choose(&self, parts: &Parts) -> RouteChoice<'_> {
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        let route = self
            .routes
            .iter()
            .filter(|_| reads)
            .find(|(route, _)| route.takes(parts.uri.path()))
            .map(|(_, upstream)| upstream);
        let counted = route.or(self.canary.as_ref());
        // Of what a route leaves to the workload, the canary gets its share.
        let to = route
            .and_then(CanaryUpstream::turn)
            .or_else(|| self.canary.as_ref()?.turn());
        RouteChoice { to, counted }
    }

    async fn call_workload(
        &self,
        counted: Option<&CanaryUpstream>,
        client: &Client<HttpConnector, SentBody>,
        parts: Parts,
        body: &Sent,
    ) -> Answered {
        let began = Instant::now();
        let request = Request::from_parts(parts, body.body());
        let answered =
            tokio::time::timeout(self.limits.timeout.0.duration(), client.request(request)).await;
        if let Some(upstream) = counted {
            upstream.stable.count(began.elapsed(), failed(&answered));
        }
        answered
    }

    /// The answer of the canary; the workload's own, if the canary cannot be reached and nothing of
    /// the body was sent.
    async fn call_canary(
        &self,
        turn: CanaryTurn<'_>,
        client: &Client<HttpConnector, SentBody>,
        parts: Parts,
        body: Sent,
    ) -> Answered {
        let CanaryTurn {
            upstream,
            permit,
            _probe,
        } = turn;
        let began = Instant::now();
        let mut elsewhere = parts.clone();
        let mut uri = elsewhere.uri.into_parts();
        uri.authority = Some(upstream.authority.clone());
        elsewhere.uri = Uri::from_parts(uri).unwrap_or_default();
        let request = Request::from_parts(elsewhere, body.body());
        let answered =
            tokio::time::timeout(self.limits.timeout.0.duration(), client.request(request)).await;
        upstream.record(permit, began.elapsed(), &answered);
        match &answered {
            // Nothing of it was sent.
            Ok(Err(error)) if attempt::ended(error) == Ended::NotConnected && body.is_whole() => {
                self.call_workload(Some(upstream), client, parts, &body)
                    .await
            }
            _ => answered,
        }
    }

    /// The request as the workload gets it, and the caller's side of an upgrade.
    fn for_workload(
        &self,
        mut request: Request<Incoming>,
        protocol: Option<&HeaderValue>,
    ) -> (Option<hyper::upgrade::OnUpgrade>, Parts, Sent) {
        let caller = protocol.map(|_| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        if let Some(protocol) = protocol {
            parts.headers.insert(
                http::header::CONNECTION,
                HeaderValue::from_static("upgrade"),
            );
            parts
                .headers
                .insert(http::header::UPGRADE, protocol.clone());
        }
        // The workload sees the name by which it was called: HTTP/2 has it in the address, and where
        // HTTP/1 has one there, the header does not count (RFC 9112, 3.2.2).
        if let Some(name) = parts
            .uri
            .authority()
            .and_then(|name| HeaderValue::try_from(name.as_str()).ok())
        {
            parts.headers.insert(http::header::HOST, name);
        }
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = parts
            .uri
            .path_and_query()
            .cloned()
            .or_else(|| Some(http::uri::PathAndQuery::from_static("/")));
        parts.uri = Uri::from_parts(uri).unwrap_or_default();
        let body = Sent::streaming(body);
        if parts.version != Version::HTTP_2 {
            // Our version, not the caller's (RFC 9112, 2.5).
            parts.version = Version::HTTP_11;
            if body.is_of_unknown_length() {
                name_framing(&parts.method, &mut parts.headers);
            }
        }
        (caller, parts, body)
    }
}

/// Marks an answer so that the caller's sidecar may send the request again, or queue it.
fn not_processed(mut answer: Response<Answer>) -> Response<Answer> {
    answer
        .headers_mut()
        .insert(NOT_PROCESSED, HeaderValue::from_static("1"));
    answer
}
