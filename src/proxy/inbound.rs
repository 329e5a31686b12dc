//! Calls to the workload: so many at a time, and no longer than they may take.

use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::Instant;

use super::answer::{is_grpc, refusal};
use super::attempt;
use super::body::{Answer, Sent, SentBody, Watch};
use super::headers::{strip_hop_by_hop, upgrade_of};
use super::state::{Concurrency, Counter};
use crate::policy::{Ended, Inbound, Reason};
use crate::telemetry::Histogram;

/// What stands between callers and the workload.
pub struct Gate {
    limits: Inbound,
    authority: Authority,
    one: Client<HttpConnector, SentBody>,
    two: Client<HttpConnector, SentBody>,
    /// Requests under way.
    pub concurrency: Concurrency,
    /// How long answers took.
    pub latencies: Histogram,
    /// Requests that were refused because too many were under way.
    pub refused: Counter,
    /// Answers with 5xx, and requests without an answer.
    pub failed: Counter,
}

impl Gate {
    /// One whose workload listens on the loopback of the pod.
    pub fn new(limits: Inbound) -> Self {
        let connector = || {
            let mut tcp = HttpConnector::new();
            tcp.set_nodelay(true);
            tcp.set_connect_timeout(Some(Duration::from_secs(1)));
            tcp
        };
        let builder = || {
            let mut builder = Client::builder(TokioExecutor::new());
            builder.pool_idle_timeout(Duration::from_secs(4)).pool_timer(TokioTimer::new()).timer(TokioTimer::new());
            builder
        };
        let authority = format!("127.0.0.1:{}", limits.target_port);
        Self {
            limits,
            authority: authority.parse().unwrap_or_else(|_| Authority::from_static("127.0.0.1")),
            one: builder().build(connector()),
            two: builder().http2_only(true).build(connector()),
            concurrency: Concurrency::default(),
            latencies: Histogram::default(),
            refused: Counter::default(),
            failed: Counter::default(),
        }
    }

    /// What it was made with.
    pub fn limits(&self) -> &Inbound {
        &self.limits
    }

    /// Serves one request.
    pub async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Response<Answer> {
        let began = Instant::now();
        let grpc = is_grpc(request.headers());
        let Some(in_flight) = self.concurrency.enter(self.limits.max_concurrent) else {
            self.refused.add();
            return refusal(Reason::TooManyConcurrent, "inbound", None, grpc);
        };
        let http2 = request.version() == Version::HTTP_2;
        let client = if http2 { &self.two } else { &self.one };
        let protocol = upgrade_of(request.headers());
        let (caller, request) = self.for_workload(request, protocol.as_ref());
        let answered = tokio::time::timeout(self.limits.timeout.0.duration(), client.request(request)).await;
        self.latencies.record(began.elapsed());
        let reason = match answered {
            Ok(Ok(response)) if response.status() == http::StatusCode::SWITCHING_PROTOCOLS => {
                return super::upgrade::pass(caller, response, protocol, in_flight);
            }
            Ok(Ok(response)) => {
                if response.status().is_server_error() {
                    self.failed.add();
                }
                let (mut parts, body) = response.into_parts();
                strip_hop_by_hop(&mut parts.headers);
                return Response::from_parts(parts, Answer::Upstream(body, Watch::over(Some(in_flight))));
            }
            Ok(Err(error)) => match attempt::ended(&error) {
                Ended::NotConnected => Reason::NotConnected,
                _ => Reason::Ambiguous,
            },
            Err(_) => Reason::TimedOut,
        };
        self.failed.add();
        refusal(reason, "inbound", None, grpc)
    }

    fn for_workload(
        &self,
        mut request: Request<Incoming>,
        protocol: Option<&HeaderValue>,
    ) -> (Option<hyper::upgrade::OnUpgrade>, Request<SentBody>) {
        let caller = protocol.map(|_| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        if let Some(protocol) = protocol {
            parts.headers.insert(http::header::CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(http::header::UPGRADE, protocol.clone());
        }
        // The workload sees the name by which it was called: HTTP/2 has it in the address, not in a header.
        if let Some(name) = parts.uri.authority().and_then(|name| HeaderValue::try_from(name.as_str()).ok())
            && !parts.headers.contains_key(http::header::HOST)
        {
            parts.headers.insert(http::header::HOST, name);
        }
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = parts.uri.path_and_query().cloned().or_else(|| Some(http::uri::PathAndQuery::from_static("/")));
        parts.uri = Uri::from_parts(uri).unwrap_or_default();
        (caller, Request::from_parts(parts, Sent::streaming(body).body()))
    }
}
