//! A checked configuration, made ready to serve requests: clients, headers and providers. What must
//! survive a change is taken over.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;
use http::uri::Scheme;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::digest::short_digest;
use crate::provider::Provider;
use crate::queue::Queue;
use crate::routes::convert;
use crate::routes::route::{Route, StaticAnswer, Target};
use crate::routes::shared::Shared;
use crate::routes::upstream::{client, same_connections};
use mrg_base::{Millis, Moment};
use mrg_breaker::Override;
use mrg_policy::{
    Checked, CheckedDependency, CheckedProvider, Credentials, Dependency, Forced, OverrideSpec,
    Provider as ProviderSpec,
};

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

/// What a table is made with, beside its configuration.
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
    /// If an override's end is no moment, a Secret cannot be read, its value is no header's, a queue
    /// is asked for without a place for it, or certificate authorities are missing. Nothing of
    /// `before` has changed then.
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
            configure_breakers(route, &forced);
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
            _ => client(spec).map_err(Error::Roots)?,
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

    /// What the mounted Secrets hold that a configuration names, in short. It differs when one of them
    /// has changed, has come or is gone.
    pub(crate) fn secrets_digest(&self, checked: &Checked) -> String {
        let mut all = Vec::new();
        for (spec, _) in checked.checked_dependencies() {
            let credentials = spec.providers.iter().map(|each| each.credentials.as_ref());
            for credentials in credentials.flatten() {
                let content = std::fs::read(self.credentials_file(credentials));
                all.push(
                    content.map_or_else(|_| "absent".to_owned(), |bytes| short_digest(bytes, 32)),
                );
            }
        }
        short_digest(all.concat(), 8)
    }

    fn credentials_file(&self, credentials: &Credentials) -> std::path::PathBuf {
        self.secrets
            .join(&credentials.secret_name)
            .join(&credentials.key)
    }

    /// Reads the header's value from the mounted Secret.
    fn credentials(&self, credentials: &Credentials, field: &str) -> Result<HeaderValue, Error> {
        let path = self.credentials_file(credentials);
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

/// Gives the breakers of a dependency their settings, and what is forced upon them.
fn configure_breakers(route: &Route, overrides: &[(OverrideSpec, Override)]) {
    for (spec, target) in route.spec.providers.iter().zip(&route.targets) {
        let concerns = |(forced, _): &&(OverrideSpec, Override)| {
            forced.dependency == route.spec.name
                && forced
                    .provider
                    .as_ref()
                    .is_none_or(|name| *name == spec.name)
        };
        let forced = overrides
            .iter()
            .rev()
            .find(concerns)
            .map(|(_, forced)| *forced);
        let breaker = &route.spec.breaker;
        target
            .provider
            .configure(breaker.mode, breaker.settings(), forced);
    }
}

/// What is forced, with its end on the monotonic clock.
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
