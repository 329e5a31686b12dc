//! A call of the workload to one of its dependencies. In order: concurrency, total deadline,
//! providers in order, retries, breaker, attempt; if no provider serves the call, the queue, then
//! the fallback.

mod fallback;
mod providers;
mod queued;
mod receive;
mod resent;
mod response;

use std::sync::Arc;

use http::header::{EXPECT, HOST};
use http::uri::PathAndQuery;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::answer::refusal;
use crate::body::{Answer, Sent};
use crate::client::upgrade;
use crate::counters::InFlight;
use crate::head::Head;
use crate::headers::{is_grpc, strip_hop_by_hop, upgrade_of};
use crate::routes::route::Route;
use mrg_base::{Millis, lock};
use mrg_policy::Reason;
use providers::pinned;
use receive::receive;

pub(crate) use resent::{Resent, send_again};

/// Serves one request.
pub(crate) async fn serve(route: Arc<Route>, request: Request<Incoming>) -> Response<Answer> {
    let began = Instant::now();
    let grpc = is_grpc(request.headers());
    let Some(in_flight) = route.shared.concurrency.enter(route.spec.max_concurrent) else {
        return unserved(&route, Reason::TooManyConcurrent, None, grpc);
    };
    if let Some(protocol) = upgrade_of(&request) {
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

/// A request, and what is known of it before the first attempt.
struct Call<'a> {
    route: &'a Arc<Route>,
    head: Head,
    body: Sent,
    traits: mrg_policy::Request,
    pinned: Option<(String, Option<usize>)>,
}

/// Why no provider has served the call.
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
        // The client sets it to the name of the provider.
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
        // Boxed only for a call that may wait, as below.
        if let Some(key) = self.pending_key()
            && let Some(response) = Box::pin(self.pending(key)).await
        {
            return response;
        }
        match self.providers(deadline, Some(in_flight)).await {
            Ok(response) => self.or_fallback(response),
            // Boxed, since few calls are queued: the future of every call has room for the largest
            // of those that it awaits.
            Err(unserved) => match Box::pin(self.enqueue(&unserved)).await {
                Some(response) => response,
                None => self.fall_back(&unserved),
            },
        }
    }
}
