//! A call of the workload to one of its dependencies. The order of things: concurrency, total
//! deadline, providers in order, retries, breaker, attempt; then the fallback.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, RETRY_AFTER};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::answer::{is_grpc, own, queued, refusal};
use crate::body::{Answer, Sent, Watch};
use crate::cache::recorder::{self, Recorder};
use crate::client::attempt::{Head, attempt};
use crate::client::upgrade;
use crate::counters::InFlight;
use crate::headers::{PROVIDER, strip_hop_by_hop, upgrade_of};
use crate::queue::{Enqueued, Status};
use crate::routes::provider::Permit;
use crate::routes::table::{Route, Target};
use mrg_base::{Millis, lock};
use mrg_breaker::{Outcome, Refusal};
use mrg_policy::{Attempt, Ended, Next, OnAmbiguous, Reason, grpc_outcome};

/// Serves one request.
pub(crate) async fn serve(route: Arc<Route>, request: Request<Incoming>) -> Response<Answer> {
    let began = Instant::now();
    let grpc = is_grpc(request.headers());
    let Some(in_flight) = route.shared.concurrency.enter(route.spec.max_concurrent) else {
        return unserved(&route, Reason::TooManyConcurrent, None, grpc);
    };
    if let Some(protocol) = upgrade_of(request.headers()) {
        return Box::pin(upgrade::serve(&route, request, protocol, in_flight)).await;
    }
    let response = Call::new(&route, request).await;
    let response = match response {
        Ok(call) => call.run(began, in_flight).await,
        Err(response) => response,
    };
    route.shared.latencies.record(began.elapsed());
    response
}

fn unserved(
    route: &Route,
    reason: Reason,
    retry_after: Option<Millis>,
    grpc: bool,
) -> Response<Answer> {
    if let Some(counter) = Reason::ALL
        .iter()
        .position(|each| *each == reason)
        .and_then(|at| route.shared.unserved.get(at))
    {
        counter.add();
    }
    refusal(reason, &route.spec.name, retry_after, grpc)
}

/// A request with what was found out about it.
struct Call<'a> {
    route: &'a Arc<Route>,
    head: Head,
    body: Sent,
    traits: mrg_policy::Request,
    pinned: Option<(String, Option<usize>)>,
}

/// Why nobody has served it.
struct Unserved {
    reason: Reason,
    retry_after: Option<Millis>,
}

impl<'a> Call<'a> {
    async fn new(
        route: &'a Arc<Route>,
        request: Request<Incoming>,
    ) -> Result<Self, Response<Answer>> {
        let (mut parts, body) = request.into_parts();
        let grpc = is_grpc(&parts.headers);
        strip_hop_by_hop(&mut parts.headers);
        // The client that speaks to the provider names it.
        parts.headers.remove(HOST);
        // The server has answered 100 already when the body is read.
        parts.headers.remove(EXPECT);
        let safe = matches!(
            parts.method,
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE
        );
        let keyed = route
            .idempotency
            .as_ref()
            .is_some_and(|name| parts.headers.contains_key(name));
        let traits = mrg_policy::Request {
            safe,
            repeatable: keyed || route.repeatable.contains(&parts.method),
        };
        let pinned = pinned(route, &parts.headers);
        let path = parts
            .uri
            .path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"));
        let body = receive(route, traits, &parts.headers, body).await?;
        Ok(Self {
            route,
            head: Head {
                method: parts.method,
                path,
                headers: parts.headers,
                grpc,
            },
            body,
            traits,
            pinned,
        })
    }

    async fn run(self, began: Instant, in_flight: InFlight) -> Response<Answer> {
        let deadline = began + self.route.spec.timeout.total.0.duration();
        let now = mrg_clock::now();
        lock(&self.route.shared.budget).request(now);
        match self.providers(deadline, Some(in_flight)).await {
            Ok(response) => self.or_fallback(response),
            // Every connection has room for what a request may need: what few need is not part of
            // it.
            Err(unserved) => match Box::pin(self.queue(&unserved)).await {
                Some(response) => response,
                None => self.fall_back(&unserved),
            },
        }
    }

