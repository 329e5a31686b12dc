//! A dependency and its providers as requests need them.

use std::sync::Arc;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::current::Current;
use crate::provider::Provider;
use crate::queue::Queue;
use crate::routes::convert;
use crate::routes::shared::Shared;
use crate::routes::upstream::Upstream;
use mrg_policy::{BasePath, CheckedAnswer, Dependency};

/// One provider as requests need it.
pub(crate) struct Target {
    /// Its breaker and counters.
    pub provider: Arc<Provider>,
    /// Its name.
    pub name: HeaderValue,
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Where it is.
    pub authority: Authority,
    /// What every path begins with.
    pub base: BasePath,
    /// What is set on every request.
    pub headers: HeaderMap,
    /// Which requests are for it: those whose header has one of these values.
    pub accepts: Option<(HeaderName, Vec<HeaderValue>)>,
    /// The path of its health check; `None`: it has none.
    pub health_path: Option<PathAndQuery>,
}

impl Target {
    /// The path at the provider for the path of a request; `None` if both together are too long.
    pub(crate) fn path(&self, asked: &PathAndQuery) -> Option<PathAndQuery> {
        let base = self.base.as_str();
        if base.is_empty() {
            return Some(asked.clone());
        }
        PathAndQuery::try_from(format!("{base}{asked}")).ok()
    }
}

/// The fixed answer of a fallback.
pub(crate) struct StaticAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: String,
}

impl StaticAnswer {
    /// The answer as it was checked.
    pub(super) fn new(checked: &CheckedAnswer) -> Self {
        Self {
            status: convert::status(checked.status),
            headers: convert::headers(&checked.headers),
            body: checked.body.clone(),
        }
    }
}

/// One dependency as requests need it.
pub(crate) struct Route {
    /// As configured.
    pub spec: Dependency,
    /// The client of its providers.
    pub client: Upstream,
    /// Its providers, in order.
    pub targets: Vec<Target>,
    /// What survives changes.
    pub shared: Arc<Shared>,
    /// Methods whose requests may be sent twice.
    pub repeatable: Vec<Method>,
    /// The header with which a request of any method may be sent twice; `None`: none has one.
    pub idempotency: Option<HeaderName>,
    /// The header that names what a request is about.
    pub pin: Option<HeaderName>,
    /// Where requests wait that no provider served; `None` if none are kept.
    pub queue: Option<Arc<Queue>>,
    /// The header by which the queue knows a request.
    pub queue_key: Option<HeaderName>,
    /// The answer where no provider gives one.
    pub static_answer: Option<StaticAnswer>,
}

/// Where each listener finds its dependency; a push replaces it.
pub(crate) type CurrentRoute = Current<Route>;
