//! A managed etcd that lost its quorum for good is built again around the running primary, on
//! request: the old members end, new ones start with empty data directories beside the old ones, and
//! the primary writes the cluster's keys. Each phase is in the status before anything is done
//! for it, so that another operator goes on where this one stopped; what the members are to be in
//! it is `build::etcd`'s to say.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams};
use kube::{Client, ResourceExt};

use super::absent::trouble;
use super::build::GENERATION_LABEL;
use super::observe::Observed;
use super::roll::is_ready;
use super::validate::Desired;
use crate::news::{News, news};
use mrg_api::postgres_cluster::{EtcdRebuild, EtcdRebuildPhase, RebuildRequest};
use mrg_kube_support::delete_if_unchanged;

/// How far the managed etcd has come, for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// How often it was rebuilt.
    pub generation: u32,
    /// The last rebuild that was requested.
    pub rebuild: Option<EtcdRebuild>,
    /// Whether its phase takes longer than it should.
    pub late: bool,
}

impl Progress {
    /// The rebuild, while there is something left to do.
    pub(super) fn under_way(&self) -> Option<&EtcdRebuild> {
        self.rebuild
            .as_ref()
            .filter(|rebuild| rebuild.phase.is_under_way())
    }
}

/// The primary, as far as it had to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Primary {
    /// It was not asked for.
    NotAsked,
    /// No member says that it leads.
    None,
    /// This member says so.
    Is(String),
}

/// Whether the next step depends on which member leads: etcd may not say it.
pub(super) fn asks_for_primary(desired: &Desired) -> bool {
    let phase = desired.etcd_rebuild.as_ref().map(|rebuild| rebuild.phase);
    requested(desired).is_some() || phase == Some(EtcdRebuildPhase::RestoringKeys)
}

/// How long a phase may take before a person has to look.
fn patience(phase: EtcdRebuildPhase) -> SignedDuration {
    match phase {
        // A member is given 20 s to end.
        EtcdRebuildPhase::StoppingMembers | EtcdRebuildPhase::RestoringKeys => {
            SignedDuration::from_secs(120)
        }
        // Volumes may have to be made, and an image pulled.
        EtcdRebuildPhase::StartingMembers => SignedDuration::from_secs(300),
        EtcdRebuildPhase::Refused | EtcdRebuildPhase::Done => SignedDuration::MAX,
    }
}

/// The request that was not acted on yet; none is while a rebuild is under way.
fn requested(desired: &Desired) -> Option<&str> {
    let value = desired.etcd_rebuild_requested.as_deref()?;
    let token = value.split(',').next().unwrap_or(value);
    let settled = |rebuild: &EtcdRebuild| rebuild.phase.is_under_way() || rebuild.request == token;
    (!desired.etcd_rebuild.as_ref().is_some_and(settled)).then_some(value)
}

/// What the status says next. Pure.
pub(super) fn next(
    desired: &Desired,
    observed: &Observed,
    primary: &Primary,
    now: Timestamp,
) -> Progress {
    let mut progress = Progress {
        generation: desired.etcd_generation,
        rebuild: desired.etcd_rebuild.clone(),
        late: false,
    };
    if let Some(value) = requested(desired) {
        progress.rebuild = Some(judge(desired, observed, primary, value, now));
        return progress;
    }
    let Some(rebuild) = progress.rebuild.as_mut() else {
        return progress;
    };
    let reached = reached(desired, observed, primary, rebuild.phase);
    if reached != rebuild.phase {
        if reached == EtcdRebuildPhase::StartingMembers {
            progress.generation += 1;
        }
        rebuild.phase = reached;
        rebuild.since = now.to_string();
    } else if !reached.is_under_way() {
        return progress;
    }
    let since = rebuild.since.parse().unwrap_or(now);
    progress.late = now.duration_since(since) > patience(reached);
    rebuild.message = message(desired, observed, primary, reached, progress.late);
    progress
}

/// The phase that the cluster has reached, one further at most.
fn reached(
    desired: &Desired,
    observed: &Observed,
    primary: &Primary,
    phase: EtcdRebuildPhase,
) -> EtcdRebuildPhase {
    match phase {
        EtcdRebuildPhase::StoppingMembers if observed.etcd_pods.is_empty() => {
            EtcdRebuildPhase::StartingMembers
        }
        EtcdRebuildPhase::StartingMembers
            if observed.dcs.is_some() && is_new(desired, observed) =>
        {
            EtcdRebuildPhase::RestoringKeys
        }
        EtcdRebuildPhase::RestoringKeys
            if leader(observed).is_some() && matches!(primary, Primary::Is(_)) =>
        {
            EtcdRebuildPhase::Done
        }
        phase => phase,
    }
}

