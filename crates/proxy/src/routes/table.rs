//! A checked configuration, made ready to serve requests: clients, headers and providers. What must
//! survive a change is taken over.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::body::SentBody;
use crate::cache::recorder;
use crate::counters::{Concurrency, Counter};
use crate::queue::Queue;
use crate::routes::affinity::Affinity;
use crate::routes::convert;
use crate::routes::provider::Provider;
use mrg_base::{Millis, Moment};
use mrg_breaker::{Budget, Override, Providers};
use mrg_policy::{
    BasePath, Checked, CheckedAnswer, CheckedDependency, CheckedProvider, Credentials, Dependency,
    Forced, OverrideSpec, Provider as ProviderSpec, Reason, Retry,
};
use mrg_telemetry::Histogram;

/// Connections that upstreams close after a quiet time are the ones on which requests get lost:
/// these are closed first.
const IDLE: Duration = Duration::from_secs(4);

/// Speaks to upstreams.
pub(crate) type Upstream = Client<HttpsConnector<HttpConnector>, SentBody>;

/// Why a configuration cannot run, although it is well-formed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Its values contradict each other.
    #[error("{0}")]
    Refused(#[from] mrg_policy::Problems),
    /// A moment is none.
    #[error("overrides[{index}].until: `{text}` is no moment such as 2026-11-22T18:00:00Z")]
    Until {
        /// Which override.
        index: usize,
        /// What stands there.
        text: String,
        /// Why.
        source: jiff::Error,
    },
    /// A Secret is not there.
    #[error("{field}: unable to read {path}: mount the Secret, or take the credentials out")]
    Credentials {
        /// Where the configuration names it.
        field: String,
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A header cannot be sent.
    #[error("{field}: its value cannot stand in a header")]
    Header {
        /// Where the configuration names it.
        field: String,
    },
    /// A fallback needs a place that the proxy was not given.
    #[error(
        "dependencies[{index}].fallback.queue: start the proxy with --queue-dsn-file, --queue-directory, or both"
    )]
    NoQueue {
        /// Which dependency.
        index: usize,
    },
    /// Providers with https, and no certificates to trust.
    #[error(
        "no certificate authorities found for https; install ca-certificates, or name a file in SSL_CERT_FILE"
    )]
    Roots(#[source] std::io::Error),
}

/// What of a dependency survives changes.
pub(crate) struct Shared {
    /// Requests under way.
    pub concurrency: Concurrency,
    /// Retries left.
    pub budget: Mutex<Budget>,
    budget_settings: (u32, u32),
    /// Who is tried first.
    pub order: Mutex<Providers>,
    order_settings: (Vec<String>, Millis),
    /// Who served what.
    pub affinity: Mutex<Affinity>,
    /// Good answers for bad times.
    pub answers: recorder::Shared,
    /// How long answers took.
    pub latencies: Histogram,
    /// Requests that nobody could serve, by reason.
    pub unserved: [Counter; Reason::ALL.len()],
    /// Attempts after the first.
    pub retries: Counter,
    /// Requests that another than the first provider served.
    pub failovers: Counter,
    /// Answers from a fallback.
    pub fallbacks: Counter,
}

impl Shared {
    fn new(spec: &Dependency) -> Self {
        let (budget_settings, order_settings) =
            (budget_settings(&spec.retry), order_settings(spec));
        Self {
            concurrency: Concurrency::default(),
            budget: Mutex::new(Budget::new(budget_settings.0, budget_settings.1)),
            budget_settings,
            order: Mutex::new(Providers::new(
                spec.providers.len(),
                spec.failback.min_hold.0,
            )),
            order_settings,
            affinity: Mutex::default(),
            answers: recorder::Shared::default(),
            latencies: Histogram::default(),
            unserved: std::array::from_fn(|_| Counter::default()),
            retries: Counter::default(),
            failovers: Counter::default(),
            fallbacks: Counter::default(),
        }
    }

    fn fits(&self, spec: &Dependency) -> bool {
        self.budget_settings == budget_settings(&spec.retry)
            && self.order_settings == order_settings(spec)
    }
}

fn budget_settings(retry: &Retry) -> (u32, u32) {
    (retry.budget_percent, retry.min_per_second)
}

fn order_settings(spec: &Dependency) -> (Vec<String>, Millis) {
    (
        spec.providers
            .iter()
            .map(|provider| provider.name.clone())
            .collect(),
        spec.failback.min_hold.0,
    )
}

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
    /// What its health is asked at, if it is.
    pub health_path: Option<PathAndQuery>,
}

