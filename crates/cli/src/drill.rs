//! Kills a part on purpose, and says how long it was away: what objectives rest on when nothing has
//! failed yet.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams};
use tokio::time::Instant;

use super::ask::confirm;
use super::table::{cell, table};
use super::{Error, Place};
use mrg_api::order_service_set::ObjectiveRow;
use mrg_api::{OrderServiceSet, PgBouncerPool, PostgresCluster};

/// Longer than any objective of the analysis would be patient for here.
const PATIENCE: Duration = Duration::from_secs(600);

/// Kills a service in all its pods, or the database's leader, after asking; then waits until the
/// status says how long it was away.
pub(crate) async fn drill(
    place: &Place,
    part: &str,
    anyway: bool,
    yes: bool,
) -> Result<String, Error> {
    let sets: Api<OrderServiceSet> = Api::namespaced(place.client.clone(), &place.namespace);
    let all = sets
        .list(&ListParams::default())
        .await
        .map_err(Error::request("list OrderServiceSets"))?;
    let Some(set) = all.items.first() else {
        return Err(Error::Refused(format!(
            "there is no OrderServiceSet in {}; give another namespace with -n",
            place.namespace
        )));
    };
    let status = set.status.clone().unwrap_or_default();
    let Some(before) = status
        .objectives
        .iter()
        .find(|row| row.part == part)
        .cloned()
    else {
        let known: Vec<&str> = status
            .objectives
            .iter()
            .map(|row| row.part.as_str())
            .collect();
        return Err(Error::Refused(format!(
            "`{part}` is no part of {}: name one of {}",
            set.name_any(),
            known.join(", ")
        )));
    };
    let risk = status.risk.clone().unwrap_or_default();
    if risk != "-" && !anyway {
        return Err(Error::Refused(format!(
            "something fails already ({risk}): a drill now would be the second failure; end that first, or say --anyway"
        )));
    }
    let radius = status
        .blast_radius
        .iter()
        .find(|row| row.part == part)
        .map_or(0, |row| row.remaining);
    let victims = victims(place, set, part).await?;
    let names: Vec<String> = victims.iter().map(ResourceExt::name_any).collect();
    confirm(
        &format!(
            "Kill {} without warning? With {part} goes {radius}% of the platform; its objective is {}",
            names.join(", "),
            before.rto
        ),
        yes,
    )?;
    let sync = leader_and_sync(place).await?;
    let pods: Api<Pod> = Api::namespaced(place.client.clone(), &place.namespace);
    let began = Instant::now();
    for name in &names {
        let at_once = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        pods.delete(name, &at_once)
            .await
            .map_err(Error::request(format!("kill {name}")))?;
    }
    let after = measured(&sets, &set.name_any(), part, &before).await?;
    let lost = if part == "postgresql" {
        lost(&sync, &leader_and_sync(place).await?)
    } else {
        "-".to_owned()
    };
    let row = vec![
        part.to_owned(),
        after.rto.clone(),
        cell(after.last.as_deref()),
        cell(after.worst.as_deref()),
        if after.met == Some(true) {
            "met".to_owned()
        } else {
            "MISSED".to_owned()
        },
        lost,
    ];
    let seen = began.elapsed().as_secs_f32();
    Ok(format!(
        "{}\nseen in the status after {seen:.1} s\n",
        table(
            &["PART", "OBJECTIVE", "AWAY", "WORST", "", "DATA LOST"],
            &[row]
        )
        .trim_end()
    ))
}

async fn victims(place: &Place, set: &OrderServiceSet, part: &str) -> Result<Vec<Pod>, Error> {
    let pods: Api<Pod> = Api::namespaced(place.client.clone(), &place.namespace);
    if part == "postgresql" {
        let (leader, _) = leader_and_sync(place).await?;
        let leader = leader.ok_or_else(|| {
            Error::Refused("there is no leader now that could be killed".to_owned())
        })?;
        return Ok(vec![
            pods.get(&leader)
                .await
                .map_err(Error::request(format!("read the pod {leader}")))?,
        ]);
    }
    let selector = format!(
        "mrg.bluebird.id/set={},mrg.bluebird.id/service={part}",
        set.name_any()
    );
    let found = pods
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(Error::request(format!("list the pods of {part}")))?;
    if found.items.is_empty() {
        return Err(Error::Refused(format!(
            "{part} has no pods here: kill it where it runs; how long it is away is measured all the same"
        )));
    }
    Ok(found.items)
}

/// The leader of the platform's database, and who could take over without loss.
async fn leader_and_sync(place: &Place) -> Result<(Option<String>, Vec<String>), Error> {
    let sets: Api<OrderServiceSet> = Api::namespaced(place.client.clone(), &place.namespace);
    let pools: Api<PgBouncerPool> = Api::namespaced(place.client.clone(), &place.namespace);
    let clusters: Api<PostgresCluster> = Api::namespaced(place.client.clone(), &place.namespace);
    let all = sets
        .list(&ListParams::default())
        .await
        .map_err(Error::request("list OrderServiceSets"))?;
    let Some(database) = all.items.into_iter().find_map(|set| set.spec.database) else {
        return Ok((None, Vec::new()));
    };
    let pool = pools
        .get(&database.write.name)
        .await
        .map_err(Error::request(format!(
            "read the PgBouncerPool {}",
            database.write.name
        )))?;
    let name = pool.spec.cluster_ref.name;
    let cluster = clusters
        .get(&name)
        .await
        .map_err(Error::request(format!("read the PostgresCluster {name}")))?;
    let status = cluster.status.unwrap_or_default();
    let sync = status
        .sync
        .unwrap_or_default()
        .split(',')
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    Ok((status.leader, sync))
}

/// What was lost: nothing, if one took over that had everything that was acknowledged.
fn lost(before: &(Option<String>, Vec<String>), after: &(Option<String>, Vec<String>)) -> String {
    match &after.0 {
        Some(leader) if before.1.contains(leader) => {
            format!("0: {leader} was a synchronous standby")
        }
        Some(leader) if before.0.as_ref() == Some(leader) => {
            format!("0: {leader} came back itself")
        }
        _ => "unknown".to_owned(),
    }
}

async fn measured(
    sets: &Api<OrderServiceSet>,
    name: &str,
    part: &str,
    before: &ObjectiveRow,
) -> Result<ObjectiveRow, Error> {
    let end = Instant::now() + PATIENCE;
    loop {
        let set = sets
            .get(name)
            .await
            .map_err(Error::request(format!("read the OrderServiceSet {name}")))?;
        let row = set
            .status
            .and_then(|status| status.objectives.into_iter().find(|row| row.part == part));
        if let Some(row) = row.filter(|row| row.at != before.at) {
            return Ok(row);
        }
        if Instant::now() >= end {
            return Err(Error::Refused(format!(
                "{part} is not back after {} s; see `kubectl mrg status`",
                PATIENCE.as_secs()
            )));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
