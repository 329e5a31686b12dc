//! Requests that wait, for people: list, show, replay, discard. Sidecars keep them; any one of a
//! service sees those in the database.

use std::collections::BTreeMap;

use clap::Subcommand;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use serde_json::Value;

use super::ask::confirm;
use super::forward::{Request, secret, send};
use super::table::{cell, table};
use super::{Error, Place};

const ADMIN_PORT: u16 = 15_021;

/// What is done with requests that wait.
#[derive(Subcommand)]
pub enum QueueCommand {
    /// What waits for a service's dependencies
    List {
        /// The ServiceResilience; a service's name in a platform
        service: String,
    },
    /// One request, with its payload: this is a customer's
    Show {
        /// The ServiceResilience
        service: String,
        /// The ticket
        ticket: String,
    },
    /// Sends a request now, also one that may have been processed: ask there first
    Replay {
        /// The ServiceResilience
        service: String,
        /// The ticket
        ticket: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Gives a request up
    Discard {
        /// The ServiceResilience
        service: String,
        /// The ticket
        ticket: String,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

pub(crate) async fn run(place: &Place, command: QueueCommand) -> Result<String, Error> {
    match command {
        QueueCommand::List { service } => list(place, &service).await,
        QueueCommand::Show { service, ticket } => {
            one(place, &service, "GET", &format!("/queue/{ticket}")).await
        }
        QueueCommand::Replay {
            service,
            ticket,
            yes,
        } => {
            confirm(&format!("Send {ticket} of {service}"), yes)?;
            one(place, &service, "POST", &format!("/queue/{ticket}/replay")).await
        }
        QueueCommand::Discard {
            service,
            ticket,
            yes,
        } => {
            confirm(&format!("Give {ticket} of {service} up for good"), yes)?;
            one(place, &service, "POST", &format!("/queue/{ticket}/discard")).await
        }
    }
}

/// The running pods of a service that have its sidecar.
async fn pods(place: &Place, service: &str) -> Result<Vec<String>, Error> {
    let api: Api<Pod> = Api::namespaced(place.client.clone(), &place.namespace);
    let with_sidecar = ListParams::default()
        .labels(&format!("mrg.bluebird.id/resilience={service}"))
        .fields("status.phase=Running");
    let pods = api
        .list(&with_sidecar)
        .await
        .map_err(Error::request(format!("list the pods of {service}")))?;
    let names: Vec<String> = pods
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .map(ResourceExt::name_any)
        .collect();
    if names.is_empty() {
        return Err(Error::Refused(format!(
            "no pod of {service} with a sidecar runs in {}; `kubectl get sres` lists the services",
            place.namespace
        )));
    }
    Ok(names)
}

async fn ask(
    place: &Place,
    pod: &str,
    token: &str,
    method: &str,
    path: &str,
) -> Result<(u16, String), Error> {
    let authorization = format!("Bearer {token}");
    send(
        place,
        Request {
            pod,
            port: ADMIN_PORT,
            method,
            path,
            authorization,
            body: String::new(),
        },
    )
    .await
}

async fn list(place: &Place, service: &str) -> Result<String, Error> {
    let token = secret(place, &format!("{service}-proxy"), "token").await?;
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for pod in pods(place, service).await? {
        let (code, text) = ask(place, &pod, &token, "GET", "/queue").await?;
        match (code, serde_json::from_str::<Vec<Value>>(&text)) {
            (200, Ok(items)) => {
                all.extend(
                    items
                        .into_iter()
                        .map(|item| (item["ticket"].as_str().unwrap_or_default().to_owned(), item)),
                );
            }
            (404, _) => {
                return Err(Error::Refused(format!(
                    "{service} keeps no queue: none of its dependencies has a fallback of that kind"
                )));
            }
            _ => {
                return Err(Error::Pod {
                    pod,
                    why: text.trim().to_owned(),
                });
            }
        }
    }
    if all.is_empty() {
        return Ok("nothing waits\n".to_owned());
    }
    let text = |item: &Value, name: &str| cell(item[name].as_str());
    let mut items: Vec<&Value> = all.values().collect();
    items.sort_by_key(|item| item["created"].as_str().unwrap_or_default().to_owned());
    let rows: Vec<Vec<String>> = items
        .iter()
        .map(|item| {
            let names = ["ticket", "dependency", "standing", "created", "retryAt"];
            let mut row: Vec<String> = names.iter().map(|name| text(item, name)).collect();
            row.push(item["attempts"].to_string());
            row.push(format!("{} {}", text(item, "method"), text(item, "path")));
            row.push(text(item, "note"));
            row
        })
        .collect();
    Ok(table(
        &[
            "TICKET",
            "DEPENDENCY",
            "STANDING",
            "CREATED",
            "RETRY AT",
            "ATTEMPTS",
            "REQUEST",
            "NOTE",
        ],
        &rows,
    ))
}

/// Whichever pod knows the ticket.
async fn one(place: &Place, service: &str, method: &str, path: &str) -> Result<String, Error> {
    let token = secret(place, &format!("{service}-proxy"), "token").await?;
    let mut last = String::new();
    for pod in pods(place, service).await? {
        let (code, text) = ask(place, &pod, &token, method, path).await?;
        if code == 200 {
            let value: Option<Value> = serde_json::from_str(&text).ok();
            return Ok(value
                .and_then(|value| serde_json::to_string_pretty(&value).ok())
                .unwrap_or(text)
                + "\n");
        }
        last = text;
    }
    Err(Error::Refused(last.trim().to_owned()))
}
