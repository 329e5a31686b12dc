//! Who depends on whom: the catalog's graph, with what an installation declares in place of the
//! catalog's own.

use super::parts::{EXTERNALS, FLOWS, INFRASTRUCTURE};
use super::services::SERVICES;
use super::types::{Call, Fallback, Target};
use crate::blast_radius::{Containment, Coupling, Flow, Graph, Kind, Link, Need, Part};

/// What an installation says of itself, as far as the blast radius depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// The database fails over by itself.
    pub database_fails_over: bool,
    /// The cache does.
    pub cache_fails_over: bool,
    /// The broker does.
    pub broker_fails_over: bool,
}

/// The platform as the analysis wants it.
pub const PLATFORM: Declared = Declared {
    database_fails_over: true,
    cache_fails_over: true,
    broker_fails_over: false,
};

/// What remains of a loss by a fallback, per mille. The analysis names the fallbacks and not what
/// they are worth: estimates.
const QUEUED: u32 = 200;
const STALE: u32 = 100;
const STATIC: u32 = 500;
/// A second provider takes over within the requests that open the breaker.
const FAILED_OVER: u32 = 20;

/// What holds the failure of a call up.
fn fallback(call: &Call) -> Option<Containment> {
    let held = |by: &str, remains| {
        Some(Containment {
            by: by.to_owned(),
            remains,
        })
    };
    match call.fallback.value {
        Fallback::Error => None,
        Fallback::Queue => held("queue", QUEUED),
        Fallback::Stale(_) => held("stale answers", STALE),
        Fallback::Static(_) => held("a fixed answer", STATIC),
    }
}

/// The links of a call. One provider alone takes the caller's work with it; of several each takes
/// its part, and the next takes over.
fn links(from: &str, call: &Call) -> Vec<Link> {
    let link = |to: &str, coupling, contained| Link {
        from: from.to_owned(),
        to: to.to_owned(),
        coupling,
        contained,
    };
    match call.to {
        // Calls that come back are answers; what waits for them is in the flows.
        Target::Service(_) if call.back => Vec::new(),
        Target::Service(to) => vec![link(to, Coupling::Loose, fallback(call))],
        Target::Externals([only]) => vec![link(only, Coupling::Hard, fallback(call))],
        Target::Externals(several) => several
            .iter()
            .enumerate()
            .map(|(index, to)| {
                let share = if index == 0 { 100 } else { 0 };
                link(
                    to,
                    Coupling::Partial(share),
                    Some(Containment {
                        by: "the next provider".to_owned(),
                        remains: FAILED_OVER,
                    }),
                )
            })
            .collect(),
    }
}

/// The graph of the platform.
pub fn graph(declared: &Declared) -> Graph {
    let fails_over = |name: &str| match name {
        "postgresql" => declared.database_fails_over,
        "redis" => declared.cache_fails_over,
        "rabbitmq" => declared.broker_fails_over,
        _ => true,
    };
    let mut parts: Vec<Part> = SERVICES
        .iter()
        .map(|service| Part {
            name: service.name.to_owned(),
            kind: Kind::Service,
            contained: None,
        })
        .collect();
    parts.extend(INFRASTRUCTURE.iter().map(|part| Part {
        name: part.name.to_owned(),
        kind: Kind::Infrastructure,
        contained: None,
    }));
    parts.extend(EXTERNALS.iter().map(|part| Part {
        name: part.name.to_owned(),
        kind: Kind::External,
        contained: None,
    }));
    let mut links: Vec<Link> = Vec::new();
    for service in &SERVICES {
        let link = |(to, coupling): &(&str, Coupling)| Link {
            from: service.name.to_owned(),
            to: (*to).to_owned(),
            coupling: *coupling,
            contained: None,
        };
        links.extend(service.uses.iter().map(link));
        for link in service
            .calls
            .iter()
            .flat_map(|call| self::links(service.name, call))
        {
            // A provider that is called twice is worth its worst call.
            match links
                .iter_mut()
                .find(|old| old.from == link.from && old.to == link.to)
            {
                Some(old) if rank(link.coupling) > rank(old.coupling) => *old = link,
                Some(_) => {}
                None => links.push(link),
            }
        }
    }
    let flow = |data: &super::FlowData| Flow {
        name: data.name.to_owned(),
        weight: data.weight,
        needs: data
            .needs
            .iter()
            .map(|(part, via, loss)| Need {
                part: (*part).to_owned(),
                via: via.map(str::to_owned),
                loss: *loss,
            })
            .collect(),
    };
    let mut graph = Graph {
        parts,
        links,
        flows: FLOWS.iter().map(flow).collect(),
    };
    // The analysis says what is left of the whole radius; the share follows from the radius.
    for part in INFRASTRUCTURE.iter().filter(|part| fails_over(part.name)) {
        let Some(contained) = part.contained else {
            continue;
        };
        let radius = crate::blast_radius::impact(&graph, part.name).radius;
        let (by, left) = contained.value;
        let remains = (left * 1000).checked_div(radius).unwrap_or(0);
        if let Some(found) = graph.parts.iter_mut().find(|found| found.name == part.name) {
            found.contained = Some(Containment {
                by: by.to_owned(),
                remains,
            });
        }
    }
    graph
}

