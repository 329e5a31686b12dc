//! Members that neither lead nor stream, and why: by their pods, and by their own words. For
//! those who read `kubectl describe pgc` at night.

use k8s_openapi::api::core::v1::{ContainerStateWaiting, Pod};

use super::observe::Observed;
use super::validate::Desired;
use mrg_api::postgres_cluster::MemberStatus;

/// Waiting that is part of every start.
const ORDINARY: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Whether a member does what it is there for. `leads` says whether the holder of the key accepts
/// writes.
pub(super) fn is_good(member: &MemberStatus, leads: bool) -> bool {
    member.state == "streaming" || member.role == "leader" && leads
}

/// `NAME: why`, for each that is absent.
pub(super) fn absent(
    desired: &Desired,
    observed: &Observed,
    members: &[MemberStatus],
    leads: bool,
) -> Vec<String> {
    let names = (0..desired.spec.replicas).map(|ordinal| format!("{}-{ordinal}", desired.name));
    names
        .filter_map(|name| {
            let member = members.iter().find(|member| member.name == name);
            let good = member.is_some_and(|member| is_good(member, leads));
            let why = || match observed.pods.get(&name) {
                None => format!(
                    "no pod; kubectl describe statefulset {} says why",
                    desired.name
                ),
                Some(pod) => trouble(pod)
                    .or_else(|| obstacle(observed, &name))
                    .unwrap_or_else(|| own_words(member)),
            };
            (!good).then(|| format!("{name}: {}", why()))
        })
        .collect()
}

fn obstacle(observed: &Observed, name: &str) -> Option<String> {
    observed
        .dcs
        .as_ref()?
        .members
        .iter()
        .find(|(member, _)| member.as_str() == name)?
        .1
        .obstacle
        .clone()
}

fn own_words(member: Option<&MemberStatus>) -> String {
    match member.map(|member| member.state.as_str()) {
        None => "has not been heard of yet".to_owned(),
        Some("running") => "does not stream yet".to_owned(),
        Some(state) => state.to_owned(),
    }
}

/// What keeps a pod from running.
pub(super) fn trouble(pod: &Pod) -> Option<String> {
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
        return Some(format!(
            "its pod has no node: {}",
            condition.message.as_deref().unwrap_or("unknown why")
        ));
    }
    let containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    containers
        .filter_map(|container| {
            Some((&container.name, container.state.as_ref()?.waiting.as_ref()?))
        })
        .find_map(|(name, waiting)| Some(format!("container {name}: {}", hindrance(waiting)?)))
}

fn hindrance(waiting: &ContainerStateWaiting) -> Option<String> {
    let reason = waiting
        .reason
        .as_deref()
        .filter(|reason| !ORDINARY.contains(reason))?;
    Some(waiting.message.as_ref().map_or_else(
        || reason.to_owned(),
        |message| format!("{reason}: {message}"),
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::kinds::postgres_cluster::validate::tests::with_databases;

    fn desired() -> Desired {
        with_databases(&[]).unwrap()
    }

    fn member(name: &str, role: &str, state: &str) -> MemberStatus {
        let (name, role, state) = (name.to_owned(), role.to_owned(), state.to_owned());
        MemberStatus {
            name,
            role,
            state,
            timeline: Some(1),
            pending_restart: false,
        }
    }

    fn observed(pods: &[(&str, Value)]) -> Observed {
        let pod = |(name, status): &(&str, Value)| {
            let pod = json!({ "metadata": { "name": name }, "status": status });
            ((*name).to_owned(), serde_json::from_value(pod).unwrap())
        };
        Observed {
            pods: pods.iter().map(pod).collect(),
            etcd_pods: BTreeMap::new(),
            dcs: None,
            etcd_alarms: Vec::new(),
        }
    }

    #[test]
    fn a_member_that_says_what_is_in_its_way_is_heard() {
        let obstacle = mrg_election::Reason::NotInSync.sentence();
        let data = mrg_dcs::wire::MemberData {
            obstacle: Some(obstacle.to_owned()),
            ..Default::default()
        };
        let members = BTreeMap::from([(mrg_base::MemberName::new("c-1").unwrap(), data)]);
        let mut observed = observed(&[("c-0", json!({})), ("c-1", json!({})), ("c-2", json!({}))]);
        observed.dcs = Some(crate::kinds::postgres_cluster::observe::Dcs {
            cluster: mrg_election::Cluster::default(),
            members,
            config: None,
        });
        let members = [
            member("c-0", "replica", "streaming"),
            member("c-1", "replica", "running"),
            member("c-2", "replica", "streaming"),
        ];
        assert_eq!(
            absent(&desired(), &observed, &members, false),
            [format!("c-1: {obstacle}")]
        );
    }

    #[test]
    fn a_member_that_streams_or_leads_is_not_absent() {
        let members = [
            member("c-0", "leader", "running"),
            member("c-1", "sync", "streaming"),
            member("c-2", "replica", "streaming"),
        ];
        let pods = observed(&[("c-0", json!({})), ("c-1", json!({})), ("c-2", json!({}))]);
        assert!(absent(&desired(), &pods, &members, true).is_empty());
        let told = absent(&desired(), &pods, &members, false);
        assert_eq!(
            told,
            ["c-0: does not stream yet"],
            "it has the key and does not accept writes"
        );
    }

    #[test]
    fn each_absent_member_is_named_with_what_keeps_it() {
        let waiting = |reason: &str| json!({ "containerStatuses": [{ "name": "postgres", "image": "i", "imageID": "", "ready": false, "restartCount": 3, "state": { "waiting": { "reason": reason, "message": "back-off 40s" } } }] });
        let unscheduled = json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/3 nodes are available" }] });
        let told = |pods: &[(&str, Value)], members: &[MemberStatus]| {
            absent(&desired(), &observed(pods), members, true).join("; ")
        };
        assert_eq!(
            told(
                &[("c-1", waiting("CrashLoopBackOff")), ("c-2", unscheduled)],
                &[]
            ),
            "c-0: no pod; kubectl describe statefulset c says why; c-1: container postgres: CrashLoopBackOff: back-off 40s; \
             c-2: its pod has no node: 0/3 nodes are available"
        );
        let members = [
            member("c-0", "leader", "running"),
            member("c-1", "replica", "creating replica"),
        ];
        assert_eq!(
            told(
                &[
                    ("c-0", json!({})),
                    ("c-1", waiting("PodInitializing")),
                    ("c-2", json!({}))
                ],
                &members
            ),
            "c-1: creating replica; c-2: has not been heard of yet"
        );
    }
}
