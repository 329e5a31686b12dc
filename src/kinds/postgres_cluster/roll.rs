//! Changes that need a restart reach the members one at a time: replicas first, then the leader
//! after a switchover. The operator asks, the agents decide.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, DeleteParams};
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::answers;
use crate::kinds::postgres_cluster::observe::{Dcs, Observed};
use crate::kinds::postgres_cluster::validate::Desired;
use mrg_base::MemberName;
use mrg_dcs::Store;
use mrg_dcs::wire::MemberData;
use mrg_dcs_etcd::Etcd;
use mrg_election::LeaseId;
use mrg_kube_support::delete_if_unchanged;

/// The next step of a roll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Everything is as wanted.
    Settled,
    /// Something must come first.
    Wait(String),
    /// Delete this pod, so that it comes back by the new template.
    Recreate(String),
    /// Restart postgres in this pod.
    Restart(String),
    /// Hand the lead over, away from this member.
    Switchover(String),
}

/// Decides the next step. Pure.
pub(super) fn next(desired: &Desired, observed: &Observed, revision: Option<&str>) -> Step {
    let Some(dcs) = &observed.dcs else {
        return Step::Settled;
    };
    let leader = dcs
        .cluster
        .leader
        .as_ref()
        .map(|key| key.member.to_string());
    let outdated = |pod: &Pod| {
        let label = pod
            .labels()
            .get("controller-revision-hash")
            .map(String::as_str);
        revision.is_some() && label != revision
    };
    let pending = |name: &str| {
        dcs.members
            .iter()
            .any(|(member, data)| member.as_str() == name && data.pending_restart)
    };
    let todo: Vec<(&String, &Pod)> = observed
        .pods
        .iter()
        .filter(|(name, pod)| outdated(pod) || pending(name))
        .collect();
    let awaits = awaits(dcs);
    if todo.is_empty() {
        return awaits.map_or(Step::Settled, Step::Wait);
    }
    let what = format!(
        "{} of {} members wait for a restart",
        todo.len(),
        observed.pods.len()
    );
    // A pod that never became ready holds nobody's data back: it may be replaced at once, or a bad
    // template could not be repaired.
    let broken = todo
        .iter()
        .find(|(name, pod)| outdated(pod) && Some(*name) != leader.as_ref() && !is_ready(pod));
    if let Some((name, _)) = broken {
        return Step::Recreate((*name).clone());
    }
    let healthy = observed.pods.len() >= usize::try_from(desired.spec.replicas).unwrap_or(0)
        && leader.is_some()
        && dcs.members.len() >= observed.pods.len()
        && observed
            .pods
            .values()
            .all(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none());
    if !healthy {
        return Step::Wait(format!(
            "{what}; waiting until all members are healthy before the next one"
        ));
    }
    if let Some(awaits) = awaits {
        return Step::Wait(format!("{what}; {awaits}"));
    }
    if behind(dcs).next().is_some() {
        return Step::Wait(format!(
            "{what}; waiting until all members have read the newest configuration"
        ));
    }
    // Standbys cannot have less than their primary: a lowered value reaches the leader first, in
    // place, and then the others.
    let lowered = dcs
        .members
        .iter()
        .find(|(name, data)| Some(name.as_str()) == leader.as_deref() && data.lowers_floor());
    if let Some((name, _)) = lowered {
        return Step::Restart(name.to_string());
    }
    let replica = todo
        .iter()
        .rev()
        .find(|(name, _)| Some(*name) != leader.as_ref());
    match (replica, &leader) {
        (Some((name, pod)), _) if outdated(pod) => Step::Recreate((*name).clone()),
        (Some((name, _)), _) => Step::Restart((*name).clone()),
        (None, Some(leader)) if observed.pods.len() > 1 => {
            let synchronous =
                desired.spec.replication.mode != mrg_api::postgres_cluster::Mode::Async;
            let successor = dcs
                .cluster
                .sync
                .as_ref()
                .is_some_and(|(_, stored)| !stored.voters.is_empty());
            if synchronous && !successor {
                return Step::Wait(format!(
                    "{what}; waiting for a synchronous standby to hand over to"
                ));
            }
            Step::Switchover(leader.clone())
        }
        (None, Some(leader)) => todo.first().map_or(Step::Settled, |(_, pod)| {
            if outdated(pod) {
                Step::Recreate(leader.clone())
            } else {
                Step::Restart(leader.clone())
            }
        }),
        (None, None) => Step::Wait(what),
    }
}

