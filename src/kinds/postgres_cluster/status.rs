//! What the status says. Pure but for the time of a condition's change, which comes in.

use jiff::Timestamp;
use kube::ResourceExt;

use super::absent::{absent, is_good};
use super::etcd_rebuild;
use crate::conditions::{Verdict, conditions, verdict};
use crate::kinds::postgres_cluster::observe::{Dcs, Observed};
use crate::kinds::postgres_cluster::validate::Desired;
use mrg_api::PostgresCluster;
use mrg_api::postgres_cluster::{MemberStatus, Mode, PostgresClusterStatus};
use mrg_dcs::ReplicationState;
use mrg_dcs::wire::MemberData;

/// A status for a spec that cannot be built: everything stays, and the reason is told.
pub(super) fn stalled(
    cluster: &PostgresCluster,
    why: &str,
    now: Timestamp,
) -> PostgresClusterStatus {
    let old = cluster.status.clone().unwrap_or_default();
    let verdicts = vec![
        verdict("Ready", false, "InvalidSpec", why),
        verdict("Reconciling", false, "InvalidSpec", why),
        verdict(
            "Stalled",
            true,
            "InvalidSpec",
            format!("{why}; the last good state keeps running"),
        ),
    ];
    let conditions = conditions(&old.conditions, verdicts, cluster.metadata.generation, now);
    PostgresClusterStatus {
        observed_generation: cluster.metadata.generation,
        conditions,
        ..old
    }
}

fn human(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes >> 10),
        1_048_576..1_073_741_824 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// What the operator is doing.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// What is being changed member by member.
    pub rolling: Option<String>,
    /// What could not be applied.
    pub failure: Option<String>,
    /// How far the managed etcd has come.
    pub etcd_rebuild: etcd_rebuild::Progress,
}

/// The status, from what was observed.
pub(super) fn status(
    cluster: &PostgresCluster,
    desired: &Desired,
    observed: &Observed,
    progress: &Progress,
    now: Timestamp,
) -> PostgresClusterStatus {
    let old = cluster.status.clone().unwrap_or_default();
    let generation = cluster.metadata.generation;
    let replicas = i32::try_from(observed.pods.len()).unwrap_or(i32::MAX);
    let Some(dcs) = &observed.dcs else {
        return without_etcd(
            old,
            desired,
            observed,
            progress,
            (generation, replicas),
            now,
        );
    };
    let leader = dcs.cluster.leader.as_ref().map(|key| key.member.clone());
    let leads = leader
        .as_ref()
        .and_then(|name| dcs.members.get(name))
        .is_some_and(MemberData::is_primary);
    let members = members(dcs);
    let good = members
        .iter()
        .filter(|member| is_good(member, leads))
        .count();
    let wanted = usize::try_from(desired.spec.replicas).unwrap_or(0);
    let head = leader
        .as_ref()
        .and_then(|name| dcs.members.get(name))
        .and_then(MemberData::flushed);
    let lag = dcs
        .members
        .iter()
        .filter(|(name, _)| Some(*name) != leader.as_ref())
        .filter_map(|(_, data)| Some(head?.saturating_sub(data.flushed()?)))
        .max();
    let voters = dcs.cluster.sync.as_ref().map(|(_, stored)| {
        stored
            .voters
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    });
    let synchronous = desired.spec.replication.mode != Mode::Async;
    let mut verdicts = judge(
        desired,
        leads,
        (good, wanted),
        &absent(desired, observed, &members, leads),
        voters.as_ref().is_some_and(|voters| !voters.is_empty()),
        progress,
    );
    if let Some((reason, message)) = stalling(dcs) {
        replace(&mut verdicts, verdict("Stalled", true, reason, message));
    }
    if let Some(alarmed) = alarmed(&observed.etcd_alarms) {
        let well = |verdict: &Verdict| verdict.kind == "Degraded" && !verdict.holds;
        if verdicts.iter().any(well) {
            replace(&mut verdicts, alarmed);
        }
    }
    tell_rebuild(&mut verdicts, &progress.etcd_rebuild);
    let timeline = leader
        .as_ref()
        .and_then(|name| dcs.members.get(name))
        .and_then(|data| data.timeline);
    let major = dcs
        .members
        .values()
        .filter_map(|data| data.server_version)
        .map(|version| version / 10_000)
        .min();
    PostgresClusterStatus {
        observed_generation: generation,
        replicas,
        ready: Some(format!("{good}/{wanted}")),
        leader: leader.map(|name| name.to_string()),
        sync: voters.filter(|_| synchronous).map(|voters| {
            if voters.is_empty() {
                "none".to_owned()
            } else {
                voters.join(",")
            }
        }),
        timeline: timeline.or(old.timeline),
        lag: lag.map(human),
        postgresql_major: major.or(old.postgresql_major),
        system_identifier: match dcs.cluster.initialize {
            Some(mrg_election::Initialize::Done(id)) => Some(id.to_string()),
            _ => old.system_identifier,
        },
        etcd_initialized: old.etcd_initialized || dcs.cluster.initialize.is_some(),
        etcd_generation: progress.etcd_rebuild.generation,
        etcd_rebuild: progress.etcd_rebuild.rebuild.clone(),
        members,
        conditions: conditions(&old.conditions, verdicts, generation, now),
    }
}

