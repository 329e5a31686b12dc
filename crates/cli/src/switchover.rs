//! A planned change of leader, as the agents' REST interface does it.

use base64::Engine;
use kube::api::Api;
use serde_json::json;

use super::ask::confirm;
use super::forward::{Request, secret, send};
use super::{Error, Place};
use mrg_api::PostgresCluster;

const REST_PORT: u16 = 8008;

/// Moves the lead.
pub(crate) async fn switchover(
    place: &Place,
    name: &str,
    to: Option<&str>,
    yes: bool,
) -> Result<String, Error> {
    let clusters: Api<PostgresCluster> = Api::namespaced(place.client.clone(), &place.namespace);
    let cluster = clusters
        .get(name)
        .await
        .map_err(Error::request(format!("read the PostgresCluster {name}")))?;
    let status = cluster.status.unwrap_or_default();
    let Some(leader) = status.leader else {
        return Err(Error::Refused(format!(
            "{name} has no leader now, so there is nothing to move; see `kubectl describe pgc {name}`"
        )));
    };
    if let Some(to) = to {
        let members: Vec<&str> = status
            .members
            .iter()
            .map(|member| member.name.as_str())
            .filter(|member| *member != leader)
            .collect();
        if !members.contains(&to) {
            return Err(Error::Refused(format!(
                "{to} cannot take over from {leader}: name one of {}",
                members.join(", ")
            )));
        }
    }
    confirm(
        &format!(
            "Move the lead of {name} from {leader} to {}",
            to.unwrap_or("the best member")
        ),
        yes,
    )?;
    let password = secret(place, &format!("{name}-credentials"), "rest-password").await?;
    let mut body = json!({ "leader": leader });
    if let Some(to) = to {
        body["candidate"] = json!(to);
    }
    let request = Request {
        pod: &leader,
        port: REST_PORT,
        method: "POST",
        path: "/switchover",
        authorization: format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(format!("mrg:{password}"))
        ),
        body: body.to_string(),
    };
    let (code, text) = send(place, request).await?;
    if code == 200 {
        Ok(format!("{}\n", text.trim()))
    } else {
        Err(Error::Refused(format!("{leader} says: {}", text.trim())))
    }
}
