//! Keeps etcd's own leader off the node of the database's leader. Losing both at once costs an
//! election of etcd, which extends every lease, on top of the lease; losing one does not. An
//! optimisation: nothing depends on it.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use crate::kinds::postgres_cluster::observe::Observed;
use crate::kinds::postgres_cluster::roll::is_ready;
use mrg_dcs_etcd::Etcd;

const WITHIN: Duration = Duration::from_secs(3);

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

/// The member of etcd that should lead instead, if etcd's leader shares a node with the database's
/// leader. Pure.
fn better(observed: &Observed, etcd_leader: &str) -> Option<String> {
    let leader = observed
        .dcs
        .as_ref()?
        .cluster
        .leader
        .as_ref()?
        .member
        .to_string();
    let shared = node(observed.pods.get(&leader)?)?;
    if node(observed.etcd_pods.get(etcd_leader)?) != Some(shared) {
        return None;
    }
    let elsewhere = |pod: &Pod| is_ready(pod) && node(pod).is_some_and(|node| node != shared);
    observed
        .etcd_pods
        .iter()
        .find(|(_, pod)| elsewhere(pod))
        .map(|(name, _)| name.clone())
}

/// Moves etcd's leader if that makes a lost node cheaper.
pub(super) async fn keep_apart(etcd: &Etcd, observed: &Observed) {
    if observed.etcd_pods.len() < 3 {
        return;
    }
    let members = match etcd.members(WITHIN).await {
        Ok(members) => members,
        Err(error) => return tracing::debug!(%error, "etcd does not tell who leads it"),
    };
    let Some(leader) = members.iter().find(|member| member.leads) else {
        return;
    };
    let Some(better) = better(observed, &leader.name) else {
        return;
    };
    let Some(target) = members.iter().find(|member| member.name == better) else {
        return;
    };
    match etcd.move_etcd_leader(leader, target, WITHIN).await {
        Ok(()) => tracing::info!(
            from = leader.name,
            to = better,
            "etcd's leader shared a node with the database's; moved it"
        ),
        Err(error) => {
            tracing::info!(%error, from = leader.name, to = better, "etcd's leader shares a node with the database's and did not move")
        }
    }
}
