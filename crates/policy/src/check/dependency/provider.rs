//! Providers: their addresses, headers and health checks parsed.

use std::collections::BTreeSet;

use super::headers::{header, headers, value};
use crate::check::{Found, Rejected};
use crate::values::{Authority, BasePath, HeaderName, HeaderValue, RequestPath};
use crate::{Accepts, Dependency, HealthCheck, Provider};
use mrg_base::Millis;

/// What was parsed of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedProvider {
    /// Its name, as answers carry it.
    pub name: HeaderValue,
    /// Where it is.
    pub authority: Authority,
    /// What every path to it begins with.
    pub base: BasePath,
    /// What is set on every request to it.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The header of its credentials.
    pub credentials_header: Option<HeaderName>,
    /// Only requests whose header has one of the values are for it; `None`: all are.
    pub accepts: Option<(HeaderName, Vec<HeaderValue>)>,
    /// What its health is asked at.
    pub health_path: Option<RequestPath>,
}

pub(super) fn providers(
    found: &mut Found,
    at: &str,
    dependency: &Dependency,
) -> Result<Vec<CheckedProvider>, Rejected> {
    if dependency.providers.is_empty() {
        found.add(
            format!("{at}.providers"),
            "there is none: name at least one, with its url".to_owned(),
        );
    }
    let (mut names, mut urls) = (BTreeSet::new(), BTreeSet::new());
    let mut checked = Vec::new();
    for (index, provider) in dependency.providers.iter().enumerate() {
        let at = format!("{at}.providers[{index}]");
        if !names.insert(&provider.name) {
            found.add(
                format!("{at}.name"),
                format!(
                    "`{}` is there twice: name each provider once",
                    provider.name
                ),
            );
        }
        if !urls.insert((
            provider.url.to_string(),
            provider.headers.clone(),
            provider.accepts.as_ref().map(|accepts| &accepts.values),
        )) {
            found.add(
                format!("{at}.url"),
                format!(
                    "{} is another provider's too: failing over to it would ask the same one again",
                    provider.url
                ),
            );
        }
        checked.push(self::provider(found, &at, provider));
    }
    checked.into_iter().collect()
}

fn provider(found: &mut Found, at: &str, provider: &Provider) -> Result<CheckedProvider, Rejected> {
    let name = value(found, format!("{at}.name"), &provider.name);
    let authority = Authority::of(&provider.url);
    if authority.is_none() {
        found.add(
            format!("{at}.url"),
            format!(
                "`{}` is neither the name nor the address of a host: write it like bbd.dispatch or [::1]",
                provider.url.host
            ),
        );
    }
    let base = BasePath::new(&provider.url.base);
    if base.is_none() {
        found.add(
            format!("{at}.url"),
            format!(
                "`{}` is no path that requests can begin with: write other characters as %XX",
                provider.url.base
            ),
        );
    }
    let headers = headers(found, &format!("{at}.headers"), &provider.headers);
    let credentials_header = provider.credentials.as_ref().map(|credentials| {
        let field = format!("{at}.credentials.header");
        header(found, field, &credentials.header)
    });
    let accepts = provider
        .accepts
        .as_ref()
        .map(|accepts| self::accepts(found, at, accepts));
    let health_path = provider
        .health_check
        .as_ref()
        .map(|check| health_check(found, at, check));
    Ok(CheckedProvider {
        name: name?,
        authority: authority.ok_or(Rejected)?,
        base: base.ok_or(Rejected)?,
        headers: headers?,
        credentials_header: credentials_header.transpose()?,
        accepts: accepts.transpose()?,
        health_path: health_path.transpose()?,
    })
}

fn accepts(
    found: &mut Found,
    at: &str,
    accepts: &Accepts,
) -> Result<(HeaderName, Vec<HeaderValue>), Rejected> {
    let name = HeaderName::new(&accepts.header);
    if name.is_none() || accepts.values.is_empty() {
        found.add(
            format!("{at}.accepts"),
            "it needs the name of a header and at least one value".to_owned(),
        );
    }
    let values: Vec<Result<HeaderValue, Rejected>> = accepts
        .values
        .iter()
        .map(|text| value(found, format!("{at}.accepts.values"), text))
        .collect();
    let values: Result<_, Rejected> = values.into_iter().collect();
    Ok((name.ok_or(Rejected)?, values?))
}

fn health_check(found: &mut Found, at: &str, check: &HealthCheck) -> Result<RequestPath, Rejected> {
    if check.timeout > check.interval || check.interval.0 < Millis(100) {
        found.add(
            format!("{at}.healthCheck"),
            format!(
                "timeout {} must be at most interval {}, and that at least 100ms",
                check.timeout, check.interval
            ),
        );
    }
    let path = RequestPath::new(&check.path);
    if path.is_none() {
        found.add(
            format!("{at}.healthCheck.path"),
            format!(
                "`{}` is no path of a request: begin with /, and write other characters as %XX",
                check.path
            ),
        );
    }
    path.ok_or(Rejected)
}