/// Members that have not read the newest configuration, or wait for the mounted settings that go with
/// it: such a member does not know yet whether it waits for a restart, and must not be handed the lead.
fn behind(dcs: &Dcs) -> impl Iterator<Item = (&MemberName, &MemberData)> {
    let newest = dcs.config.as_ref().map(|(revision, _)| *revision);
    let tells = |data: &MemberData| data.configured.is_some() || data.awaited_settings.is_some();
    dcs.members
        .iter()
        .filter(move |(_, data)| tells(data) && data.configured < newest)
}

/// Which mounted settings a member waits for, if one does.
fn awaits(dcs: &Dcs) -> Option<String> {
    behind(dcs).find_map(|(name, data)| {
        let why = data.awaited_settings.as_ref()?;
        Some(format!("{name} waits: {why}"))
    })
}

/// Whether the kubelet says so.
pub(super) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The revision of the newest template.
pub(super) fn revision(set: Option<&StatefulSet>) -> Option<String> {
    let (set, status) = (set?, set?.status.as_ref()?);
    // An older generation's revision is not the newest template's.
    (status.observed_generation == set.metadata.generation)
        .then(|| status.update_revision.clone())
        .flatten()
}

/// Performs a step; gives what is going on, for the status.
pub(super) async fn perform(
    client: &Client,
    http: &reqwest::Client,
    desired: &Desired,
    observed: &Observed,
    step: Step,
) -> Result<Option<String>, kube::Error> {
    match step {
        Step::Settled => Ok(None),
        Step::Wait(why) => Ok(Some(why)),
        Step::Recreate(name) => {
            let api: Api<Pod> = Api::namespaced(client.clone(), &desired.namespace);
            let uid = observed.pods.get(&name).and_then(ResourceExt::uid);
            delete_if_unchanged(&api, &name, uid, DeleteParams::default()).await?;
            Ok(Some(format!("{name} is restarted by the new template")))
        }
        Step::Restart(name) => {
            let said = ask(client, http, desired, observed, &name, "restart", json!({})).await?;
            Ok(Some(format!("postgres in {name} is restarted: {said}")))
        }
        Step::Switchover(name) => {
            let said = ask(
                client,
                http,
                desired,
                observed,
                &name,
                "switchover",
                json!({ "leader": name }),
            )
            .await?;
            Ok(Some(format!(
                "the lead moves away from {name}, which is restarted last: {said}"
            )))
        }
    }
}

/// A request to a member's REST API, with the credentials that this operator generated.
async fn ask(
    client: &Client,
    http: &reqwest::Client,
    desired: &Desired,
    observed: &Observed,
    member: &str,
    path: &str,
    body: serde_json::Value,
) -> Result<String, kube::Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &desired.namespace);
    let secret = secrets.get(&desired.secret_name()).await?;
    let password = secret
        .data
        .unwrap_or_default()
        .remove("rest-password")
        .unwrap_or_default();
    let address = observed
        .pods
        .get(member)
        .and_then(|pod| pod.status.as_ref()?.pod_ip.clone())
        .unwrap_or_default();
    let url = format!(
        "http://{address}:{}/{path}",
        crate::kinds::postgres_cluster::build::REST_PORT
    );
    let request = http
        .post(url)
        .basic_auth("mrg", Some(String::from_utf8_lossy(&password.0)))
        .json(&body)
        .timeout(Duration::from_secs(70));
    Ok(match request.send().await {
        Ok(answer) => answers::excerpt(answer).await,
        Err(error) => format!("no answer: {error}"),
    })
}

