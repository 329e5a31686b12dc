//! Connections that become something else, such as `WebSockets`. Their heads count for the breaker
//! like any other, but `accepts` and `pin` are not looked at, and nothing is retried; then bytes are
//! passed on.

use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, UPGRADE};
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::answer::refusal;
use crate::body::{Answer, Sent, Watch};
use crate::client::attempt::attempt;
use crate::counters::InFlight;
use crate::head::Head;
use crate::headers::strip_hop_by_hop;
use crate::routes::route::Route;
use mrg_base::lock;
use mrg_policy::Reason;

/// How long both sides may take to switch protocols once the provider has agreed.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves such a request: one attempt at the first provider whose breaker lets it through.
pub(crate) async fn serve(
    route: &Arc<Route>,
    mut request: Request<Incoming>,
    protocol: HeaderValue,
    hold: InFlight,
) -> Response<Answer> {
    let caller = hyper::upgrade::on(&mut request);
    let (mut parts, _) = request.into_parts();
    strip_hop_by_hop(&mut parts.headers);
    parts.headers.remove(HOST);
    parts
        .headers
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(UPGRADE, protocol.clone());
    let path = parts
        .uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    let head = Head {
        method: parts.method,
        path,
        headers: parts.headers,
        grpc: false,
    };
    let order = lock(&route.shared.order).order(|_| true, None, mrg_clock::now());
    let admitted = order
        .into_iter()
        .filter_map(|index| route.targets.get(index))
        .find_map(|target| Some((target, target.provider.admit().ok()?)));
    let Some((target, permit)) = admitted else {
        return refusal(Reason::BreakerOpen, &route.spec.name, None, false);
    };
    let (ended, response) = attempt(
        route,
        target,
        &head,
        &Sent::Empty,
        route.spec.timeout.attempt.0.duration(),
    )
    .await;
    permit.end(ended.outcome(&route.spec.breaker.failure_statuses));
    let Some(response) = response else {
        return refusal(Reason::Ambiguous, &route.spec.name, None, false);
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (mut parts, body) = response.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        return Response::from_parts(parts, Answer::Upstream(body, Watch::over(Some(hold))));
    }
    pass(Some(caller), response, Some(protocol), hold)
}

/// Passes bytes on in both directions, now that the upstream has agreed.
pub(crate) fn pass(
    caller: Option<OnUpgrade>,
    mut response: Response<Incoming>,
    protocol: Option<HeaderValue>,
    hold: InFlight,
) -> Response<Answer> {
    let provider = hyper::upgrade::on(&mut response);
    if let Some(caller) = caller {
        tokio::spawn(async move {
            let _until_the_end = hold;
            let both = async { tokio::try_join!(caller, provider) };
            let Ok(Ok((caller, provider))) = tokio::time::timeout(SWITCH_TIMEOUT, both).await
            else {
                return;
            };
            // An error on either side ends both, and neither has a way to report it.
            let _ = tokio::io::copy_bidirectional(
                &mut TokioIo::new(caller),
                &mut TokioIo::new(provider),
            )
            .await;
        });
    }
    let (mut parts, _) = response.into_parts();
    let agreed = parts.headers.get(UPGRADE).cloned().or(protocol);
    strip_hop_by_hop(&mut parts.headers);
    parts
        .headers
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(agreed) = agreed {
        parts.headers.insert(UPGRADE, agreed);
    }
    Response::from_parts(parts, Answer::Own(None))
}
