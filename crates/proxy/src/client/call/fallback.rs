//! What stands in for the answer of a provider.

use http::{HeaderValue, Method, Response};

use super::{Call, Unserved, unserved};
use crate::answer::own;
use crate::body::Answer;
use crate::cache::recorder;
use crate::headers::REASON;
use mrg_policy::Reason;

impl Call<'_> {
    /// A fallback in place of an error, if there is one (RFC 5861, "stale-if-error", names the same
    /// statuses); else the provider's own answer.
    pub(super) fn or_fallback(&self, response: Response<Answer>) -> Response<Answer> {
        if !matches!(response.status().as_u16(), 500 | 502..=504) || self.head.grpc {
            return response;
        }
        self.fallback_response(Reason::Failed).unwrap_or(response)
    }

    /// A fallback, or why there is no answer.
    pub(super) fn fall_back(&self, why: &Unserved) -> Response<Answer> {
        self.fallback_response(why.reason)
            .unwrap_or_else(|| unserved(self.route, why.reason, why.retry_after, self.head.grpc))
    }

    /// The cached answer, or the fixed one.
    fn fallback_response(&self, why: Reason) -> Option<Response<Answer>> {
        let fallback = &self.route.spec.fallback;
        if let Some(limits) = fallback
            .stale
            .as_ref()
            .filter(|_| self.head.method == Method::GET)
            && let Some(response) =
                recorder::lookup(&self.route.shared.responses, limits, &self.head, why)
        {
            self.route.shared.fallbacks.add();
            return Some(response.map(Answer::own));
        }
        let fixed = self.route.static_answer.as_ref()?;
        self.route.shared.fallbacks.add();
        let mut response = own(fixed.status, "application/json", fixed.body.clone());
        for (name, value) in &fixed.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response
            .headers_mut()
            .insert(REASON, HeaderValue::from_static(why.name()));
        Some(response)
    }
}