/// Revokes the lease of a postgres container that the kubelet reports as terminated: exactly the
/// lease in the container's own last words, of the same pod, read live. Never for a container whose
/// state is unknown, nor for a pod that is merely deleted or evicted.
pub(super) async fn revoke_proven_dead(
    client: &Client,
    etcd: &Etcd,
    desired: &Desired,
    observed: &Observed,
) -> Result<(), kube::Error> {
    for (name, pod) in &observed.pods {
        let Some(seen) = last_words(pod) else {
            continue;
        };
        let held = observed
            .dcs
            .as_ref()
            .and_then(|dcs| dcs.cluster.leader.as_ref())
            .is_some_and(|key| key.lease == seen);
        if !held {
            continue;
        }
        let api: Api<Pod> = Api::namespaced(client.clone(), &desired.namespace);
        let live = api
            .get_opt(name)
            .await?
            .filter(|live| live.uid() == pod.uid());
        if live.and_then(|live| last_words(&live)) == Some(seen) {
            tracing::info!(
                pod = name,
                lease = seen.0,
                "the kubelet reports the container as terminated; its lease is revoked"
            );
            if let Err(error) = etcd.revoke(seen, Duration::from_secs(2)).await {
                tracing::warn!(%error, "the lease could not be revoked; it ends by itself");
            }
        }
    }
    Ok(())
}

fn last_words(pod: &Pod) -> Option<LeaseId> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let state = statuses
        .iter()
        .find(|status| status.name == "postgres")?
        .state
        .as_ref()?;
    let terminated = state.terminated.as_ref()?;
    if terminated.reason.as_deref() == Some("ContainerStatusUnknown") {
        return None;
    }
    let message: serde_json::Value = serde_json::from_str(terminated.message.as_deref()?).ok()?;
    serde_json::from_value(message.get("lease")?.clone()).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kinds::postgres_cluster::build::tests::desired;
    use mrg_dcs::DynamicConfig;
    use mrg_election::{Cluster, LeaderKey, Revision};

    const CONFIG: Revision = Revision(7);

    fn observed(members: [MemberData; 3]) -> Observed {
        let names = ["c-0", "c-1", "c-2"];
        let pod = |name: &str| -> (String, Pod) {
            let ready = json!({ "conditions": [{ "type": "Ready", "status": "True" }] });
            let pod = json!({ "metadata": { "name": name }, "status": ready });
            (name.to_owned(), serde_json::from_value(pod).unwrap())
        };
        let name = |name: &str| MemberName::new(name).unwrap();
        let leader = LeaderKey {
            member: name("c-0"),
            lease: LeaseId(1),
            created: Revision(1),
        };
        Observed {
            etcd_alarms: Vec::new(),
            pods: names.map(pod).into(),
            etcd_pods: BTreeMap::new(),
            dcs: Some(Dcs {
                cluster: Cluster {
                    leader: Some(leader),
                    ..Cluster::default()
                },
                members: names.map(name).into_iter().zip(members).collect(),
                config: Some((CONFIG, Some(DynamicConfig::default()))),
            }),
        }
    }

    fn member(
        configured: Option<Revision>,
        awaited: Option<&str>,
        pending_restart: bool,
    ) -> MemberData {
        MemberData {
            configured,
            awaited_settings: awaited.map(str::to_owned),
            pending_restart,
            ..MemberData::default()
        }
    }

    fn step(members: [MemberData; 3]) -> Step {
        next(&desired("{}"), &observed(members), None)
    }

    #[test]
    fn no_member_is_restarted_before_all_have_the_mounted_settings() {
        let done = |pending| member(Some(CONFIG), None, pending);
        let waits = |configured| member(configured, Some("version a, and not b"), false);
        for configured in [None, Some(Revision(6))] {
            for pending in [false, true] {
                let step = step([done(pending), done(pending), waits(configured)]);
                let Step::Wait(why) = &step else {
                    unreachable!("{step:?}")
                };
                assert!(why.contains("c-2 waits: version a"), "{why}");
            }
        }
        // The wait is bounded: the member counts as configured after it.
        let late = member(Some(CONFIG), Some("version a, and not b"), true);
        assert_eq!(
            step([done(false), done(false), late]),
            Step::Restart("c-2".to_owned())
        );
        assert_eq!(
            step([done(false), done(true), done(true)]),
            Step::Restart("c-2".to_owned())
        );
        assert_eq!(step([done(false), done(false), done(false)]), Step::Settled);
    }
}
