//! One screen: the platform, its database, pools, breakers, changes, objectives.

use std::fmt::Write;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::table::{cell, table};
use super::{Error, Place};
use mrg_api::order_service_set::{BlastRow, OrderServiceSetStatus};
use mrg_api::postgres_cluster::PostgresClusterStatus;
use mrg_api::{OrderServiceSet, PgBouncerPool, PostgresCluster, ServiceResilience};

/// What there is in a namespace.
struct Seen {
    sets: Vec<OrderServiceSet>,
    clusters: Vec<PostgresCluster>,
    pools: Vec<PgBouncerPool>,
    resilience: Vec<ServiceResilience>,
}

async fn see(place: &Place) -> Result<Seen, Error> {
    let (client, namespace, every) = (&place.client, &place.namespace, ListParams::default());
    let sets: Api<OrderServiceSet> = Api::namespaced(client.clone(), namespace);
    let clusters: Api<PostgresCluster> = Api::namespaced(client.clone(), namespace);
    let pools: Api<PgBouncerPool> = Api::namespaced(client.clone(), namespace);
    let resilience: Api<ServiceResilience> = Api::namespaced(client.clone(), namespace);
    let (sets, clusters, pools, resilience) = tokio::try_join!(
        sets.list(&every),
        clusters.list(&every),
        pools.list(&every),
        resilience.list(&every)
    )
    .map_err(Error::request(format!(
        "list the objects of mrg.bluebird.id in {namespace}"
    )))?;
    Ok(Seen {
        sets: sets.items,
        clusters: clusters.items,
        pools: pools.items,
        resilience: resilience.items,
    })
}

pub(crate) async fn status(place: &Place) -> Result<String, Error> {
    let seen = see(place).await?;
    if seen.sets.is_empty()
        && seen.clusters.is_empty()
        && seen.pools.is_empty()
        && seen.resilience.is_empty()
    {
        return Ok(format!(
            "nothing of mrg.bluebird.id in namespace {}; give another with -n\n",
            place.namespace
        ));
    }
    Ok(render(&seen))
}

fn condition<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn reason(conditions: &[Condition]) -> String {
    cell(condition(conditions, "Ready").map(|ready| ready.reason.as_str()))
}

fn render(seen: &Seen) -> String {
    let mut text = String::new();
    for set in &seen.sets {
        platform(&mut text, set);
    }
    clusters(&mut text, &seen.clusters);
    pools(&mut text, &seen.pools);
    resilience(&mut text, seen);
    text
}

fn platform(text: &mut String, set: &OrderServiceSet) {
    let status = set.status.clone().unwrap_or_default();
    let of = |part: &Option<String>| cell(part.as_deref());
    let _ = writeln!(
        text,
        "PLATFORM {}: {} serve (P0 {}, P1 {}, P2 {}), {}; at risk: {}; rollout: {}",
        set.name_any(),
        of(&status.ready),
        of(&status.p0),
        of(&status.p1),
        of(&status.p2),
        reason(&status.conditions),
        of(&status.risk),
        of(&status.rollout),
    );
    for kind in ["Ready", "Stalled", "Degraded"] {
        let Some(found) = condition(&status.conditions, kind) else {
            continue;
        };
        if (found.status == "True") != (kind == "Ready") {
            let _ = writeln!(text, "  {kind}: {}: {}", found.reason, found.message);
        }
    }
    let rows: Vec<Vec<String>> = status
        .services
        .iter()
        .map(|service| {
            let row = status
                .blast_radius
                .iter()
                .find(|row| row.part == service.name);
            vec![
                format!("  {}", service.name),
                format!("{:?}", service.tier),
                format!("{:?}", service.phase),
                service.ready.clone(),
                row.map_or_else(|| "-".to_owned(), |row| format!("{}%", row.radius)),
                cell(service.revision.as_deref()),
                if service.breakers_open.is_empty() {
                    "-".to_owned()
                } else {
                    service.breakers_open.join(",")
                },
                service.queued.to_string(),
                cell(service.message.as_deref()),
            ]
        })
        .collect();
    text.push_str(&table(
        &[
            "  SERVICE",
            "TIER",
            "PHASE",
            "READY",
            "RADIUS",
            "REVISION",
            "OPEN BREAKERS",
            "QUEUED",
            "MESSAGE",
        ],
        &rows,
    ));
    text.push('\n');
    measured(text, &status);
}

