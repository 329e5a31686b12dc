//! Calls to the workload: so many at a time, and no longer than they may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

use crate::answer::{is_grpc, refusal};
use crate::body::{Answer, Sent, SentBody, Watch};
use crate::client::attempt;
use crate::counters::{Concurrency, Counter};
use crate::headers::{NOT_PROCESSED, strip_hop_by_hop, upgrade_of};
use crate::routes::convert;
use crate::routes::provider::{Permit, Provider};
use mrg_breaker::{Mode, Outcome, Settings};
use mrg_policy::{Canary, CanaryReport, CheckedInbound, Ended, Inbound, LaneReport, Reason, Route};
use mrg_telemetry::Histogram;

/// What stands between callers and the workload.
pub(crate) struct Admission {
    limits: Inbound,
    authority: Authority,
    canary: Option<CanaryUpstream>,
    routes: Vec<(Route, CanaryUpstream)>,
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

/// The canary upstream the workload, and how both fare.
struct CanaryUpstream {
    spec: Canary,
    authority: Authority,
    number: AtomicU64,
    /// Its breaker: while it is open, the canary's share goes to the workload.
    provider: Arc<Provider>,
    /// Whether it has answered once. Its first pod may be ready before every node knows the way to
    /// it: that speaks against nobody.
    reached: AtomicBool,
    /// Until then one request at a time looks for it.
    probe: Semaphore,
    canary: TrafficStats,
    stable: TrafficStats,
}

#[derive(Default)]
struct TrafficStats {
    requests: Counter,
    failed: Counter,
    latencies: Histogram,
}

impl TrafficStats {
    fn count(&self, took: Duration, failed: bool) {
        self.requests.add();
        self.latencies.record(took);
        if failed {
            self.failed.add();
        }
    }

    fn report(&self) -> LaneReport {
        LaneReport {
            requests: self.requests.get(),
            failed: self.failed.get(),
            latencies: self.latencies.counts(),
        }
    }
}

impl CanaryUpstream {
    fn new(spec: Canary, authority: &mrg_policy::Authority, changes: &watch::Sender<u64>) -> Self {
        Self {
            authority: convert::authority(authority),
            number: AtomicU64::new(0),
            provider: Arc::new(Provider::new(
                format!("canary {}", spec.trial),
                Mode::Enforce,
                Settings::default(),
                changes.clone(),
            )),
            reached: AtomicBool::new(false),
            probe: Semaphore::new(1),
            canary: TrafficStats::default(),
            stable: TrafficStats::default(),
            spec,
        }
    }

    fn report(&self) -> CanaryReport {
        CanaryReport {
            trial: self.spec.trial.clone(),
            share: self.spec.share,
            opened: self.provider.opened.get(),
            canary: self.canary.report(),
            stable: self.stable.report(),
        }
    }

    fn turn(&self) -> Option<CanaryTurn<'_>> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        if !self.spec.takes(number) {
            return None;
        }
        let probe = if self.reached.load(Ordering::Relaxed) {
            None
        } else {
            Some(self.probe.try_acquire().ok()?)
        };
        Some(CanaryTurn {
            upstream: self,
            permit: self.provider.admit().ok()?,
            _probe: probe,
        })
    }

    /// What came of a turn.
    fn took(&self, permit: Permit, took: Duration, answered: &Answered) {
        let connected =
            !matches!(answered, Ok(Err(error)) if attempt::ended(error) == Ended::NotConnected);
        if connected {
            self.reached.store(true, Ordering::Relaxed);
        } else if !self.reached.load(Ordering::Relaxed) && took < AT_ONCE {
            return permit.end(Outcome::Excluded);
        }
        let has_failed = failed(answered);
        self.canary.count(took, has_failed);
        permit.end(if has_failed {
            Outcome::Failure
        } else {
            Outcome::Success
        });
    }
}

/// A connection that is refused this soon has cost the caller nothing.
const AT_ONCE: Duration = Duration::from_millis(100);

/// A request that goes upstream the workload.
struct CanaryTurn<'a> {
    upstream: &'a CanaryUpstream,
    permit: Permit,
    _probe: Option<SemaphorePermit<'a>>,
}

/// Where a request goes; and upstream whom its answer is counted.
struct RouteChoice<'a> {
    to: Option<CanaryTurn<'a>>,
    counted: Option<&'a CanaryUpstream>,
}

/// What came of a request to one of the two.
type Answered = Result<
    Result<Response<Incoming>, hyper_util::client::legacy::Error>,
    tokio::time::error::Elapsed,
>;

impl Admission {
    /// One whose workload listens on the loopback of the pod.
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
            one: builder().build(connector()),
            two: builder().http2_only(true).build(connector()),
            concurrency: Concurrency::default(),
            latencies: Histogram::default(),
            refused: Counter::default(),
            failed: Counter::default(),
        }
    }

    /// One in place of another: connections stay; what is counted of a trial begins anew.
    pub(crate) fn after(
        before: &Self,
        limits: Inbound,
        parsed: &CheckedInbound,
        changes: &watch::Sender<u64>,
    ) -> Self {
        let mut admission = Self::new(limits, parsed, changes);
        if admission.limits.target_port == before.limits.target_port {
            (admission.one, admission.two) = (before.one.clone(), before.two.clone());
        }
        admission
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

    /// What it was made with.
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
        let client = if http2 { &self.two } else { &self.one };
        let protocol = upgrade_of(request.headers());
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
        let reason = match answered {
            Ok(Ok(response)) if response.status() == http::StatusCode::SWITCHING_PROTOCOLS => {
                return crate::client::upgrade::pass(caller, response, protocol, in_flight);
            }
            Ok(Ok(response)) => {
                if response.status().is_server_error() {
                    self.failed.add();
                }
                let (mut parts, body) = response.into_parts();
                strip_hop_by_hop(&mut parts.headers);
                return Response::from_parts(
                    parts,
                    Answer::Upstream(body, Watch::over(Some(in_flight))),
                );
            }
            Ok(Err(error)) => match attempt::ended(&error) {
                Ended::NotConnected => Reason::NotConnected,
                _ => Reason::Ambiguous,
            },
            Err(_) => Reason::TimedOut,
        };
        self.failed.add();
        let answer = refusal(reason, "inbound", None, grpc);
        if reason == Reason::NotConnected {
            not_processed(answer)
        } else {
            answer
        }
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
        // What a route leaves to the workload, its canary gets its share of.
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

    /// The answer of who stands upstream the workload; the workload's own, if the other cannot be
    /// reached.
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
        upstream.took(permit, began.elapsed(), &answered);
        match &answered {
            // Nothing of it was sent.
            Ok(Err(error)) if attempt::ended(error) == Ended::NotConnected && body.is_whole() => {
                self.call_workload(Some(upstream), client, parts, &body)
                    .await
            }
            _ => answered,
        }
    }

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
        // The workload sees the name by which it was called: HTTP/2 has it in the address, not in a
        // header.
        if let Some(name) = parts
            .uri
            .authority()
            .and_then(|name| HeaderValue::try_from(name.as_str()).ok())
            && !parts.headers.contains_key(http::header::HOST)
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
        (caller, parts, Sent::streaming(body))
    }
}

/// Tells the caller's sidecar that the request may be sent again, or kept.
fn not_processed(mut answer: Response<Answer>) -> Response<Answer> {
    answer
        .headers_mut()
        .insert(NOT_PROCESSED, HeaderValue::from_static("1"));
    answer
}

/// Whether an answer speaks against who gave it.
fn failed(answered: &Answered) -> bool {
    !matches!(answered, Ok(Ok(response)) if !response.status().is_server_error())
}
