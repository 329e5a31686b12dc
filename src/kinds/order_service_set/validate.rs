//! What the API server cannot check by itself, and everything that follows from a spec that can be
//! done. Pure.

use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::json;

use super::resilience::{priority, resilience};
use crate::kinds::service_resilience::validate as sidecar;
use mrg_api::order_service_set::{OrderServiceSetSpec, ServiceSpec};
use mrg_api::{OrderServiceSet, ServiceResilience};
use mrg_platform_catalog::blast_radius::{Coupling, Graph, Link};
use mrg_platform_catalog::{Declared, SERVICES, Service, graph};
use mrg_policy::{Dependency, Problem, Problems};

/// Where the database is, as the pools and their cluster say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// Host, port and database for writes.
    pub write: Address,
    /// The same for reads.
    pub read: Address,
    /// The user.
    pub user: String,
    /// The Secret with the user's password.
    pub secret: String,
    /// Its key.
    pub key: String,
    /// The PostgresCluster.
    pub cluster: String,
    /// The database as the server names it.
    pub database: String,
    /// The role that owns it, with its password in the same Secret; `None` if the cluster's spec does
    /// not name the database.
    pub owner: Option<String>,
    /// The Secret that this operator makes for queues.
    pub queue_secret: String,
    /// Whether another member takes over when the leader is lost.
    pub fails_over: bool,
}

/// A pool as clients reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Its Service.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database as it names it.
    pub database: String,
}

/// A service that is deployed.
#[derive(Clone, Debug)]
pub struct DesiredService {
    /// What its objects are called: the catalog's name, or `NAME-canary` beside it.
    pub name: String,
    /// What the catalog says.
    pub catalog: &'static Service,
    /// What the spec says.
    pub spec: ServiceSpec,
    /// Its image.
    pub image: String,
    /// Its resilience, checked.
    pub resilience: sidecar::Desired,
}

/// A spec that can be done.
#[derive(Clone, Debug)]
pub struct Desired {
    /// The object's name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// Its spec.
    pub spec: OrderServiceSetSpec,
    /// The services that are deployed, in the catalog's order.
    pub services: Vec<DesiredService>,
    /// The database.
    pub wiring: Option<Wiring>,
    /// Who depends on whom.
    pub graph: Graph,
}

/// What the spec says of a service.
pub fn service_spec(spec: &OrderServiceSetSpec, name: &str) -> ServiceSpec {
    spec.services
        .iter()
        .find(|service| service.name == name)
        .cloned()
        .unwrap_or_else(|| ServiceSpec::named(name))
}

/// Checks a spec.
///
/// # Errors
/// Everything that is wrong with it.
pub fn validate(
    object: &OrderServiceSet,
    wiring: Option<&Wiring>,
    now: Timestamp,
) -> Result<Desired, Problems> {
    let (spec, namespace) = (&object.spec, object.namespace().unwrap_or_default());
    let mut problems = Vec::new();
    let mut services = Vec::new();
    for catalog in &SERVICES {
        let own = service_spec(spec, catalog.name);
        if !own.deploy {
            continue;
        }
        problems.extend(replicas(catalog, &own));
        let Some(image) = own.image.clone().or_else(|| spec.template.image.clone()) else {
            let field = format!("services[{}].image", catalog.name);
            problems.push(Problem {
                field,
                message: "is missing, and spec.template.image, too: give one of them".to_owned(),
            });
            continue;
        };
        let (resilience, found) = resilience(catalog, &own, spec, wiring);
        problems.extend(found);
        let whole = json!({
            "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "ServiceResilience",
            "metadata": { "name": catalog.name, "namespace": namespace, "uid": "" }, "spec": resilience,
        });
        let checked = serde_json::from_value::<ServiceResilience>(whole)
            .map_err(|error| {
                Problems(vec![Problem {
                    field: "spec".to_owned(),
                    message: error.to_string(),
                }])
            })
            .and_then(|resilience| sidecar::validate(&resilience, now));
        match checked {
            Ok(resilience) => {
                services.push(DesiredService {
                    name: catalog.name.to_owned(),
                    catalog,
                    image: image.replace("{service}", catalog.name),
                    spec: own,
                    resilience,
                });
            }
            Err(Problems(found)) => problems.extend(
                found
                    .into_iter()
                    .map(|problem| of_service(catalog.name, problem)),
            ),
        }
    }
    let graph = platform(spec, &services, wiring);
    let circle = graph.circle();
    if !circle.is_empty() {
        problems.push(Problem {
            field: "services".to_owned(),
            message: format!(
                "{} call each other in a circle without a breaker: one that fails takes all of them with it; take `breaker.mode: Off` out of one of them",
                circle.join(" → ")
            ),
        });
    }
    for problem in &mut problems {
        problem.field.insert_str(0, "spec.");
    }
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    Ok(Desired {
        name: object.name_any(),
        namespace,
        uid: object.uid().unwrap_or_default(),
        spec: spec.clone(),
        services,
        wiring: wiring.cloned(),
        graph,
    })
}

