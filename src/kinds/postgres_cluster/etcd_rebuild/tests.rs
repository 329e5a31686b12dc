use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::kinds::postgres_cluster::observe::Dcs;
use crate::kinds::postgres_cluster::{Settings, build, validate};
use mrg_api::PostgresCluster;
use mrg_base::MemberName;
use mrg_election::{LeaderKey, LeaseId, Revision};

/// What etcd says.
#[derive(Clone, Copy)]
enum Keys {
    /// It does not answer.
    Silent,
    /// It is empty.
    Absent,
    /// This member leads.
    LedBy(&'static str),
}

/// A cluster whose etcd has lost its quorum, and what happens to it.
struct Story {
    object: Value,
    pods: Vec<(&'static str, Value)>,
    dcs: Keys,
    primary: Primary,
    now: Timestamp,
    told: Vec<(&'static str, String)>,
}

fn pod(generation: Option<&str>, ready: bool) -> Value {
    let labels = generation.map_or(json!({}), |number| json!({ GENERATION_LABEL: number }));
    let status = if ready { "True" } else { "False" };
    json!({
        "metadata": { "labels": labels, "uid": "u" },
        "spec": { "containers": [], "nodeName": "n1" },
        "status": { "conditions": [{ "type": "Ready", "status": status }] },
    })
}

impl Story {
    fn new() -> Self {
        Self {
            object: json!({
                "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "PostgresCluster",
                "metadata": { "name": "c", "namespace": "n", "annotations": {} },
                "spec": { "replicas": 3, "image": "i", "storage": { "size": "1Gi" }, "etcd": { "managed": { "image": "i" } } },
                "status": { "etcdInitialized": true },
            }),
            pods: ["c-etcd-0", "c-etcd-1", "c-etcd-2"]
                .map(|name| (name, pod(None, false)))
                .into(),
            dcs: Keys::Silent,
            primary: Primary::Is("c-1".to_owned()),
            now: Timestamp::UNIX_EPOCH,
            told: Vec::new(),
        }
    }

    fn request(mut self, value: &str) -> Self {
        self.ask(value);
        self
    }

    fn ask(&mut self, value: &str) {
        self.object["metadata"]["annotations"]
            [mrg_api::postgres_cluster::REBUILD_ETCD_ANNOTATION] = json!(value);
    }

    fn desired(&self) -> Desired {
        let object: PostgresCluster = serde_json::from_value(self.object.clone()).unwrap();
        let settings = Settings {
            agent_image: "i".to_owned(),
            agent_pull_policy: "Never".to_owned(),
            priority_class: None,
        };
        validate::validate(&settings, &object).unwrap()
    }

    fn observed(&self) -> Observed {
        let etcd_pods = self.pods.iter().map(|(name, pod)| {
            let mut pod = pod.clone();
            pod["metadata"]["name"] = json!(name);
            ((*name).to_owned(), serde_json::from_value(pod).unwrap())
        });
        let dcs = |leader: Option<&str>| Dcs {
            cluster: mrg_election::Cluster {
                leader: leader.map(|name| LeaderKey {
                    member: MemberName::new(name).unwrap(),
                    lease: LeaseId(1),
                    created: Revision(2),
                }),
                ..Default::default()
            },
            members: BTreeMap::new(),
            config: None,
        };
        let dcs = match self.dcs {
            Keys::Silent => None,
            Keys::Absent => Some(dcs(None)),
            Keys::LedBy(name) => Some(dcs(Some(name))),
        };
        Observed {
            pods: BTreeMap::new(),
            etcd_pods: etcd_pods.collect(),
            dcs,
            etcd_alarms: Vec::new(),
        }
    }

    /// One reconciliation: the status is read, and written. Another operator may do the next.
    fn reconcile(&mut self) -> Progress {
        let desired = self.desired();
        let progress = next(&desired, &self.observed(), &self.primary, self.now);
        if let Some(news) = told(desired.etcd_rebuild.as_ref(), progress.rebuild.as_ref()) {
            self.told.push((news.reason, news.note));
        }
        self.object["status"]["etcdGeneration"] = json!(progress.generation);
        self.object["status"]["etcdRebuild"] = json!(progress.rebuild);
        progress
    }

    fn phase(&mut self) -> EtcdRebuildPhase {
        self.reconcile().rebuild.unwrap().phase
    }

    fn refused(mut self) -> String {
        let rebuild = self.reconcile().rebuild.unwrap();
        assert_eq!(rebuild.phase, EtcdRebuildPhase::Refused, "{rebuild:?}");
        assert!(rebuild.message.ends_with("nothing was done"));
        assert_eq!(self.told.len(), 1, "it is told");
        self.reconcile();
        assert_eq!(self.told.len(), 1, "once");
        rebuild.message
    }

    fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// The StatefulSet of etcd by the status as it is.
    fn set(&self) -> Value {
        let objects = build::build(&self.desired());
        let of = |object: &&mrg_kube_support::Manifest| {
            object.kind() == "StatefulSet" && object.name() == "c-etcd"
        };
        objects.iter().find(of).unwrap().0.clone()
    }

    fn environment(&self, name: &str) -> Option<String> {
        let set = self.set();
        let container = &set["spec"]["template"]["spec"]["initContainers"][0];
        let variables = container["env"].as_array().unwrap();
        let found = variables.iter().find(|variable| variable["name"] == name)?;
        Some(found["value"].as_str().unwrap().to_owned())
    }
}

#[test]
fn the_old_members_end_before_new_ones_start_with_other_data_and_the_primary_ends_it() {
    let mut story = Story::new().request("1");
    assert_eq!(story.set()["spec"]["replicas"], 3);
    assert_eq!(story.phase(), EtcdRebuildPhase::StoppingMembers);
    assert_eq!(story.set()["spec"]["replicas"], 0);
    assert_eq!(story.phase(), EtcdRebuildPhase::StoppingMembers);

    story.pods.clear();
    assert_eq!(story.phase(), EtcdRebuildPhase::StartingMembers);
    assert_eq!(story.set()["spec"]["replicas"], 3);
    assert_eq!(story.environment("MRG_ETCD_GENERATION").unwrap(), "1");
    assert_eq!(story.environment("MRG_ETCD_STATE").unwrap(), "new");
    assert_eq!(
        story.set()["spec"]["template"]["metadata"]["labels"][GENERATION_LABEL],
        "1"
    );
    assert_eq!(story.phase(), EtcdRebuildPhase::StartingMembers);

    story.pods = vec![
        ("c-etcd-0", pod(Some("1"), true)),
        ("c-etcd-2", pod(Some("1"), true)),
    ];
    story.dcs = Keys::Absent;
    assert_eq!(story.phase(), EtcdRebuildPhase::RestoringKeys);
    assert_eq!(story.environment("MRG_ETCD_STATE").unwrap(), "existing");
    assert_eq!(story.phase(), EtcdRebuildPhase::RestoringKeys);

    story.dcs = Keys::LedBy("c-1");
    assert_eq!(story.phase(), EtcdRebuildPhase::Done);
    assert_eq!(story.phase(), EtcdRebuildPhase::Done);
    assert_eq!(story.environment("MRG_ETCD_GENERATION").unwrap(), "1");
    assert_eq!(story.environment("MRG_ETCD_STATE").unwrap(), "existing");
    let told: Vec<&str> = story.told.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(
        told,
        [
            "EtcdRebuilding",
            "EtcdRebuilding",
            "EtcdRebuilding",
            "EtcdRebuilt"
        ]
    );
    assert!(story.told[3].1.contains("c-1 leads"), "{:?}", story.told);
}

#[test]
fn an_etcd_that_was_never_rebuilt_is_as_it_was_before_rebuilds_were_known() {
    let story = Story::new();
    assert_eq!(story.environment("MRG_ETCD_GENERATION"), None);
    assert_eq!(story.environment("MRG_ETCD_STATE").unwrap(), "existing");
    let set = story.set();
    let labels = set["spec"]["template"]["metadata"]["labels"].as_object();
    assert!(!labels.unwrap().contains_key(GENERATION_LABEL));
}

#[test]
fn a_member_of_the_old_etcd_that_was_started_late_does_not_count_as_the_new_one() {
    let mut story = Story::new().request("1");
    story.phase();
    story.pods.clear();
    story.phase();
    story.pods = vec![
        ("c-etcd-0", pod(None, true)),
        ("c-etcd-1", pod(Some("1"), true)),
    ];
    story.dcs = Keys::Absent;
    assert_eq!(story.phase(), EtcdRebuildPhase::StartingMembers);
    let former: Vec<String> = {
        let (desired, observed) = (story.desired(), story.observed());
        let pods = observed.etcd_pods.into_iter();
        pods.filter(|(_, pod)| is_former(&desired, pod))
            .map(|(name, _)| name)
            .collect()
    };
    assert_eq!(former, ["c-etcd-0"]);
}

#[test]
fn a_request_is_acted_on_once_and_another_one_after_it() {
    let mut story = Story::new().request("1");
    story.phase();
    story.ask("2");
    assert_eq!(story.reconcile().rebuild.unwrap().request, "1");
    story.pods.clear();
    story.phase();
    story.pods = vec![
        ("c-etcd-0", pod(Some("1"), true)),
        ("c-etcd-1", pod(Some("1"), true)),
    ];
    story.dcs = Keys::LedBy("c-1");
    story.phase();
    assert_eq!(story.phase(), EtcdRebuildPhase::Done);
    let rebuild = story.reconcile().rebuild.unwrap();
    assert_eq!(
        (rebuild.request.as_str(), rebuild.phase),
        ("2", EtcdRebuildPhase::Refused)
    );
    assert_eq!(story.phase(), EtcdRebuildPhase::Refused);
    story.ask("3,force");
    assert_eq!(story.phase(), EtcdRebuildPhase::StoppingMembers);
    assert_eq!(
        story.reconcile().generation,
        1,
        "the old one until it has ended"
    );
}

#[test]
fn what_would_lose_more_than_it_mends_is_refused_with_the_reason() {
    let mut story = Story::new().request("1");
    story.dcs = Keys::LedBy("c-1");
    assert!(story.refused().contains("etcd has its quorum"));

    // The operator alone cannot reach it.
    let mut story = Story::new().request("1");
    story.pods = vec![("c-etcd-0", pod(None, true)), ("c-etcd-1", pod(None, true))];
    assert!(story.refused().contains("2 of 3 members are ready"));

    let mut story = Story::new().request("1");
    story.primary = Primary::None;
    assert!(story.refused().contains("no member accepts writes"));

    let mut story = Story::new().request("1");
    story.object["spec"]["failover"] = json!({ "failsafe": false });
    assert!(story.refused().contains("spec.failover.failsafe is off"));

    let mut story = Story::new().request("1,force");
    story.object["spec"]["etcd"] = json!({ "external": { "endpoints": ["http://e:2379"] } });
    assert!(story.refused().contains("spec.etcd.external"));

    let mut story = Story::new().request("1,force");
    story.object["status"]["etcdInitialized"] = json!(false);
    assert!(story.refused().contains("has not been made yet"));

    assert!(
        Story::new()
            .request("1,gently")
            .refused()
            .contains("`1,gently`")
    );
}

#[test]
fn force_does_it_without_a_primary() {
    let mut story = Story::new().request("1,force");
    story.primary = Primary::None;
    assert_eq!(story.phase(), EtcdRebuildPhase::StoppingMembers);
    story.pods.clear();
    story.phase();
    story.pods = vec![("c-etcd-0", pod(Some("1"), true))];
    story.dcs = Keys::Absent;
    assert_eq!(story.phase(), EtcdRebuildPhase::RestoringKeys);
    story.later(121);
    let progress = story.reconcile();
    assert!(progress.late);
    let message = progress.rebuild.unwrap().message;
    assert!(message.contains("kubectl logs"), "{message}");
}

#[test]
fn a_phase_that_takes_too_long_says_what_holds_it_up_and_goes_on() {
    let mut story = Story::new().request("1");
    story.phase();
    story.later(119);
    let before = story.reconcile();
    assert!(!before.late);
    assert_eq!(
        before,
        story.reconcile(),
        "the same words are not written again"
    );
    story.later(2);
    let progress = story.reconcile();
    assert!(progress.late);
    let message = &progress.under_way().unwrap().message;
    assert!(message.contains("c-etcd-2 on n1 does not end"), "{message}");
    assert!(message.contains("switched off, and only then"), "{message}");

    story.pods.clear();
    let progress = story.reconcile();
    assert!(!progress.late, "the next phase has its own time");
    story.pods = vec![("c-etcd-0", pod(Some("1"), false))];
    story.later(301);
    let message = story.reconcile().rebuild.unwrap().message;
    assert!(
        message.contains("c-etcd-0: not ready; c-etcd-1: no pod"),
        "{message}"
    );
}

#[test]
fn an_outage_names_the_members_and_the_way_out_unless_a_majority_is_there() {
    let mut story = Story::new();
    let text = outage(&story.desired(), &story.observed());
    assert!(
        text.contains("0 of 3 members of etcd are ready; c-etcd-0: not ready"),
        "{text}"
    );
    assert!(text.contains("`kubectl mrg etcd rebuild c`"), "{text}");
    story.pods = vec![("c-etcd-0", pod(None, true)), ("c-etcd-1", pod(None, true))];
    let text = outage(&story.desired(), &story.observed());
    assert!(!text.contains("rebuild"), "{text}");
}