/// Parts that were away, against their objectives.
fn measured(text: &mut String, status: &OrderServiceSetStatus) {
    let rows: Vec<Vec<String>> = status
        .objectives
        .iter()
        .filter(|row| row.last.is_some())
        .map(|row| {
            let met = if row.met == Some(true) {
                "met"
            } else {
                "MISSED"
            };
            vec![
                format!("  {}", row.part),
                row.rto.clone(),
                cell(row.last.as_deref()),
                cell(row.worst.as_deref()),
                met.to_owned(),
                cell(
                    row.at
                        .as_deref()
                        .map(|at| at.split('.').next().unwrap_or(at)),
                ),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text.push_str(&table(
            &["  WAS AWAY", "OBJECTIVE", "LAST", "WORST", "", "UNTIL"],
            &rows,
        ));
        text.push('\n');
    }
}

fn clusters(text: &mut String, all: &[PostgresCluster]) {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|cluster| {
            let status = cluster.status.clone().unwrap_or_default();
            vec![
                cluster.name_any(),
                cell(status.ready.as_deref()),
                cell(status.leader.as_deref()),
                cell(status.sync.as_deref()),
                status
                    .timeline
                    .map_or_else(|| "-".to_owned(), |timeline| timeline.to_string()),
                cell(status.lag.as_deref()),
                reason(&status.conditions),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text.push_str(&table(
            &[
                "DATABASE", "READY", "LEADER", "SYNC", "TIMELINE", "LAG", "STATUS",
            ],
            &rows,
        ));
        for cluster in all {
            if let Some(status) = &cluster.status {
                unready(text, &cluster.name_any(), &status.conditions);
                rebuild(text, &cluster.name_any(), status);
            }
        }
        text.push('\n');
    }
}

/// Where the rebuild of a managed etcd stands.
fn rebuild(text: &mut String, name: &str, status: &PostgresClusterStatus) {
    let rebuild = status.etcd_rebuild.as_ref();
    if let Some(rebuild) = rebuild.filter(|rebuild| rebuild.phase.is_under_way()) {
        let _ = writeln!(
            text,
            "  {name}: etcd is rebuilt since {}: {}",
            rebuild.since, rebuild.message
        );
    }
}

/// In a sentence what keeps an object from being ready.
fn unready(text: &mut String, name: &str, conditions: &[Condition]) {
    if let Some(ready) = condition(conditions, "Ready")
        .filter(|ready| ready.status != "True" && !ready.message.is_empty())
    {
        let _ = writeln!(text, "  {name}: {}", ready.message);
    }
}

fn pools(text: &mut String, all: &[PgBouncerPool]) {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|pool| {
            let status = pool.status.clone().unwrap_or_default();
            vec![
                pool.name_any(),
                cell(status.ready.as_deref()),
                format!("{:?}", pool.spec.mode),
                cell(status.target.as_deref()),
                status.waiting.to_string(),
                cell(
                    status
                        .last_rewire
                        .as_ref()
                        .map(|rewire| rewire.summary.as_str()),
                ),
                reason(&status.conditions),
            ]
        })
        .collect();
    if !rows.is_empty() {
        text.push_str(&table(
            &[
                "POOL",
                "READY",
                "MODE",
                "TARGET",
                "WAITING",
                "LAST REWIRE",
                "STATUS",
            ],
            &rows,
        ));
        for pool in all {
            if let Some(status) = &pool.status {
                unready(text, &pool.name_any(), &status.conditions);
            }
        }
        text.push('\n');
    }
}

/// What is not as usual: breakers that are not closed, queues that are not empty.
fn resilience(text: &mut String, seen: &Seen) {
    let mut rows = Vec::new();
    let (mut breakers, mut waiting) = (0, 0);
    for object in &seen.resilience {
        let Some(status) = &object.status else {
            continue;
        };
        breakers += status.breakers.len();
        waiting += status
            .queue
            .as_ref()
            .map_or(0, |queue| queue.depth + queue.inquiry);
        for breaker in status
            .breakers
            .iter()
            .filter(|breaker| breaker.state != "Closed")
        {
            rows.push(vec![
                object.name_any(),
                format!("{}/{}", breaker.dependency, breaker.provider),
                breaker.state.clone(),
                cell(breaker.since.as_deref()),
                cell(breaker.reason.as_deref()),
            ]);
        }
    }
    if seen.resilience.is_empty() {
        return;
    }
    let _ = writeln!(
        text,
        "BREAKERS: {} of {breakers} not closed; {waiting} requests wait in queues",
        rows.len()
    );
    if !rows.is_empty() {
        text.push_str(&table(
            &["SERVICE", "BREAKER", "STATE", "SINCE", "REASON"],
            &rows,
        ));
    }
}

/// What goes with each part.
pub(crate) async fn blast(place: &Place, part: Option<&str>) -> Result<String, Error> {
    let api: Api<OrderServiceSet> = Api::namespaced(place.client.clone(), &place.namespace);
    let sets = api
        .list(&ListParams::default())
        .await
        .map_err(Error::request("list OrderServiceSets"))?;
    let Some(set) = sets.items.first() else {
        return Err(Error::Refused(format!(
            "no OrderServiceSet in namespace {}; give another with -n, or see the catalog's own graph with --mermaid",
            place.namespace
        )));
    };
    let rows = set.status.clone().unwrap_or_default().blast_radius;
    match part {
        None => Ok(blast_table(&rows)),
        Some(part) => rows
            .iter()
            .find(|row| row.part == part)
            .map(of_part)
            .ok_or_else(|| {
                let known: Vec<&str> = rows.iter().map(|row| row.part.as_str()).collect();
                Error::Refused(format!(
                    "there is no part `{part}`; name one of {}",
                    known.join(", ")
                ))
            }),
    }
}

fn blast_table(rows: &[BlastRow]) -> String {
    let joined = |all: &[String]| {
        if all.is_empty() {
            "-".to_owned()
        } else {
            all.join(", ")
        }
    };
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.part.clone(),
                format!("{}%", row.radius),
                format!("{}%", row.remaining),
                joined(&row.contained_by),
                joined(&row.fails),
            ]
        })
        .collect();
    table(
        &[
            "IF THIS FAILS",
            "RADIUS",
            "REMAINS",
            "HELD UP BY",
            "FAILS WITH IT",
        ],
        &rows,
    )
}

fn of_part(row: &BlastRow) -> String {
    let mut text = blast_table(std::slice::from_ref(row));
    text.push('\n');
    let flows: Vec<Vec<String>> = row.flows.iter().map(|flow| vec![flow.clone()]).collect();
    text.push_str(&table(&["CUSTOMERS LOSE"], &flows));
    text
}