impl Target {
    /// Its path for a request's; `None` if both together are too long for one.
    pub(crate) fn path(&self, asked: &PathAndQuery) -> Option<PathAndQuery> {
        let base = self.base.as_str();
        if base.is_empty() {
            return Some(asked.clone());
        }
        PathAndQuery::try_from(format!("{base}{asked}")).ok()
    }
}

/// An answer that is always the same.
pub(crate) struct StaticAnswer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: String,
}

impl StaticAnswer {
    fn new(checked: &CheckedAnswer) -> Self {
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
    /// Speaks to its providers.
    pub client: Upstream,
    /// Its providers, in order.
    pub targets: Vec<Target>,
    /// What survives.
    pub shared: Arc<Shared>,
    /// Methods whose requests may be sent twice.
    pub repeatable: Vec<Method>,
    /// Requests with it may be.
    pub idempotency: Option<HeaderName>,
    /// The header that names what a request is about.
    pub pin: Option<HeaderName>,
    /// Where requests wait that nobody could serve.
    pub queue: Option<Arc<Queue>>,
    /// The header by which they are known.
    pub queue_key: Option<HeaderName>,
    /// The answer where no provider gives one.
    pub static_answer: Option<StaticAnswer>,
}

/// Where each listener finds its dependency; a push changes what stands there.
pub(crate) type CurrentRoute = Arc<RwLock<Arc<Route>>>;

/// Everything that serves.
#[derive(Clone)]
pub(crate) struct RouteTable {
    /// As configured.
    pub config: Arc<Checked>,
    /// What was configured, in short.
    pub hash: String,
    /// The dependencies, in the order of the configuration.
    pub routes: Vec<Arc<Route>>,
}

/// How plans are made.
pub(crate) struct TableBuilder {
    /// The directory with a directory for each Secret.
    pub secrets: std::path::PathBuf,
    /// Counts changes of breakers.
    pub changes: watch::Sender<u64>,
    /// Where requests wait.
    pub queue: Option<Arc<Queue>>,
}

impl TableBuilder {
    /// Makes a configuration ready. What of `before` fits is taken over: breakers, counters,
    /// connections.
    ///
    /// # Errors
    /// Why it cannot run; `before` goes on.
    pub(crate) fn build(
        &self,
        checked: Checked,
        hash: String,
        before: Option<&RouteTable>,
    ) -> Result<RouteTable, Error> {
        let forced = overrides(&checked.overrides)?;
        let old: BTreeMap<&str, &Arc<Route>> = before
            .into_iter()
            .flat_map(|table| &table.routes)
            .map(|route| (route.spec.name.as_str(), route))
            .collect();
        let mut routes = Vec::new();
        for (index, (spec, parsed)) in checked.checked_dependencies().enumerate() {
            if spec.fallback.queue.is_some() && self.queue.is_none() {
                return Err(Error::NoQueue { index });
            }
            let old = old.get(spec.name.as_str()).copied();
            routes.push(self.route(index, spec, parsed, old)?);
        }
        // Only now, since nothing may change before all of it can.
        for route in &routes {
            for (spec, target) in route.spec.providers.iter().zip(&route.targets) {
                let of = |forced: &&(OverrideSpec, Override)| {
                    forced.0.dependency == route.spec.name
                        && forced
                            .0
                            .provider
                            .as_ref()
                            .is_none_or(|name| *name == spec.name)
                };
                let forced = forced.iter().rev().find(of).map(|forced| forced.1);
                target.provider.configure(
                    route.spec.breaker.mode,
                    route.spec.breaker.settings(),
                    forced,
                );
            }
        }
        Ok(RouteTable {
            config: Arc::new(checked),
            hash,
            routes: routes.into_iter().map(Arc::new).collect(),
        })
    }

    fn route(
        &self,
        index: usize,
        spec: &Dependency,
        parsed: &CheckedDependency,
        old: Option<&Arc<Route>>,
    ) -> Result<Route, Error> {
        let known: BTreeMap<&str, &Target> = old
            .into_iter()
            .flat_map(|route| route.spec.providers.iter().zip(&route.targets))
            .map(|(spec, target)| (spec.name.as_str(), target))
            .collect();
        let mut targets = Vec::new();
        let providers = spec.providers.iter().zip(&parsed.providers);
        for (number, (provider, parsed)) in providers.enumerate() {
            let field = format!("dependencies[{index}].providers[{number}]");
            let kept = known
                .get(provider.name.as_str())
                .map(|target| target.provider.clone());
            targets.push(self.target(spec, (provider, parsed), &field, kept)?);
        }
        let client = match old {
            Some(route) if same_connections(&route.spec, spec) => route.client.clone(),
            _ => client(spec)?,
        };
        let shared = match old {
            Some(route) if route.shared.fits(spec) => route.shared.clone(),
            _ => Arc::new(Shared::new(spec)),
        };
        let header = |name: &Option<_>| name.as_ref().map(convert::header_name);
        Ok(Route {
            client,
            targets,
            shared,
            repeatable: parsed.retry_methods.iter().map(convert::method).collect(),
            idempotency: header(&parsed.idempotency_header),
            pin: header(&parsed.pin_header),
            queue: spec
                .fallback
                .queue
                .as_ref()
                .and_then(|_| self.queue.clone()),
            queue_key: header(&parsed.queue_header),
            static_answer: parsed.static_answer.as_ref().map(StaticAnswer::new),
            spec: spec.clone(),
        })
    }

