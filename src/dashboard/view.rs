//! What the page shows, taken from the objects' own status. Pure.

use jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;

use crate::kinds::order_service_set::validate::validate;
use mrg_api::order_service_set::OrderServiceSetStatus;
use mrg_api::pgbouncer_pool::{Mode, PgBouncerPoolStatus};
use mrg_api::postgres_cluster::PostgresClusterStatus;
use mrg_api::service_resilience::{BreakerStatus, QueueStatus};
use mrg_api::{OrderServiceSet, PgBouncerPool, PostgresCluster, ServiceResilience};
use mrg_platform_catalog::blast_radius::{Coupling, Graph, Kind};

/// Everything that is on the page.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct View {
    /// Why what stands here may be old; `None` while the Kubernetes API tells of every change.
    pub trouble: Option<String>,
    /// The platforms.
    pub platforms: Vec<Shown<Platform>>,
    /// The databases.
    pub databases: Vec<Shown<PostgresClusterStatus>>,
    /// The pools.
    pub pools: Vec<Shown<Pool>>,
    /// Breakers that are not closed, and queues that are not empty.
    pub calls: Vec<Shown<Calls>>,
}

/// Something of an object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Shown<T> {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The rest.
    #[serde(flatten)]
    pub of: T,
}

/// A platform.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Platform {
    /// What its object says.
    pub status: OrderServiceSetStatus,
    /// Everything that can fail.
    pub parts: Vec<Part>,
    /// Who uses whom.
    pub links: Vec<Link>,
}

/// Something that can fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Part {
    /// Its name.
    pub name: String,
    /// `service`, `infrastructure` or `external`.
    pub kind: &'static str,
}

/// A service uses a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Link {
    /// The service.
    pub from: String,
    /// The part.
    pub to: String,
    /// Whether the service fails with it, does less, or stays: `hard`, `partial`, `loose`.
    pub coupling: &'static str,
    /// What holds it up.
    pub by: Option<String>,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Pool {
    /// What it is for.
    pub mode: Mode,
    /// What its object says.
    #[serde(flatten)]
    pub status: PgBouncerPoolStatus,
}

/// What is not as usual with the calls of a workload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Calls {
    /// Breakers there are.
    pub breakers: usize,
    /// Those that are not closed.
    pub open: Vec<BreakerStatus>,
    /// What waits, if anything does.
    pub queue: Option<QueueStatus>,
}

fn shown<T>(object: &impl ResourceExt, of: T) -> Shown<T> {
    Shown {
        namespace: object.namespace().unwrap_or_default(),
        name: object.name_any(),
        of,
    }
}

/// Of a platform.
pub(super) fn platform(set: &OrderServiceSet, now: Timestamp) -> Shown<Platform> {
    // A spec that is refused still has the catalog's graph.
    let graph = validate(set, None, now).map_or_else(
        |_| mrg_platform_catalog::graph(&mrg_platform_catalog::PLATFORM),
        |desired| desired.graph,
    );
    shown(
        set,
        Platform {
            status: set.status.clone().unwrap_or_default(),
            parts: parts(&graph),
            links: links(&graph),
        },
    )
}

fn parts(graph: &Graph) -> Vec<Part> {
    let kind = |kind| match kind {
        Kind::Service => "service",
        Kind::Infrastructure => "infrastructure",
        Kind::External => "external",
    };
    graph
        .parts
        .iter()
        .map(|part| Part {
            name: part.name.clone(),
            kind: kind(part.kind),
        })
        .collect()
}

fn links(graph: &Graph) -> Vec<Link> {
    let coupling = |coupling| match coupling {
        Coupling::Hard => "hard",
        Coupling::Partial(_) => "partial",
        Coupling::Loose => "loose",
    };
    let link = |link: &mrg_platform_catalog::blast_radius::Link| Link {
        from: link.from.clone(),
        to: link.to.clone(),
        coupling: coupling(link.coupling),
        by: link.contained.as_ref().map(|held| held.by.clone()),
    };
    graph.links.iter().map(link).collect()
}

/// Of a database.
pub(super) fn database(cluster: &PostgresCluster) -> Shown<PostgresClusterStatus> {
    shown(cluster, cluster.status.clone().unwrap_or_default())
}

/// Of a pool.
pub(super) fn pool(pool: &PgBouncerPool) -> Shown<Pool> {
    shown(
        pool,
        Pool {
            mode: pool.spec.mode,
            status: pool.status.clone().unwrap_or_default(),
        },
    )
}

/// Of a workload's calls.
pub(super) fn calls(resilience: &ServiceResilience) -> Shown<Calls> {
    let status = resilience.status.clone().unwrap_or_default();
    let queue = status.queue.filter(|queue| queue.depth + queue.inquiry > 0);
    let breakers = status.breakers.len();
    shown(
        resilience,
        Calls {
            breakers,
            open: status
                .breakers
                .into_iter()
                .filter(|breaker| breaker.state != "Closed")
                .collect(),
            queue,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_shows_its_status_and_who_uses_whom_even_if_its_spec_is_refused() {
        let text = include_str!("../../examples/mrg-platform.yaml");
        let document = text
            .split("\n---")
            .find(|document| document.contains("kind: OrderServiceSet"))
            .unwrap();
        let mut set: OrderServiceSet = serde_saphyr::from_str(document).unwrap();
        set.status = Some(OrderServiceSetStatus {
            ready: Some("9/10".to_owned()),
            ..OrderServiceSetStatus::default()
        });
        let good = platform(&set, Timestamp::UNIX_EPOCH);
        assert_eq!(
            (good.name.as_str(), good.of.status.ready.as_deref()),
            ("mrg", Some("9/10"))
        );
        assert!(
            good.of
                .parts
                .iter()
                .any(|part| part.name == "postgresql" && part.kind == "infrastructure")
        );
        assert!(
            good.of
                .links
                .iter()
                .any(|link| link.to == "postgresql" && link.coupling == "hard")
        );
        set.spec.template.image = None;
        set.spec
            .services
            .iter_mut()
            .for_each(|service| service.image = None);
        assert_eq!(
            platform(&set, Timestamp::UNIX_EPOCH).of.parts,
            good.of.parts
        );
    }

    #[test]
    fn only_what_is_not_as_usual_is_shown_of_calls() {
        let resilience = serde_json::json!({
            "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "ServiceResilience", "metadata": { "name": "user", "namespace": "mrg" },
            "spec": { "targetRef": { "kind": "Deployment", "name": "user" }, "priority": "P1" },
            "status": {
                "breakers": [
                    { "dependency": "a", "provider": "a", "state": "Closed", "open": 0, "halfOpen": 0, "closed": 2 },
                    { "dependency": "b", "provider": "b", "state": "Open", "open": 2, "halfOpen": 0, "closed": 0, "reason": "6 of 10 failed" },
                ],
                "queue": { "depth": 0, "inquiry": 0, "onVolumes": 0 },
            },
        });
        let shown = calls(&serde_json::from_value(resilience).unwrap()).of;
        assert_eq!(
            (shown.breakers, shown.open.len(), shown.queue),
            (2, 1, None)
        );
    }
}
