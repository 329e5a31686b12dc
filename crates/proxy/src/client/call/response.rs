//! The answer of a provider on its way to the caller.

use http::response::Parts;
use http::{Method, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use super::Call;
use crate::body::{Answer, Watch};
use crate::cache::recorder::{self, Recorder};
use crate::counters::InFlight;
use crate::headers::{PROVIDER, strip_hop_by_hop};
use crate::provider::Permit;
use crate::routes::route::Target;
use mrg_breaker::Outcome;
use mrg_policy::{Ended, grpc_outcome};

impl Call<'_> {
    /// Passes the answer on. Its body reports the outcome to the breaker once it has ended, and is
    /// recorded where a stale answer may stand in later.
    pub(super) fn answer(
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
                Outcome::Success if !body.is_end_stream() => {
                    let patience = self.route.spec.timeout.attempt.0.duration();
                    let may_be_quiet = body.size_hint().exact().is_none();
                    watch.hold_permit(permit, patience, may_be_quiet);
                }
                outcome => permit.end(outcome),
            },
        }
        if let Some(recorder) = self.recorder(&parts) {
            if body.is_end_stream() {
                recorder.store();
            } else {
                watch.recorder = Some(recorder);
            }
        }
        Response::from_parts(parts, Answer::Upstream(body, watch))
    }

    /// Records the answer if it may stand in later.
    fn recorder(&self, parts: &Parts) -> Option<Recorder> {
        let limits = self.route.spec.fallback.stale.as_ref()?;
        if self.head.method != Method::GET {
            return None;
        }
        let cache = &self.route.shared.responses;
        if matches!(
            parts.status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ) {
            recorder::forget(cache, &self.head);
        }
        if parts.status != StatusCode::OK {
            return None;
        }
        let mut copy = Response::new(());
        *copy.status_mut() = parts.status;
        copy.headers_mut().clone_from(&parts.headers);
        Recorder::new(cache, limits, &self.head, &copy)
    }
}
