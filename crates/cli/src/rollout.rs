//! Changes that are being tried out: what they are at, and what people say to them.

use clap::ValueEnum;
use kube::ResourceExt;
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::json;

use super::table::{cell, table};
use super::{Error, Place};
use mrg_api::OrderServiceSet;

/// What is said to a trial.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Say {
    /// Skip what is left: all pods become the new version
    Promote,
    /// Stay as it is
    Pause,
    /// Go on
    Resume,
    /// Take the new version away
    Abort,
    /// Try an aborted change once more
    Retry,
}

/// Shows changes, or says something to one.
pub(crate) async fn rollout(place: &Place, said: Option<(String, Say)>) -> Result<String, Error> {
    let api: Api<OrderServiceSet> = Api::namespaced(place.client.clone(), &place.namespace);
    let all = api
        .list(&ListParams::default())
        .await
        .map_err(Error::request("list OrderServiceSets"))?;
    let Some((service, say)) = said else {
        return Ok(show(&all.items, &place.namespace));
    };
    let has = |set: &&OrderServiceSet| {
        set.status
            .as_ref()
            .is_some_and(|status| status.services.iter().any(|known| known.name == service))
    };
    let Some(set) = all.iter().find(has) else {
        return Err(Error::Refused(format!(
            "no OrderServiceSet in {} has a service `{service}`; see `kubectl mrg rollout`",
            place.namespace
        )));
    };
    let trial = set.status.as_ref().and_then(|status| {
        status
            .services
            .iter()
            .find(|known| known.name == service)?
            .canary
            .clone()
    });
    let Some(trial) = trial else {
        return Err(Error::Refused(format!(
            "no change of {service} is being tried out; there is nothing to {}",
            format!("{say:?}").to_lowercase()
        )));
    };
    let word = format!("{say:?}").to_lowercase();
    let patch = json!({ "metadata": { "annotations": { format!("mrg.bluebird.id/rollout-{service}"): word } } });
    let operation = format!("say {word} to {service}");
    api.patch(
        &set.name_any(),
        &PatchParams::default(),
        &Patch::Merge(&patch),
    )
    .await
    .map_err(Error::request(operation))?;
    Ok(format!(
        "{service}: revision {} is told to {word}; `kubectl mrg rollout` shows what follows\n",
        trial.revision
    ))
}

fn show(all: &[OrderServiceSet], namespace: &str) -> String {
    let mut rows = Vec::new();
    for set in all {
        for service in set.status.iter().flat_map(|status| &status.services) {
            let Some(trial) = &service.canary else {
                continue;
            };
            rows.push(vec![
                service.name.clone(),
                cell(service.revision.as_deref()),
                trial.revision.clone(),
                format!("{:?}", trial.phase),
                format!("{}%", trial.weight),
                format!("{}/{}", (trial.step + 1).min(trial.steps), trial.steps),
                trial.message.clone(),
            ]);
        }
    }
    if rows.is_empty() {
        return format!("nothing is being tried out in {namespace}\n");
    }
    table(
        &[
            "SERVICE", "SERVES", "TRIES", "PHASE", "WEIGHT", "STEP", "WHY",
        ],
        &rows,
    )
}
