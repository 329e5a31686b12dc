//! Breakers: listed, forced for a time, released. What is forced stands in the spec, with its
//! reason and its end: in the platform's object where the service belongs to one.

use clap::{Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};

use super::table::{cell, table};
use super::{Error, Place};
use mrg_api::{Duration, OrderServiceSet, ServiceResilience};

/// What is done with breakers.
#[derive(Subcommand)]
pub enum Breakers {
    /// All of them; those that are not closed first
    List,
    /// Forces one, for a reason and for a time; then it decides again by itself
    Force {
        /// The ServiceResilience; a service's name in a platform
        service: String,
        /// DEPENDENCY or DEPENDENCY/PROVIDER
        breaker: String,
        /// What it is to be
        state: Forced,
        /// Why; shown wherever the breaker is
        #[arg(long)]
        reason: String,
        /// For how long, such as 30m
        #[arg(long = "for", default_value = "30m")]
        lasting: String,
    },
    /// Lets one decide by itself again
    Release {
        /// The ServiceResilience
        service: String,
        /// DEPENDENCY or DEPENDENCY/PROVIDER
        breaker: String,
    },
}

/// What a breaker is forced to be.
#[derive(Clone, Copy, ValueEnum)]
pub enum Forced {
    /// Nothing is let through
    Open,
    /// Everything is
    Closed,
}

pub(crate) async fn run(place: &Place, command: Breakers) -> Result<String, Error> {
    match command {
        Breakers::List => list(place).await,
        Breakers::Force {
            service,
            breaker,
            state,
            reason,
            lasting,
        } => {
            let (until, lasts) = until(&lasting, Timestamp::now())?;
            let state = match state {
                Forced::Open => "Open",
                Forced::Closed => "Closed",
            };
            let forced = json!({ "state": state, "reason": reason, "until": until });
            change(place, &service, &breaker, Some(forced)).await?;
            Ok(format!(
                "{service}: {breaker} is forced {} for {lasts}, until {until}\n",
                state.to_lowercase()
            ))
        }
        Breakers::Release { service, breaker } => {
            change(place, &service, &breaker, None).await?;
            Ok(format!("{service}: {breaker} decides by itself again\n"))
        }
    }
}

fn until(lasting: &str, now: Timestamp) -> Result<(String, Duration), Error> {
    let lasts = Duration::try_from(lasting.to_owned())
        .map_err(|error| Error::Refused(format!("--for {lasting}: {error}")))?;
    let end = i64::try_from(lasts.as_seconds())
        .ok()
        .and_then(|seconds| now.checked_add(SignedDuration::from_secs(seconds)).ok());
    let end = end.and_then(|end| Timestamp::from_second(end.as_second()).ok());
    end.map(|end| (end.to_string(), lasts))
        .ok_or_else(|| Error::Refused(format!("--for {lasting}: that is too long")))
}

async fn list(place: &Place) -> Result<String, Error> {
    let api: Api<ServiceResilience> = Api::namespaced(place.client.clone(), &place.namespace);
    let all = api
        .list(&ListParams::default())
        .await
        .map_err(Error::request("list ServiceResiliences"))?;
    let mut rows: Vec<(bool, Vec<String>)> = Vec::new();
    for object in &all {
        for breaker in object.status.iter().flat_map(|status| &status.breakers) {
            let row = vec![
                object.name_any(),
                format!("{}/{}", breaker.dependency, breaker.provider),
                breaker.state.clone(),
                format!(
                    "{} of {}",
                    breaker.open,
                    breaker.open + breaker.half_open + breaker.closed
                ),
                cell(breaker.since.as_deref()),
                cell(breaker.next_probe.as_deref()),
                cell(breaker.reason.as_deref()),
            ];
            rows.push((breaker.state == "Closed", row));
        }
    }
    if rows.is_empty() {
        return Ok(format!("no breakers in {}\n", place.namespace));
    }
    rows.sort();
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(_, row)| row).collect();
    Ok(table(
        &[
            "SERVICE",
            "BREAKER",
            "STATE",
            "OPEN IN PODS",
            "SINCE",
            "NEXT PROBE",
            "REASON",
        ],
        &rows,
    ))
}

