//! What the catalog and the spec make of a service's calls: its ServiceResilience. Pure.

use std::collections::BTreeMap;

use super::validate::Wiring;
use mrg_api::Duration;
use mrg_api::order_service_set::{OrderServiceSetSpec, ProviderAddress, ServiceSpec};
use mrg_api::service_resilience::{
    Availability, Check, Convergence, Exemption, Mode, Priority, Probes, QueueStore, QueueVolume,
    SecretKey, ServiceResilienceSpec, TargetKind, TargetRef,
};
use mrg_base::Millis;
use mrg_platform_catalog::{Call, Fallback, Service, Target, Tier};
use mrg_policy::{
    Dependency, Fallback as Given, Inbound, OnAmbiguous, Pin, Problem, Provider, Queue, Retry,
    Stale, StaticAnswer, Timeouts, Url,
};

/// Where sidecars take requests for their service.
pub(super) const INBOUND_PORT: u16 = 15_080;
/// The first port at which a service finds what it calls; each call of the catalog has the next.
const FIRST_PORT: u16 = 19_001;
/// The header by which a request is known again. Without it nothing is queued.
const IDEMPOTENCY_HEADER: &str = "Idempotency-Key";
/// The header that names an order: what was paid with one provider stays there.
const ORDER_HEADER: &str = "X-Order-Id";
const DAY: Duration = Duration::seconds(86_400);

const CHECKS: [Check; 5] = [
    Check::Timeout,
    Check::CircuitBreaker,
    Check::Fallback,
    Check::Retry,
    Check::GracefulDegradation,
];

/// The tier in the API's words.
pub(super) fn priority(tier: Tier) -> Priority {
    match tier {
        Tier::P0 => Priority::P0,
        Tier::P1 => Priority::P1,
        Tier::P2 => Priority::P2,
    }
}

/// The ServiceResilience of a service, and what is wrong with what it is made from.
pub(super) fn resilience(
    of: &Service,
    spec: &ServiceSpec,
    set: &OrderServiceSetSpec,
    wiring: Option<&Wiring>,
) -> (ServiceResilienceSpec, Vec<Problem>) {
    let (dependencies, problems) = dependencies(of, spec, set);
    let calls_nobody = dependencies.is_empty();
    let queues = dependencies
        .iter()
        .any(|dependency| dependency.fallback.queue.is_some());
    let database = wiring.map(|wiring| SecretKey {
        secret_name: wiring.queue_secret.clone(),
        key: "dsn".to_owned(),
    });
    let spec = ServiceResilienceSpec {
        target_ref: TargetRef {
            kind: TargetKind::Deployment,
            name: of.name.to_owned(),
        },
        priority: priority(of.tier.value),
        mode: Mode::Enforce,
        probes: Probes {
            container: Some(of.name.to_owned()),
            port: spec.port,
            ..spec.probes.clone()
        },
        availability: Availability {
            min_replicas: Some(of.tier.value.min_replicas().value),
            ..Availability::default()
        },
        inbound: Some(Inbound {
            port: INBOUND_PORT,
            target_port: spec.port,
            max_concurrent: 256,
            timeout: Duration::seconds(30),
            canary: None,
            routes: Vec::new(),
        }),
        dependencies,
        queue: queues.then(|| QueueStore {
            database,
            volume: Some(QueueVolume {
                size_limit: "256Mi".to_owned(),
            }),
        }),
        overrides: spec.overrides.clone(),
        exemptions: if calls_nobody {
            CHECKS
                .map(|check| Exemption {
                    check,
                    reason: "it calls nobody".to_owned(),
                })
                .into()
        } else {
            Vec::new()
        },
        convergence: Convergence::Evict,
        resources: None,
    };
    (spec, problems)
}

