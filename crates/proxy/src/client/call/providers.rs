//! Which providers get the request, and how often.

use std::time::Duration;

use http::{HeaderMap, Response};
use hyper::body::Incoming;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Call, Unserved};
use crate::body::Answer;
use crate::client::attempt::attempt;
use crate::counters::InFlight;
use crate::headers::PROVIDER;
use crate::provider::Permit;
use crate::retry_after::retry_after;
use crate::routes::route::{Route, Target};
use mrg_base::{Millis, lock};
use mrg_breaker::Refusal;
use mrg_policy::{Attempt, Ended, Next, Reason};

/// What came of one provider.
enum CallOutcome {
    Answered(Ended, Response<Incoming>, Permit),
    Refused(Refusal),
    Next(Reason),
    GiveUp(Reason),
}

impl Unserved {
    /// The reason after another breaker has refused. What an attempt has shown says more than a
    /// refusal; of refusals, the breaker that half-opens first says when to come back.
    fn after_refusal(self, refusal: Refusal) -> Self {
        if !matches!(self.reason, Reason::NoProvider | Reason::BreakerOpen) {
            return self;
        }
        let left = match refusal {
            Refusal::Open { retry_after } => retry_after,
            Refusal::TooManyProbes => Millis::seconds(1),
        };
        let soonest = self.retry_after.map_or(left, |known| known.min(left));
        Self {
            reason: Reason::BreakerOpen,
            retry_after: Some(soonest),
        }
    }
}

impl Call<'_> {
    /// Tries the providers in order until one answers.
    ///
    /// # Errors
    /// If none answered, with the reason of the last attempt, or of the refusals if there was none.
    pub(super) async fn providers(
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
                    why = why.after_refusal(refusal);
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

    /// Sends the request to one provider, as often as the policy allows.
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

    /// Remembers the provider for later requests about the same thing.
    fn pin(&self, provider: usize) {
        if let Some((thing, _)) = &self.pinned
            && let Some(spec) = self.route.spec.providers.get(provider)
        {
            lock(&self.route.shared.affinity).set(thing, &spec.name, mrg_clock::now());
        }
    }
}

/// The pause before the next attempt: random between zero and a limit that doubles each time, and no
/// shorter than `Retry-After`.
fn pause(backoff: mrg_policy::Backoff, number: u32, headers: Option<&HeaderMap>) -> Duration {
    let doubled = backoff
        .initial
        .0
        .duration()
        .saturating_mul(1 << (number - 1).min(16));
    let limit = doubled.min(backoff.max.0.duration());
    let asked = headers.and_then(|headers| retry_after(headers, Timestamp::now()));
    limit
        .mul_f64(rand::random::<f64>())
        .max(asked.unwrap_or_default())
}

/// Whether a provider takes requests with these headers.
fn accepts(target: &Target, headers: &HeaderMap) -> bool {
    target.accepts.as_ref().is_none_or(|(name, values)| {
        headers
            .get(name)
            .is_some_and(|value| values.contains(value))
    })
}

/// What the request is about, and the provider that served that before.
pub(super) fn pinned(route: &Route, headers: &HeaderMap) -> Option<(String, Option<usize>)> {
    let thing = headers.get(route.pin.as_ref()?)?.to_str().ok()?.to_owned();
    let keep = route.spec.pin.as_ref()?.keep.0;
    let affinity = lock(&route.shared.affinity);
    let known = affinity.get(&thing, keep, mrg_clock::now());
    // After a restart of this proxy the workload may still know it, from an earlier answer.
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