/// The status while etcd does not answer: what was known stays.
fn without_etcd(
    old: PostgresClusterStatus,
    desired: &Desired,
    observed: &Observed,
    progress: &Progress,
    (generation, replicas): (Option<i64>, i32),
    now: Timestamp,
) -> PostgresClusterStatus {
    let message = if old.etcd_initialized {
        etcd_rebuild::outage(desired, observed)
    } else {
        "waiting for etcd".to_owned()
    };
    let mut verdicts = vec![
        verdict("Ready", false, "EtcdUnreachable", &message),
        verdict("Reconciling", true, "EtcdUnreachable", &message),
        verdict("Stalled", false, "Progressing", ""),
        verdict("Degraded", old.etcd_initialized, "EtcdUnreachable", message),
    ];
    tell_rebuild(&mut verdicts, &progress.etcd_rebuild);
    PostgresClusterStatus {
        observed_generation: generation,
        replicas,
        etcd_generation: progress.etcd_rebuild.generation,
        etcd_rebuild: progress.etcd_rebuild.rebuild.clone(),
        conditions: conditions(&old.conditions, verdicts, generation, now),
        ..old
    }
}

fn replace(verdicts: &mut Vec<Verdict>, new: Verdict) {
    verdicts.retain(|verdict| verdict.kind != new.kind);
    verdicts.push(new);
}

/// While etcd is rebuilt, where that stands is what is being done.
fn tell_rebuild(verdicts: &mut Vec<Verdict>, progress: &etcd_rebuild::Progress) {
    let Some(rebuild) = progress.under_way() else {
        return;
    };
    let message = &rebuild.message;
    let doing = verdict("Reconciling", true, "RebuildingEtcd", message);
    replace(verdicts, doing);
    if progress.late {
        let stuck = verdict("Stalled", true, "EtcdRebuildStuck", message);
        replace(verdicts, stuck);
    }
}

/// What an etcd with an alarm means for the cluster: it refuses writes, or worse.
fn alarmed(alarms: &[String]) -> Option<Verdict> {
    let message = format!(
        "etcd has raised an alarm ({}); while it refuses writes no member can take over; docs/runbooks/postgres.md has the way out",
        alarms.join(", ")
    );
    (!alarms.is_empty()).then(|| verdict("Degraded", true, "EtcdAlarm", message))
}

/// What a human must mend, by the members' own words.
fn stalling(dcs: &Dcs) -> Option<(&'static str, String)> {
    let told = |of: fn(&MemberData) -> Option<&String>| {
        dcs.members
            .iter()
            .find_map(|(name, data)| Some(format!("{name}: {}", of(data)?)))
    };
    let unusable = told(|data| data.unusable_data.as_ref()).map(|what| ("UnusableData", what));
    let refused = || {
        let refused = told(|data| data.refused_parameters.as_ref())?;
        Some((
            "ParametersRefused",
            format!(
                "PostgreSQL refuses spec.postgresql.parameters; the last good ones stay in force. {refused}"
            ),
        ))
    };
    // A member that still waits has not taken over the newest configuration.
    let newest = dcs.config.as_ref().map(|(revision, _)| *revision);
    let missing = || {
        let (name, why) = dcs.members.iter().find_map(|(name, data)| {
            let why = data.awaited_settings.as_ref();
            Some((name, why.filter(|_| data.configured >= newest)?))
        })?;
        Some((
            "SettingsNotMounted",
            format!(
                "{name}: {why}; the kubelet did not bring the ConfigMap into the pod in three minutes, and the member goes on with what it has"
            ),
        ))
    };
    unusable.or_else(refused).or_else(missing)
}

fn members(dcs: &Dcs) -> Vec<MemberStatus> {
    let leader = dcs.cluster.leader.as_ref().map(|key| &key.member);
    let voters = dcs.cluster.sync.as_ref().map(|(_, stored)| &stored.voters);
    dcs.members
        .iter()
        .map(|(name, data)| MemberStatus {
            name: name.to_string(),
            role: match () {
                () if leader == Some(name) => "leader".to_owned(),
                () if voters.is_some_and(|voters| voters.contains(name)) => "sync".to_owned(),
                () => "replica".to_owned(),
            },
            state: match &data.replication_state {
                Some(ReplicationState::Streaming) => ReplicationState::Streaming.to_string(),
                _ => data.state.to_string(),
            },
            timeline: data.timeline,
            pending_restart: data.pending_restart,
        })
        .collect()
}

