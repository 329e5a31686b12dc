//! What is done for those who call the workload.

use super::{Found, Rejected};
use crate::values::Authority;
use crate::{Canary, Dependency, Inbound};

/// What was parsed of `inbound`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedInbound {
    /// The workload itself.
    pub workload: Authority,
    /// Its canary.
    pub canary: Option<Authority>,
    /// The targets of the routes, in the order of the configuration.
    pub routes: Vec<Authority>,
}

/// Checks `inbound`; Rejected only if a problem was found.
pub(super) fn inbound(found: &mut Found, inbound: &Inbound) -> Result<CheckedInbound, Rejected> {
    let canary = inbound
        .canary
        .as_ref()
        .map(|spec| canary_authority(found, "inbound.canary", spec));
    let route = |(index, to): (usize, &Canary)| {
        canary_authority(found, &format!("inbound.routes[{index}].to"), to)
    };
    let targets = inbound.routes.iter().map(|route| &route.to);
    let routes: Vec<Result<Authority, Rejected>> = targets.enumerate().map(route).collect();
    for (index, route) in inbound.routes.iter().enumerate() {
        if let Some(path) = route.paths.iter().find(|path| !path.starts_with('/')) {
            found.add(
                format!("inbound.routes[{index}].paths"),
                format!("`{path}` does not begin with /: write it like /orders/{{id}}"),
            );
        }
    }
    Ok(CheckedInbound {
        workload: Authority::loopback(inbound.target_port),
        canary: canary.transpose()?,
        routes: routes.into_iter().collect::<Result<_, _>>()?,
    })
}

fn canary_authority(
    found: &mut Found,
    field: &str,
    canary: &Canary,
) -> Result<Authority, Rejected> {
    if canary.share > 100 {
        found.add(
            format!("{field}.share"),
            format!("{} is more than 100 percent: give 0 to 100", canary.share),
        );
    }
    let authority = Authority::with_port(&canary.url);
    if authority.is_none() || canary.url.tls || !canary.url.base.is_empty() {
        let message = format!(
            "{} is not of the form http://HOST:PORT: it is called as its neighbour is",
            canary.url
        );
        found.add(format!("{field}.url"), message);
    }
    authority.ok_or(Rejected)
}

/// Checks that the port of `inbound` is free.
pub(super) fn port(found: &mut Found, inbound: &Inbound, dependencies: &[Dependency]) {
    if inbound.port == inbound.target_port {
        found.add(
            "inbound.port".to_owned(),
            format!(
                "{} is where the workload itself listens: choose another",
                inbound.port
            ),
        );
    }
    if let Some(other) = dependencies
        .iter()
        .find(|dependency| dependency.port == inbound.port)
    {
        found.add(
            "inbound.port".to_owned(),
            format!(
                "{} is the port of the dependency `{}`: choose another",
                inbound.port, other.name
            ),
        );
    }
}