/// What is wrong with a spec that somebody applies just now: in addition, overrides that are over
/// before they begin.
pub fn refuse(
    new: &OrderServiceSet,
    old: Option<&OrderServiceSet>,
    now: Timestamp,
) -> Vec<Problem> {
    let mut problems = validate(new, None, now)
        .err()
        .map(|problems| problems.0)
        .unwrap_or_default();
    problems.extend(
        new.annotations()
            .iter()
            .filter_map(|(key, value)| said(key, value)),
    );
    for service in &new.spec.services {
        let before = old
            .map(|old| service_spec(&old.spec, &service.name).overrides)
            .unwrap_or_default();
        for (index, forced) in service
            .overrides
            .iter()
            .enumerate()
            .filter(|(_, forced)| !before.contains(forced))
        {
            if forced
                .until
                .parse::<Timestamp>()
                .is_ok_and(|until| until <= now)
            {
                let message = format!(
                    "{} is in the past: nothing would be forced; give a later moment, or take the override out",
                    forced.until
                );
                problems.push(Problem {
                    field: format!("spec.services[{}].overrides[{index}].until", service.name),
                    message,
                });
            }
        }
    }
    problems
}

/// What is wrong with what somebody says to a trial.
fn said(key: &str, value: &str) -> Option<Problem> {
    let service = key.strip_prefix(super::trial::COMMAND)?;
    let field = format!("metadata.annotations[{key}]");
    if service != super::trial::SPLIT && SERVICES.iter().all(|known| known.name != service) {
        return Some(Problem {
            field,
            message: format!("there is no service `{service}`"),
        });
    }
    let known = serde_json::from_value::<mrg_api::order_service_set::Command>(json!(value)).is_ok();
    (!known).then(|| Problem {
        field,
        message: format!("`{value}` is none of promote, pause, resume, abort, retry"),
    })
}

fn of_service(name: &str, problem: Problem) -> Problem {
    let field = problem
        .field
        .strip_prefix("spec.")
        .unwrap_or(&problem.field);
    Problem {
        field: format!("services[{name}].{field}"),
        message: problem.message,
    }
}

fn replicas(catalog: &Service, own: &ServiceSpec) -> Option<Problem> {
    let (tier, fewest) = (catalog.tier.value, catalog.tier.value.min_replicas().value);
    let (field, given) = match (
        own.replicas,
        own.autoscaling.and_then(|scaling| scaling.min_replicas),
    ) {
        (Some(replicas), _) => ("replicas", replicas),
        (None, Some(replicas)) => ("autoscaling.minReplicas", replicas),
        (None, None) => return None,
    };
    (given < fewest).then(|| Problem {
        field: format!("services[{}].{field}", catalog.name),
        message: format!(
            "{given} is fewer than the {fewest} pods of tier {}: with them nobody notices when one goes; raise it",
            tier.name()
        ),
    })
}

/// The catalog's graph with what this spec changes of it: calls that are not made, calls without a
/// breaker or a fallback.
fn platform(
    spec: &OrderServiceSetSpec,
    services: &[DesiredService],
    wiring: Option<&Wiring>,
) -> Graph {
    let declared = Declared {
        database_fails_over: wiring.is_some_and(|wiring| wiring.fails_over),
        cache_fails_over: spec.cache.as_ref().is_some_and(|cache| cache.fails_over),
        broker_fails_over: spec.broker.as_ref().is_some_and(|broker| broker.fails_over),
    };
    let mut graph = graph(&declared);
    for service in services {
        let from = service.catalog.name;
        for dependency in &service.resilience.spec.dependencies {
            for to in called(dependency) {
                let contained = graph.link(from, to).and_then(|link| link.contained.clone());
                let degrades = dependency.fallback != mrg_policy::Fallback::default()
                    || dependency.providers.len() > 1;
                graph
                    .links
                    .retain(|link| link.from != from || link.to != *to);
                let coupling = match dependency.breaker.mode {
                    // Without one its callers wait with it until they can do nothing else.
                    mrg_breaker::Mode::Off if dependency.providers.len() == 1 => Coupling::Hard,
                    _ => Coupling::Loose,
                };
                graph.links.push(Link {
                    from: from.to_owned(),
                    to: (*to).to_owned(),
                    coupling,
                    contained: contained.filter(|_| degrades),
                });
            }
        }
        graph
            .links
            .retain(|link| link.from != from || !service.spec.without.contains(&link.to));
    }
    graph
}

/// The services of the ten that a dependency reaches.
fn called(dependency: &Dependency) -> Vec<&'static str> {
    let known = |host: &str| {
        SERVICES
            .iter()
            .map(|service| service.name)
            .find(|name| host.split('.').next() == Some(name))
    };
    dependency
        .providers
        .iter()
        .filter_map(|provider| known(&provider.url.host))
        .collect()
}

impl DesiredService {
    /// Pods, as long as no autoscaler decides.
    pub fn replicas(&self) -> i32 {
        let fewest = self
            .spec
            .autoscaling
            .and_then(|scaling| scaling.min_replicas);
        self.spec
            .replicas
            .or(fewest)
            .unwrap_or(self.catalog.tier.value.min_replicas().value)
    }

    /// The tier, in the API's words.
    pub fn tier(&self) -> mrg_api::service_resilience::Priority {
        priority(self.catalog.tier.value)
    }
}