fn judge(
    desired: &Desired,
    leads: bool,
    (good, wanted): (usize, usize),
    absent: &[String],
    successor: bool,
    progress: &Progress,
) -> Vec<Verdict> {
    let told = |what: String| {
        if absent.is_empty() {
            what
        } else {
            format!("{what}; {}", absent.join("; "))
        }
    };
    let complete = leads && good >= wanted;
    let alone = desired.spec.replication.mode != Mode::Async && wanted > 1 && !successor;
    let ready = match () {
        () if !leads => verdict(
            "Ready",
            false,
            "NoLeader",
            told("no member accepts writes".to_owned()),
        ),
        () if good < wanted => verdict(
            "Ready",
            false,
            "MembersMissing",
            told(format!("{good} of {wanted} members lead or stream")),
        ),
        () if alone => verdict(
            "Ready",
            false,
            "NoSynchronousStandby",
            "no standby could take over without loss",
        ),
        () => verdict(
            "Ready",
            true,
            "Healthy",
            format!("{good} of {wanted} members lead or stream"),
        ),
    };
    let degraded = match () {
        () if !leads => verdict(
            "Degraded",
            true,
            "NoLeader",
            told("no member accepts writes".to_owned()),
        ),
        () if alone => verdict(
            "Degraded",
            true,
            "NoSynchronousStandby",
            "losing the leader's volume now would lose acknowledged commits; nobody takes over by itself",
        ),
        () if good < wanted => verdict(
            "Degraded",
            true,
            "MembersMissing",
            told(format!("{good} of {wanted} members lead or stream")),
        ),
        () => verdict("Degraded", false, "Healthy", ""),
    };
    let reconciling = match (&progress.failure, &progress.rolling) {
        (Some(what), _) => verdict(
            "Reconciling",
            true,
            "ApplyFailed",
            format!("{what}; it is tried again"),
        ),
        (None, Some(what)) => verdict("Reconciling", true, "Rolling", what),
        (None, None) => verdict(
            "Reconciling",
            !complete,
            if complete { "Settled" } else { "Progressing" },
            "",
        ),
    };
    vec![
        ready,
        reconciling,
        verdict("Stalled", false, "Progressing", ""),
        degraded,
    ]
}

/// A short sentence for an event, if something worth telling changed.
pub(super) fn news(
    cluster: &PostgresCluster,
    new: &PostgresClusterStatus,
) -> Option<(&'static str, String)> {
    let old = cluster.status.clone().unwrap_or_default();
    if old.leader != new.leader {
        return Some(match (&old.leader, &new.leader) {
            (Some(from), Some(to)) => ("LeaderChanged", format!("{to} leads, after {from}")),
            (None, Some(to)) => ("LeaderElected", format!("{to} leads")),
            (Some(from), None) => (
                "LeaderLost",
                format!("{from} does not lead any more, and nobody else does yet"),
            ),
            (None, None) => return None,
        });
    }
    let ready = |status: &PostgresClusterStatus| {
        status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .map(|condition| {
                (
                    condition.status.clone(),
                    condition.reason.clone(),
                    condition.message.clone(),
                )
            })
    };
    match (ready(&old), ready(new)) {
        (Some((_, old, _)), Some((_, new, _))) if old == new => None,
        (_, Some((status, reason, message))) if status == "True" && reason == "Healthy" => Some((
            "Healthy",
            format!("{} is healthy: {message}", cluster.name_any()),
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_base::MemberName;
    use mrg_election::{Cluster, Revision};

    fn stalled_by(data: MemberData) -> Option<(&'static str, String)> {
        let members = [(MemberName::new("c-1").unwrap(), data)];
        stalling(&Dcs {
            cluster: Cluster::default(),
            members: members.into(),
            config: Some((Revision(7), None)),
        })
    }

    #[test]
    fn mounted_settings_that_do_not_come_are_reported_once_the_member_waits_no_longer() {
        let awaits = |configured| MemberData {
            awaited_settings: Some("version a, and not b".to_owned()),
            configured,
            ..MemberData::default()
        };
        for waiting in [None, Some(Revision(6))] {
            assert_eq!(stalled_by(awaits(waiting)), None);
        }
        let (reason, message) = stalled_by(awaits(Some(Revision(7)))).unwrap();
        assert_eq!(reason, "SettingsNotMounted");
        assert!(
            message.starts_with("c-1: version a, and not b"),
            "{message}"
        );
        assert_eq!(stalled_by(MemberData::default()), None);
    }
}