    /// Keeps the request for later, if it is one that can be.
    async fn queue(&self, why: &Unserved) -> Option<Response<Answer>> {
        let (queue, limits) = (
            self.route.queue.as_ref()?,
            self.route.spec.fallback.queue.as_ref()?,
        );
        let status = match why.reason {
            Reason::BreakerOpen | Reason::NotConnected | Reason::NotAccepted => Status::Waiting,
            Reason::Ambiguous | Reason::TimedOut
                if self.route.spec.on_ambiguous == OnAmbiguous::Queue =>
            {
                Status::NeedsReview
            }
            _ => return None,
        };
        let refuse = |reason| {
            Some(unserved(
                self.route,
                reason,
                why.retry_after,
                self.head.grpc,
            ))
        };
        if !limits
            .methods
            .iter()
            .any(|method| self.head.method.as_str() == method)
        {
            return None;
        }
        let key = self
            .route
            .queue_key
            .as_ref()
            .and_then(|name| self.head.headers.get(name)?.to_str().ok())
            .filter(|key| !key.is_empty());
        let (Some(key), Sent::Empty | Sent::Whole(_)) = (key, &self.body) else {
            return refuse(Reason::NotQueueable);
        };
        let body = if let Sent::Whole(body) = &self.body {
            body.clone()
        } else {
            Bytes::new()
        };
        match queue
            .enqueue(&self.route.spec.name, key, &self.head, body, status, limits)
            .await
        {
            Ok(Enqueued::Ticket(ticket, status)) => {
                self.route.shared.fallbacks.add();
                Some(queued(&self.route.spec.name, &ticket, status, why.reason))
            }
            Ok(Enqueued::Full) => refuse(Reason::QueueFull),
            Err(error) => {
                tracing::error!(
                    dependency = self.route.spec.name,
                    error = mrg_telemetry::chain(&error),
                    "a request could not be kept"
                );
                refuse(Reason::QueueUnavailable)
            }
        }
    }

    /// A better answer than an error, if there is one (RFC 5861, "stale-if-error", names the same
    /// statuses); else the provider's own words.
    fn or_fallback(&self, response: Response<Answer>) -> Response<Answer> {
        if !matches!(response.status().as_u16(), 500 | 502..=504) || self.head.grpc {
            return response;
        }
        self.fallback_response(Reason::Failed).unwrap_or(response)
    }

    fn fall_back(&self, why: &Unserved) -> Response<Answer> {
        self.fallback_response(why.reason)
            .unwrap_or_else(|| unserved(self.route, why.reason, why.retry_after, self.head.grpc))
    }

    /// The last good answer, or a fixed one.
    fn fallback_response(&self, why: Reason) -> Option<Response<Answer>> {
        let fallback = &self.route.spec.fallback;
        if let Some(limits) = fallback
            .stale
            .as_ref()
            .filter(|_| self.head.method == Method::GET)
            && let Some(response) = recorder::answer(
                &self.route.shared.answers,
                limits,
                self.head.path.as_str(),
                why,
            )
        {
            self.route.shared.fallbacks.add();
            return Some(response);
        }
        let fixed = self.route.static_answer.as_ref()?;
        self.route.shared.fallbacks.add();
        let mut response = own(fixed.status, "application/json", fixed.body.clone());
        for (name, value) in &fixed.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response
            .headers_mut()
            .insert(crate::headers::REASON, HeaderValue::from_static(why.name()));
        Some(response)
    }

    async fn providers(
        &self,
        deadline: Instant,
        mut in_flight: Option<InFlight>,
    ) -> Result<Response<Answer>, Unserved> {
        let eligible = |provider: usize| {
            self.route
                .targets
                .get(provider)
                .is_some_and(|target| accepts(target, &self.head.headers))
        };
        let pinned = self.pinned.as_ref().and_then(|(_, provider)| *provider);
        let order = lock(&self.route.shared.order).order(eligible, pinned, mrg_clock::now());
        let mut why = Unserved {
            reason: Reason::NoProvider,
            retry_after: None,
        };
        for (turn, index) in order.iter().enumerate() {
            let Some(target) = self.route.targets.get(*index) else {
                continue;
            };
            let more = turn + 1 < order.len();
            match self.call_provider(target, more, deadline).await {
                CallOutcome::Answered(ended, response, permit) => {
                    if turn > 0 {
                        self.route.shared.failovers.add();
                    }
                    self.pin(*index);
                    return Ok(self.answer(target, ended, response, permit, in_flight.take()));
                }
                CallOutcome::Refused(refusal) => {
                    lock(&self.route.shared.order).left(*index, mrg_clock::now());
                    let left = match refusal {
                        Refusal::Open { retry_after } => retry_after,
                        Refusal::TooManyProbes => Millis::seconds(1),
                    };
                    // What was learned by asking somebody says more than a refusal; the first to
                    // open again says when to come back.
                    if matches!(why.reason, Reason::NoProvider | Reason::BreakerOpen) {
                        let soonest = why.retry_after.map_or(left, |known| known.min(left));
                        why = Unserved {
                            reason: Reason::BreakerOpen,
                            retry_after: Some(soonest),
                        };
                    }
                }
                CallOutcome::Next(reason) => {
                    if target.provider.open_for().is_some() {
                        lock(&self.route.shared.order).left(*index, mrg_clock::now());
                    }
                    why = Unserved {
                        reason,
                        retry_after: None,
                    };
                }
                CallOutcome::GiveUp(reason) => {
                    return Err(Unserved {
                        reason,
                        retry_after: None,
                    });
                }
            }
        }
        Err(why)
    }