fn dependencies(
    of: &Service,
    spec: &ServiceSpec,
    set: &OrderServiceSetSpec,
) -> (Vec<Dependency>, Vec<Problem>) {
    let mut problems = Vec::new();
    let field = |name: &str| format!("services[{}].{name}", of.name);
    let calls: Vec<&str> = of.calls.iter().map(|call| call.name).collect();
    for name in spec
        .without
        .iter()
        .filter(|name| !calls.contains(&name.as_str()))
    {
        let known = if calls.is_empty() {
            "it calls nothing".to_owned()
        } else {
            format!("it calls {}", calls.join(", "))
        };
        problems.push(Problem {
            field: field("without"),
            message: format!("{} does not call `{name}`: {known}", of.name),
        });
    }
    let mut all = Vec::new();
    for (index, call) in of.calls.iter().enumerate() {
        // Ports belong to calls, whatever else is left out: what calls them stays as it is.
        let port = FIRST_PORT + u16::try_from(index).unwrap_or(u16::MAX - FIRST_PORT);
        let replaced = spec
            .dependencies
            .iter()
            .any(|dependency| dependency.name == call.name);
        if replaced || spec.without.iter().any(|name| name == call.name) {
            continue;
        }
        match providers(call, set) {
            Ok(providers) => all.push(dependency(of, call, port, providers)),
            Err(missing) => problems.push(Problem {
                field: "providers".to_owned(),
                message: format!(
                    "there is no address for `{missing}`, which {} calls; add {{name: {missing}, url: ...}}, or write `without: [{}]` for {}",
                    of.name, call.name, of.name
                ),
            }),
        }
    }
    all.extend(spec.dependencies.iter().cloned());
    (all, problems)
}

/// Who answers a call; the name of the first one whose address is missing.
fn providers(call: &Call, set: &OrderServiceSetSpec) -> Result<Vec<Provider>, &'static str> {
    match call.to {
        Target::Service(name) => {
            let url = Url {
                tls: false,
                host: name.to_owned(),
                port: 8080,
                base: String::new(),
            };
            Ok(vec![Provider {
                name: name.to_owned(),
                url,
                headers: BTreeMap::new(),
                credentials: None,
                accepts: None,
                health_check: None,
            }])
        }
        Target::Externals(names) => {
            let address = |name: &&str| {
                set.providers
                    .iter()
                    .find(|provider| provider.name == **name)
            };
            let first = names.first().copied().unwrap_or_default();
            if address(&first).is_none() {
                return Err(first);
            }
            Ok(names.iter().filter_map(address).map(provider).collect())
        }
    }
}

fn provider(address: &ProviderAddress) -> Provider {
    Provider {
        name: address.name.clone(),
        url: address.url.clone(),
        headers: address.headers.clone(),
        credentials: address.credentials.clone(),
        accepts: address.accepts.clone(),
        health_check: address.health_check.clone(),
    }
}

fn dependency(of: &Service, call: &Call, port: u16, providers: Vec<Provider>) -> Dependency {
    let timeout = of.timeout.value;
    Dependency {
        name: call.name.to_owned(),
        port,
        providers,
        http2: false,
        timeout: Timeouts {
            connect: Duration(Millis(500).min(timeout.attempt)),
            attempt: Duration(timeout.attempt),
            total: Duration(timeout.total),
        },
        retry: Retry {
            attempts: of.attempts.value,
            ..Retry::default()
        },
        breaker: mrg_policy::BreakerPolicy::default(),
        max_concurrent: 100,
        not_accepted: Vec::new(),
        // What may have been done is left to people, where there is a queue for it.
        on_ambiguous: if call.fallback.value == Fallback::Queue {
            OnAmbiguous::Queue
        } else {
            OnAmbiguous::Fail
        },
        pin: call.pinned.then(|| Pin {
            header: ORDER_HEADER.to_owned(),
            keep: DAY,
        }),
        failback: mrg_policy::Failback::default(),
        fallback: fallback(call),
    }
}

fn fallback(call: &Call) -> Given {
    match call.fallback.value {
        Fallback::Error => Given::default(),
        Fallback::Queue => {
            let queue = Queue {
                idempotency_header: IDEMPOTENCY_HEADER.to_owned(),
                methods: vec!["POST".to_owned()],
                capacity: 10_000,
                max_age: DAY,
                // "RetryAt: time.Now().Add(5 * time.Minute)"
                retry_after: Duration::seconds(300),
                per_second: 10,
                max_body_bytes: 262_144,
            };
            Given {
                queue: Some(queue),
                ..Given::default()
            }
        }
        Fallback::Stale(max_age) => {
            let stale = Stale {
                max_age: Duration(max_age),
                max_entries: 1000,
                max_body_bytes: 65_536,
            };
            Given {
                stale: Some(stale),
                ..Given::default()
            }
        }
        Fallback::Static(body) => {
            let headers =
                BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]);
            Given {
                fixed: Some(StaticAnswer {
                    status: 200,
                    headers,
                    body: body.to_owned(),
                }),
                ..Given::default()
            }
        }
    }
}
