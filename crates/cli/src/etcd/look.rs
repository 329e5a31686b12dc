//! What is found of a cluster's etcd and of its database, by asking each pod.

use std::fmt::Write;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams};
use serde_json::Value;

use crate::forward::{Request, send};
use crate::table::{cell, table};
use crate::{Error, Place};
use mrg_api::PostgresCluster;

/// Where etcd tells about its health.
const ETCD_HEALTH_PORT: u16 = 2381;
const REST_PORT: u16 = 8008;

/// How long a pod may take to answer.
const WITHIN: Duration = Duration::from_secs(10);

/// A member of etcd.
pub(super) struct EtcdMember {
    pub(super) name: String,
    pub(super) node: String,
    /// Whether it answers linearizable reads, which takes a quorum.
    pub(super) healthy: bool,
    pub(super) says: String,
}

/// A member of the database.
pub(super) struct DatabaseMember {
    pub(super) name: String,
    /// Whether it says that it accepts writes.
    pub(super) leads: bool,
    /// Whether it does so by its members' promises, and not by a lease.
    pub(super) by_promises: bool,
    /// When its postmaster was started.
    pub(super) started: Option<String>,
    pub(super) says: String,
}

pub(super) struct Seen {
    pub(super) etcd: Vec<EtcdMember>,
    pub(super) database: Vec<DatabaseMember>,
}

/// Asks every pod of a cluster.
///
/// # Errors
/// If the pods cannot be listed. Where one does not answer, the reason stands in its place.
pub(super) async fn look(place: &Place, cluster: &str) -> Result<Seen, Error> {
    let pods: Api<Pod> = Api::namespaced(place.client.clone(), &place.namespace);
    let of_cluster = ListParams::default().labels(&format!("mrg.bluebird.id/cluster={cluster}"));
    let all = pods
        .list(&of_cluster)
        .await
        .map_err(Error::request(format!("list the pods of {cluster}")))?;
    let mut seen = Seen {
        etcd: Vec::new(),
        database: Vec::new(),
    };
    for pod in all {
        match pod
            .labels()
            .get("app.kubernetes.io/name")
            .map(String::as_str)
        {
            Some("etcd") => seen.etcd.push(etcd_member(place, &pods, &pod).await),
            Some("postgres") => seen.database.push(database_member(place, &pod).await),
            _ => {}
        }
    }
    seen.etcd.sort_by(|a, b| a.name.cmp(&b.name));
    seen.database.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(seen)
}

async fn etcd_member(place: &Place, pods: &Api<Pod>, pod: &Pod) -> EtcdMember {
    let name = pod.name_any();
    let (healthy, says) = match hindrance(pods, pod).await {
        Some(why) => (false, why),
        None => match ask(place, &name, ETCD_HEALTH_PORT, "/health").await {
            Ok((200, _)) => (true, String::new()),
            Ok((_, body)) => (false, format!("no quorum: {}", reason(&body))),
            Err(why) => (false, why),
        },
    };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    EtcdMember {
        node: cell(node.as_deref()),
        name,
        healthy,
        says,
    }
}

/// The words in etcd's `{"health":"false","reason":"RAFT NO LEADER"}`.
fn reason(body: &str) -> String {
    let value: Option<Value> = serde_json::from_str(body).ok();
    let reason = value.and_then(|value| Some(value["reason"].as_str()?.to_owned()));
    reason.unwrap_or_else(|| body.trim().to_owned())
}

async fn database_member(place: &Place, pod: &Pod) -> DatabaseMember {
    let name = pod.name_any();
    let (leads, report) = match ask(place, &name, REST_PORT, "/primary").await {
        Ok((code, body)) => (code == 200, serde_json::from_str(&body).unwrap_or_default()),
        Err(why) => (false, Value::String(why)),
    };
    let says = report["reason"]["message"].as_str().or(report.as_str());
    DatabaseMember {
        name,
        leads,
        by_promises: report["failsafe_mode_is_active"] == true,
        started: report["postmaster_start_time"].as_str().map(str::to_owned),
        says: says.unwrap_or_default().to_owned(),
    }
}

async fn ask(place: &Place, pod: &str, port: u16, path: &str) -> Result<(u16, String), String> {
    let request = Request {
        pod,
        port,
        method: "GET",
        path,
        authorization: String::new(),
        body: String::new(),
    };
    match tokio::time::timeout(WITHIN, send(place, request)).await {
        Ok(answer) => answer.map_err(|error| mrg_telemetry::chain(&error)),
        Err(_) => Err(format!("no answer within {} s", WITHIN.as_secs())),
    }
}

/// What keeps a pod from running, with the last words of a container that ended.
async fn hindrance(pods: &Api<Pod>, pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("its pod ends".to_owned());
    }
    let status = pod.status.as_ref()?;
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        let why = condition.message.as_deref().unwrap_or("unknown why");
        return Some(format!("its pod has no node: {why}"));
    }
    let mut containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    let waiting = |container: &k8s_openapi::api::core::v1::ContainerStatus| {
        let reason = container.state.as_ref()?.waiting.as_ref()?.reason.clone()?;
        (reason != "PodInitializing").then(|| (container.name.clone(), reason))
    };
    let (container, reason) = containers.find_map(waiting)?;
    let last = LogParams {
        container: Some(container.clone()),
        previous: true,
        tail_lines: Some(1),
        ..LogParams::default()
    };
    let words = pods.logs(&pod.name_any(), &last).await.unwrap_or_default();
    Some(format!("container {container}: {reason}: {}", words.trim()))
}

impl Seen {
    /// A member that says that etcd has its quorum, if one does.
    pub(super) fn quorum(&self) -> Option<&str> {
        let healthy = self.etcd.iter().find(|member| member.healthy);
        healthy.map(|member| member.name.as_str())
    }

    /// The member that accepts writes.
    pub(super) fn primary(&self) -> Option<&DatabaseMember> {
        self.database.iter().find(|member| member.leads)
    }

    /// What was found, for a person.
    pub(super) fn text(&self, object: &PostgresCluster) -> String {
        let row = |member: &EtcdMember| {
            let says = if member.healthy {
                "has a quorum"
            } else {
                &member.says
            };
            vec![member.name.clone(), member.node.clone(), says.to_owned()]
        };
        let rows: Vec<Vec<String>> = self.etcd.iter().map(row).collect();
        let mut text = table(&["ETCD", "NODE", "SAYS"], &rows);
        let _ = match self.primary() {
            Some(primary) => writeln!(text, "{}", led(primary, object)),
            None => writeln!(text, "no member of the database accepts writes"),
        };
        for member in self.database.iter().filter(|member| !member.leads) {
            let _ = writeln!(text, "{}: {}", member.name, cell(Some(&member.says)));
        }
        text
    }
}

fn led(primary: &DatabaseMember, object: &PostgresCluster) -> String {
    let by = if primary.by_promises {
        format!(
            "its members' promises, renewed for {} at a time as long as every member answers",
            object.spec.failover.ttl
        )
    } else {
        "its lease".to_owned()
    };
    let since = primary
        .started
        .as_ref()
        .map_or_else(String::new, |started| {
            format!("; its server runs since {started}")
        });
    format!("{} leads by {by}{since}", primary.name)
}