    /// Asks one provider, as often as it may be.
    async fn call_provider(
        &self,
        target: &Target,
        more_providers: bool,
        deadline: Instant,
    ) -> CallOutcome {
        let spec = &self.route.spec;
        let mut number = 1;
        loop {
            let permit = match target.provider.admit() {
                Ok(permit) => permit,
                Err(refusal) => return CallOutcome::Refused(refusal),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = spec.timeout.attempt.0.duration().min(left);
            let (ended, response) =
                attempt(self.route, target, &self.head, &self.body, limit).await;
            let pause = pause(
                spec.retry.backoff,
                number,
                response.as_ref().map(Response::headers),
            );
            let enough_time = deadline.saturating_duration_since(Instant::now()) > pause;
            let attempt = Attempt {
                request: self.traits,
                body_is_whole: self.body.is_whole(),
                may_retry: number < spec.retry.attempts,
                more_providers,
            };
            let mut next = mrg_policy::next(spec, attempt, ended);
            if next == Next::Retry
                && !(enough_time && lock(&self.route.shared.budget).take_retry(mrg_clock::now()))
            {
                next = mrg_policy::next(
                    spec,
                    Attempt {
                        may_retry: false,
                        ..attempt
                    },
                    ended,
                );
            }
            if let (Next::Answer, Some(response)) = (next, response) {
                return CallOutcome::Answered(ended, response, permit);
            }
            permit.end(ended.outcome(&spec.breaker.failure_statuses));
            match next {
                Next::Retry => {
                    self.route.shared.retries.add();
                    number += 1;
                    tokio::time::sleep(pause).await;
                }
                Next::NextProvider(reason) => return CallOutcome::Next(reason),
                Next::GiveUp(reason) => return CallOutcome::GiveUp(reason),
                Next::Answer => return CallOutcome::GiveUp(Reason::Ambiguous),
            }
        }
    }

    fn answer(
        &self,
        target: &Target,
        ended: Ended,
        response: Response<Incoming>,
        permit: Permit,
        in_flight: Option<InFlight>,
    ) -> Response<Answer> {
        let (mut parts, body) = response.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        if self.route.targets.len() > 1 {
            parts.headers.insert(PROVIDER, target.name.clone());
        }
        let mut watch = Watch::over(in_flight);
        watch.grpc = self.head.grpc;
        match ended {
            Ended::Grpc(status) => permit.end(grpc_outcome(status)),
            _ => match ended.outcome(&self.route.spec.breaker.failure_statuses) {
                Outcome::Success if !body.is_end_stream() => watch.permit = Some(permit),
                outcome => permit.end(outcome),
            },
        }
        if let Some(limits) = &self.route.spec.fallback.stale
            && self.head.method == Method::GET
            && parts.status == StatusCode::OK
        {
            let mut copy = Response::new(());
            *copy.status_mut() = parts.status;
            copy.headers_mut().clone_from(&parts.headers);
            let recorder = Recorder::new(
                &self.route.shared.answers,
                limits,
                self.head.path.as_str().to_owned(),
                &copy,
            );
            if body.is_end_stream() {
                recorder.store();
            } else {
                watch.recorder = Some(recorder);
            }
        }
        watch.patience = self.route.spec.timeout.attempt.0.duration();
        Response::from_parts(parts, Answer::Upstream(body, watch))
    }

    fn pin(&self, provider: usize) {
        if let Some((thing, _)) = &self.pinned
            && let Some(spec) = self.route.spec.providers.get(provider)
        {
            lock(&self.route.shared.affinity).set(thing, &spec.name, mrg_clock::now());
        }
    }
}

/// How sending a request from the queue ended.
pub(crate) enum Resent {
    /// With this status.
    Answered(u16),
    /// It did not.
    Unserved(Reason, Option<Millis>),
}

/// Sends a request from the queue, like any other.
pub(crate) async fn send_again(route: &Arc<Route>, head: Head, body: Bytes) -> Resent {
    let deadline = Instant::now() + route.spec.timeout.total.0.duration();
    let keyed = route
        .idempotency
        .as_ref()
        .is_some_and(|name| head.headers.contains_key(name));
    let traits = mrg_policy::Request {
        safe: false,
        repeatable: keyed,
    };
    let pinned = pinned(route, &head.headers);
    let body = if body.is_empty() {
        Sent::Empty
    } else {
        Sent::Whole(body)
    };
    let call = Call {
        route,
        head,
        body,
        traits,
        pinned,
    };
    match call.providers(deadline, None).await {
        Ok(response) => {
            let status = response.status().as_u16();
            // Its body tells the breaker how it ended.
            let _ = tokio::time::timeout_at(deadline, response.into_body().collect()).await;
            Resent::Answered(status)
        }
        Err(why) => Resent::Unserved(why.reason, why.retry_after),
    }
}

enum CallOutcome {
    Answered(Ended, Response<Incoming>, Permit),
    Refused(Refusal),
    Next(Reason),
    GiveUp(Reason),
}

/// Between zero and the pause that doubles each time; no shorter than the answer asks for.
fn pause(backoff: mrg_policy::Backoff, number: u32, headers: Option<&HeaderMap>) -> Duration {
    let doubled = backoff
        .initial
        .0
        .duration()
        .saturating_mul(1 << (number - 1).min(16));
    let limit = doubled.min(backoff.max.0.duration());
    let asked = headers
        .and_then(|headers| headers.get(RETRY_AFTER))
        .and_then(|value| value.to_str().ok()?.parse().ok());
    limit
        .mul_f64(rand::random::<f64>())
        .max(Duration::from_secs(asked.unwrap_or(0)))
}

fn accepts(target: &Target, headers: &HeaderMap) -> bool {
    target.accepts.as_ref().is_none_or(|(name, values)| {
        headers
            .get(name)
            .is_some_and(|value| values.contains(value))
    })
}

/// What the request is about, and who served that before.
fn pinned(route: &Route, headers: &HeaderMap) -> Option<(String, Option<usize>)> {
    let thing = headers.get(route.pin.as_ref()?)?.to_str().ok()?.to_owned();
    let keep = route.spec.pin.as_ref()?.keep.0;
    let affinity = lock(&route.shared.affinity);
    let known = affinity.get(&thing, keep, mrg_clock::now());
    // The workload may know better, after a restart of this proxy.
    let known = known.or_else(|| headers.get(PROVIDER)?.to_str().ok());
    let index = known.and_then(|name| {
        route
            .spec
            .providers
            .iter()
            .position(|provider| provider.name == name)
    });
    Some((thing, index))
}

/// The body: kept where the request might be sent again and it is short enough, else streamed.
async fn receive(
    route: &Route,
    traits: mrg_policy::Request,
    headers: &HeaderMap,
    body: Incoming,
) -> Result<Sent, Response<Answer>> {
    if body.is_end_stream() {
        return Ok(Sent::Empty);
    }
    let spec = &route.spec;
    let again = (traits.repeatable && spec.retry.attempts > 1) || spec.providers.len() > 1;
    let queued = route
        .queue_key
        .as_ref()
        .filter(|name| headers.contains_key(*name))
        .and(spec.fallback.queue.as_ref());
    let limit = if again {
        u64::from(spec.retry.max_body_bytes)
    } else {
        0
    };
    let limit = limit.max(queued.map_or(0, |queue| u64::from(queue.max_body_bytes)));
    let known = headers
        .get(CONTENT_LENGTH)
        .and_then(|_| body.size_hint().exact());
    if known.is_none_or(|length| length > limit) {
        return Ok(Sent::streaming(body));
    }
    let slow = || {
        own(
            StatusCode::REQUEST_TIMEOUT,
            "text/plain",
            "the request's body did not come in time\n".to_owned(),
        )
    };
    let broken = || {
        own(
            StatusCode::BAD_REQUEST,
            "text/plain",
            "the request's body ended early\n".to_owned(),
        )
    };
    let collected = tokio::time::timeout(spec.timeout.total.0.duration(), body.collect())
        .await
        .map_err(|_| slow())?;
    let bytes: Bytes = collected.map_err(|_| broken())?.to_bytes();
    Ok(Sent::Whole(bytes))
}