/// Whether only the new etcd can have answered.
fn is_new(desired: &Desired, observed: &Observed) -> bool {
    let mut pods = observed.etcd_pods.values();
    pods.len() > 0 && !pods.any(|pod| is_former(desired, pod))
}

/// Whether a pod's member belongs to the etcd of before.
fn is_former(desired: &Desired, pod: &Pod) -> bool {
    let generation = pod.labels().get(GENERATION_LABEL);
    generation.is_none_or(|found| *found != desired.etcd_generation.to_string())
}

/// Deletes members of the etcd of before that were started while new ones are: their StatefulSet may
/// have been about to.
///
/// # Errors
/// If the API server does not answer.
pub(super) async fn remove_former_members(
    client: &Client,
    desired: &Desired,
    observed: &Observed,
) -> Result<(), kube::Error> {
    let phase = desired.etcd_rebuild.as_ref().map(|rebuild| rebuild.phase);
    if phase != Some(EtcdRebuildPhase::StartingMembers) {
        return Ok(());
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), &desired.namespace);
    let former = observed.etcd_pods.iter();
    for (name, pod) in former.filter(|(_, pod)| is_former(desired, pod)) {
        delete_if_unchanged(&api, name, pod.uid(), DeleteParams::default()).await?;
    }
    Ok(())
}

fn leader(observed: &Observed) -> Option<String> {
    let key = observed.dcs.as_ref()?.cluster.leader.as_ref()?;
    Some(key.member.to_string())
}

/// How many members of etcd are ready. None is without a quorum.
fn ready_members(observed: &Observed) -> usize {
    observed
        .etcd_pods
        .values()
        .filter(|pod| is_ready(pod))
        .count()
}

/// Takes a request up, or refuses it with the reason and what to do instead.
fn judge(
    desired: &Desired,
    observed: &Observed,
    primary: &Primary,
    value: &str,
    now: Timestamp,
) -> EtcdRebuild {
    let judged = match value.parse::<RebuildRequest>() {
        Ok(request) => match refusal(desired, observed, primary, request.force) {
            None => Ok(()),
            Some(why) => Err(why),
        },
        Err(_) => Err(format!(
            "the annotation says `{value}`, which is no request; `kubectl mrg etcd rebuild` writes one"
        )),
    };
    let (phase, message) = match judged {
        Ok(()) => {
            let phase = EtcdRebuildPhase::StoppingMembers;
            (phase, message(desired, observed, primary, phase, false))
        }
        Err(why) => (
            EtcdRebuildPhase::Refused,
            format!("{why}; nothing was done"),
        ),
    };
    EtcdRebuild {
        request: value.split(',').next().unwrap_or(value).to_owned(),
        phase,
        since: now.to_string(),
        message,
    }
}

fn refusal(
    desired: &Desired,
    observed: &Observed,
    primary: &Primary,
    force: bool,
) -> Option<String> {
    let Some(managed) = &desired.spec.etcd.managed else {
        return Some(
            "spec.etcd.external is not the operator's to rebuild; make that etcd answer again, empty or restored: the running primary then writes the cluster's keys into it".to_owned(),
        );
    };
    if !desired.etcd_initialized {
        return Some("etcd has not been made yet; wait until it is".to_owned());
    }
    if force {
        return None;
    }
    let ready = ready_members(observed);
    if observed.dcs.is_some() || ready >= majority(managed.replicas) {
        return Some(format!(
            "etcd has its quorum ({ready} of {} members are ready); a member that lost its volume joins the others by itself",
            managed.replicas
        ));
    }
    if !desired.spec.failover.failsafe {
        return Some(
            "spec.failover.failsafe is off, so no primary outlives its etcd, and none could write the cluster's keys into a new one; bring a majority of etcd's members back, or see docs/runbooks/postgres.md and give --force".to_owned(),
        );
    }
    if !matches!(primary, Primary::Is(_)) {
        return Some(
            "no member accepts writes, so none could write the cluster's keys into a new etcd; bring a majority of etcd's members back, or see docs/runbooks/postgres.md and give --force".to_owned(),
        );
    }
    None
}