/// Puts an override in place of the one for the same breaker, or takes it away.
async fn change(
    place: &Place,
    service: &str,
    breaker: &str,
    forced: Option<Value>,
) -> Result<(), Error> {
    let (dependency, provider) = breaker
        .split_once('/')
        .map_or((breaker, None), |(dependency, provider)| {
            (dependency, Some(provider))
        });
    let api: Api<ServiceResilience> = Api::namespaced(place.client.clone(), &place.namespace);
    let resilience = api.get(service).await.map_err(Error::request(format!(
        "read the ServiceResilience {service}"
    )))?;
    let owner = resilience
        .owner_references()
        .iter()
        .find(|owner| owner.kind == OrderServiceSet::kind(&()));
    let (kind, name) = owner.map_or(("ServiceResilience", service), |owner| {
        ("OrderServiceSet", owner.name.as_str())
    });
    let resource = ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("mrg.bluebird.id", "v1alpha1", kind),
        &format!("{}s", kind.to_lowercase()),
    );
    let api: Api<DynamicObject> =
        Api::namespaced_with(place.client.clone(), &place.namespace, &resource);
    let object = api
        .get(name)
        .await
        .map_err(Error::request(format!("read the {kind} {name}")))?;
    let mut spec = object.data["spec"].clone();
    let overrides = if kind == "OrderServiceSet" {
        of_service(&mut spec, service)
    } else {
        list_of(&mut spec, "overrides")
    };
    let before = overrides.clone();
    overrides.retain(|other| {
        other["dependency"] != *dependency || other["provider"].as_str() != provider
    });
    match forced {
        Some(mut forced) => {
            forced["dependency"] = json!(dependency);
            if let Some(provider) = provider {
                forced["provider"] = json!(provider);
            }
            overrides.push(forced);
        }
        None if *overrides == before => {
            return Err(Error::Refused(format!(
                "{breaker} of {service} is not forced; `kubectl mrg breakers list` shows those that are"
            )));
        }
        None => {}
    }
    let field = if kind == "OrderServiceSet" {
        "services"
    } else {
        "overrides"
    };
    // The version says that nobody else changed the list meanwhile.
    let patch = json!({ "metadata": { "resourceVersion": object.resource_version() }, "spec": { field: spec[field] } });
    let parameters = PatchParams {
        field_manager: Some("kubectl-mrg".to_owned()),
        ..PatchParams::default()
    };
    api.patch(name, &parameters, &Patch::Merge(&patch))
        .await
        .map_err(Error::request(format!("change the {kind} {name}")))?;
    Ok(())
}

fn list_of<'a>(parent: &'a mut Value, field: &str) -> &'a mut Vec<Value> {
    if !parent[field].is_array() {
        parent[field] = json!([]);
    }
    match &mut parent[field] {
        Value::Array(list) => list,
        _ => unreachable!("it was made a list above"),
    }
}

/// The overrides of a service of the platform, with an entry for it if there is none.
fn of_service<'a>(spec: &'a mut Value, service: &str) -> &'a mut Vec<Value> {
    let services = list_of(spec, "services");
    let at = services
        .iter()
        .position(|entry| entry["name"] == *service)
        .unwrap_or_else(|| {
            services.push(json!({ "name": service }));
            services.len() - 1
        });
    list_of(&mut services[at], "overrides")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_of_the_platform_gets_an_entry_only_if_it_has_none() {
        let mut spec = json!({ "services": [{ "name": "fds", "overrides": [1] }] });
        assert_eq!(of_service(&mut spec, "fds").len(), 1);
        of_service(&mut spec, "userservice").push(json!(2));
        assert_eq!(
            spec["services"][1],
            json!({ "name": "userservice", "overrides": [2] })
        );
    }

    #[test]
    fn the_end_is_a_whole_second_and_nonsense_is_refused() {
        let now: Timestamp = "2026-11-24T01:00:00.5Z".parse().unwrap();
        assert_eq!(until("30m", now).unwrap().0, "2026-11-24T01:30:00Z");
        assert!(
            until("half an hour", now)
                .unwrap_err()
                .to_string()
                .contains("such as 30s")
        );
    }
}