    fn target(
        &self,
        spec: &Dependency,
        (provider, parsed): (&ProviderSpec, &CheckedProvider),
        field: &str,
        kept: Option<Arc<Provider>>,
    ) -> Result<Target, Error> {
        let mut headers = convert::headers(&parsed.headers);
        if let (Some(credentials), Some(name)) = (&provider.credentials, &parsed.credentials_header)
        {
            let value = self.credentials(credentials, field)?;
            headers.insert(convert::header_name(name), value);
        }
        let accepts = parsed.accepts.as_ref().map(|(name, values)| {
            let values = values.iter().map(convert::header_value).collect();
            (convert::header_name(name), values)
        });
        let label = format!("{}/{}", spec.name, provider.name);
        let make = || {
            Arc::new(Provider::new(
                label,
                spec.breaker.mode,
                spec.breaker.settings(),
                self.changes.clone(),
            ))
        };
        Ok(Target {
            provider: kept.unwrap_or_else(make),
            name: convert::header_value(&parsed.name),
            scheme: if provider.url.tls {
                Scheme::HTTPS
            } else {
                Scheme::HTTP
            },
            authority: convert::authority(&parsed.authority),
            base: parsed.base.clone(),
            headers,
            accepts,
            health_path: parsed.health_path.as_ref().map(convert::path),
        })
    }

    /// Reads the header's value from the mounted Secret.
    fn credentials(&self, credentials: &Credentials, field: &str) -> Result<HeaderValue, Error> {
        let path = self
            .secrets
            .join(&credentials.secret_name)
            .join(&credentials.key);
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Credentials {
            field: format!("{field}.credentials"),
            path: path.display().to_string(),
            source,
        })?;
        let text = format!("{}{}", credentials.prefix, text.trim_end());
        let mut value: HeaderValue = text.parse().map_err(|_| Error::Header {
            field: format!("{field}.credentials"),
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

fn same_connections(one: &Dependency, other: &Dependency) -> bool {
    let tls = |spec: &Dependency| spec.providers.iter().any(|provider| provider.url.tls);
    one.http2 == other.http2
        && one.timeout.connect == other.timeout.connect
        && tls(one) == tls(other)
}

fn client(spec: &Dependency) -> Result<Upstream, Error> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(spec.timeout.connect.0.duration()));
    tcp.enforce_http(false);
    let builder = hyper_rustls::HttpsConnectorBuilder::new();
    // Reading the certificates costs memory that a proxy without https has no use for.
    let builder = if spec.providers.iter().any(|provider| provider.url.tls) {
        builder.with_native_roots().map_err(Error::Roots)?
    } else {
        builder.with_tls_config(
            rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth(),
        )
    };
    let builder = builder.https_or_http();
    let connector = if spec.http2 {
        builder.enable_http2().wrap_connector(tcp)
    } else {
        builder.enable_http1().wrap_connector(tcp)
    };
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http2_only(spec.http2)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .http2_keep_alive_timeout(Duration::from_secs(5))
        .http1_max_buf_size(64 << 10)
        .build(connector))
}

/// What is forced, with its end on our clock.
fn overrides(specs: &[OverrideSpec]) -> Result<Vec<(OverrideSpec, Override)>, Error> {
    let (now, moment) = (Timestamp::now(), mrg_clock::now());
    let parse = |(index, spec): (usize, &OverrideSpec)| {
        let until: Timestamp = spec.until.parse().map_err(|source| Error::Until {
            index,
            text: spec.until.clone(),
            source,
        })?;
        let left = u64::try_from(until.as_millisecond() - now.as_millisecond()).unwrap_or(0);
        let until: Moment = moment + Millis(left);
        Ok((
            spec.clone(),
            Override {
                open: spec.state == Forced::Open,
                until,
            },
        ))
    };
    specs.iter().enumerate().map(parse).collect()
}