/// Where it stands, in a sentence. The same as long as nothing changes: it is written to the status.
fn message(
    desired: &Desired,
    observed: &Observed,
    primary: &Primary,
    phase: EtcdRebuildPhase,
    late: bool,
) -> String {
    match phase {
        EtcdRebuildPhase::StoppingMembers => stopping(observed, late),
        EtcdRebuildPhase::StartingMembers => starting(desired, observed, late),
        EtcdRebuildPhase::RestoringKeys => restoring(desired, primary, late),
        EtcdRebuildPhase::Done => format!(
            "etcd was rebuilt, and {} leads by it",
            leader(observed).unwrap_or_default()
        ),
        EtcdRebuildPhase::Refused => String::new(),
    }
}

fn stopping(observed: &Observed, late: bool) -> String {
    let names: Vec<&str> = observed.etcd_pods.keys().map(String::as_str).collect();
    let what = format!(
        "waiting until the old members of etcd have ended: {}",
        names.join(", ")
    );
    if !late {
        return what;
    }
    let node = |(name, pod): (&String, &Pod)| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        format!("{name} on {}", node.unwrap_or("no node"))
    };
    let nodes: Vec<String> = observed.etcd_pods.iter().map(node).collect();
    format!(
        "{what}; {} does not end: if that node is switched off, and only then, `kubectl delete pod NAME --force --grace-period=0`",
        nodes.join(", ")
    )
}

fn starting(desired: &Desired, observed: &Observed, late: bool) -> String {
    let what = "waiting for a quorum of the new members of etcd";
    if !late {
        return what.to_owned();
    }
    format!(
        "{what}: {}; `kubectl describe pod` says more; a volume that is gone for good is made again once its claim is deleted (`kubectl delete pvc data-NAME`)",
        not_ready(desired, observed).join("; ")
    )
}

/// `NAME: why`, for each member of the managed etcd that is not ready.
fn not_ready(desired: &Desired, observed: &Observed) -> Vec<String> {
    let managed = desired.spec.etcd.managed.as_ref();
    let names = (0..managed.map_or(0, |managed| managed.replicas))
        .map(|ordinal| format!("{}-etcd-{ordinal}", desired.name));
    names
        .filter_map(|name| {
            let why = match observed.etcd_pods.get(&name) {
                None => "no pod".to_owned(),
                Some(pod) if is_ready(pod) => return None,
                Some(pod) => trouble(pod).unwrap_or_else(|| "not ready".to_owned()),
            };
            Some(format!("{name}: {why}"))
        })
        .collect()
}

/// What the status says of an etcd that does not answer.
pub(super) fn outage(desired: &Desired, observed: &Observed) -> String {
    let what =
        "etcd does not answer; the leader goes on while all members agree, or until its lease ends";
    let Some(managed) = &desired.spec.etcd.managed else {
        return what.to_owned();
    };
    let ready = ready_members(observed);
    let mut text = format!(
        "{what}; {ready} of {} members of etcd are ready",
        managed.replicas
    );
    for member in not_ready(desired, observed) {
        text += "; ";
        text += &member;
    }
    if ready < majority(managed.replicas) {
        text += "; if a majority has lost its volumes for good, `kubectl mrg etcd rebuild ";
        text += &desired.name;
        text += "` builds a new etcd around the running primary";
    }
    text
}

fn majority(replicas: i32) -> usize {
    usize::try_from(replicas).unwrap_or(0) / 2 + 1
}

fn restoring(desired: &Desired, primary: &Primary, late: bool) -> String {
    let who = match primary {
        Primary::Is(name) => name.as_str(),
        Primary::NotAsked | Primary::None => "the primary",
    };
    let what =
        format!("the new etcd has its quorum; waiting until {who} has written the cluster's keys");
    if !late {
        return what;
    }
    format!(
        "{what}; `kubectl logs` of the members of {} say what keeps them: without a primary that ran throughout, docs/ha.md has the way out",
        desired.name
    )
}

/// What becomes an event: each new phase.
pub(super) fn told(before: Option<&EtcdRebuild>, after: Option<&EtcdRebuild>) -> Option<News> {
    let after = after?;
    let key = |rebuild: &EtcdRebuild| (rebuild.request.clone(), rebuild.phase);
    if before.map(key) == Some(key(after)) {
        return None;
    }
    let (warning, reason) = match after.phase {
        EtcdRebuildPhase::Refused => (true, "EtcdRebuildRefused"),
        EtcdRebuildPhase::Done => (false, "EtcdRebuilt"),
        _ => (false, "EtcdRebuilding"),
    };
    let about = "spec.etcd.managed";
    Some(news(warning, reason, about, after.message.clone()))
}

#[cfg(test)]
mod tests;