fn rank(coupling: Coupling) -> u32 {
    match coupling {
        Coupling::Loose => 0,
        Coupling::Partial(percent) => percent,
        Coupling::Hard => 100,
    }
}

/// The services that are to be ready before this one starts: those that it calls, save those that
/// call it back.
pub fn needed_first(service: &str) -> Vec<&'static str> {
    let calls = super::service(service).map_or(&[][..], |service| service.calls);
    let called = |call: &Call| match call.to {
        Target::Service(name) if !call.back => Some(name),
        _ => None,
    };
    calls.iter().filter_map(called).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Section, Tier, service};
    use super::*;
    use crate::blast_radius::{impact, mermaid, table};

    fn radius(part: &str) -> u32 {
        impact(&graph(&PLATFORM), part).radius
    }

    #[test]
    fn the_blast_radii_of_the_analysis_follow_from_the_catalog() {
        let of_the_analysis = [
            ("postgresql", 100),
            ("redis", 70),
            ("orderorchestrator", 90),
            ("paymentprocessor", 80),
            ("taxipartnergateway", 60),
            ("userservice", 50),
            ("sessionmanager", 45),
            ("authservice", 35),
            ("rabbitmq", 40),
            ("kubernetes", 30),
        ];
        for (part, wanted) in of_the_analysis {
            assert_eq!(radius(part), wanted, "{part}");
        }
        assert_eq!(
            radius("bbd"),
            60,
            "the only dispatch takes its gateway with it"
        );
    }

    #[test]
    fn what_the_analysis_asks_for_leaves_what_it_says() {
        let graph = graph(&PLATFORM);
        let remaining = |part: &str| impact(&graph, part).remaining;
        assert_eq!(
            (
                remaining("postgresql"),
                remaining("redis"),
                remaining("kubernetes")
            ),
            (5, 10, 0)
        );
        assert!(
            remaining("midtrans") < 3 && impact(&graph, "midtrans").radius == 80,
            "{}",
            remaining("midtrans")
        );
        let bbd = impact(&graph, "bbd");
        assert!(bbd.remaining <= 15, "{bbd:?}");
        assert!(
            bbd.contained_by
                .contains(&"queue in taxipartnergateway".to_owned()),
            "{bbd:?}"
        );
    }

    #[test]
    fn without_failover_the_database_takes_everything() {
        let alone = Declared {
            database_fails_over: false,
            ..PLATFORM
        };
        let impact = impact(&graph(&alone), "postgresql");
        assert_eq!(
            (impact.radius, impact.remaining, impact.fails.len()),
            (100, 100, 10)
        );
    }

    #[test]
    fn shares_make_a_hundred_and_everything_that_is_named_exists() {
        let graph = graph(&PLATFORM);
        assert_eq!(graph.flows.iter().map(|flow| flow.weight).sum::<u32>(), 100);
        for link in &graph.links {
            assert!(
                graph.part(&link.from).is_some() && graph.part(&link.to).is_some(),
                "{link:?}"
            );
        }
        for need in graph.flows.iter().flat_map(|flow| &flow.needs) {
            assert!(graph.part(&need.part).is_some(), "{need:?}");
            let via = need.via.as_ref().map(|via| graph.link(via, &need.part));
            assert!(
                via.is_none_or(|link| link.is_some()),
                "{need:?} goes through no link"
            );
        }
        assert!(graph.circle().is_empty());
        assert_eq!(table(&graph).len(), graph.parts.len());
        assert!(
            mermaid(&graph).contains("p_postgresql[(\"postgresql<br/>100% → 5%\")]"),
            "{}",
            mermaid(&graph)
        );
    }

    #[test]
    fn tiers_and_replicas_are_the_analysis_own() {
        let of = |tier| {
            SERVICES
                .iter()
                .filter(|service| service.tier.value == tier)
                .map(|service| service.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of(Tier::P0),
            [
                "orderorchestrator",
                "paymentprocessor",
                "taxipartnergateway"
            ]
        );
        assert_eq!(
            of(Tier::P1),
            ["userservice", "sessionmanager", "authservice"]
        );
        assert_eq!(
            of(Tier::P2),
            ["configservice", "notificationcenter", "fds", "hogateway"]
        );
        assert_eq!(Tier::ALL.map(|tier| tier.min_replicas().value), [3, 2, 2]);
        let estimated = SERVICES
            .iter()
            .filter(|service| service.timeout.section == Section::Estimate)
            .map(|service| service.name);
        assert_eq!(
            estimated.collect::<Vec<_>>(),
            ["fds", "hogateway"],
            "the audit names the other eight"
        );
    }

    #[test]
    fn nobody_waits_in_a_circle_for_the_start() {
        for one in &SERVICES {
            let mut seen = vec![one.name];
            let mut next = needed_first(one.name);
            while let Some(name) = next.pop() {
                assert_ne!(name, one.name, "{} waits for itself", one.name);
                assert!(service(name).is_some(), "{name}");
                if !seen.contains(&name) {
                    seen.push(name);
                    next.extend(needed_first(name));
                }
            }
        }
    }
}
