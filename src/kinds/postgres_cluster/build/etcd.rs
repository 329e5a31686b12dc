//! The etcd of a cluster's own: a StatefulSet whose members join by themselves when their volume
//! was lost.

use serde_json::{Value, json};

use crate::kinds::postgres_cluster::build::container_security;
use crate::kinds::postgres_cluster::validate::Desired;
use mrg_api::postgres_cluster::EtcdRebuildPhase;

const COMPONENT: &str = "etcd";

/// The objects.
pub(super) fn objects(desired: &Desired) -> Vec<Value> {
    vec![
        service(desired),
        disruption_budget(desired),
        stateful_set(desired),
    ]
}

fn name(desired: &Desired) -> String {
    format!("{}-etcd", desired.name)
}

fn service(desired: &Desired) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": desired.metadata(&name(desired), COMPONENT),
        "spec": {
            "clusterIP": "None", "publishNotReadyAddresses": true, "selector": desired.selector(COMPONENT),
            "ports": [{ "name": "client", "port": 2379 }, { "name": "peer", "port": 2380 }],
        },
    })
}

fn disruption_budget(desired: &Desired) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": desired.metadata(&name(desired), COMPONENT),
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": desired.selector(COMPONENT) } },
    })
}

/// The label of a pod that says of which rebuild its member is; absent before the first.
pub(in crate::kinds::postgres_cluster) const GENERATION_LABEL: &str =
    "mrg.bluebird.id/etcd-generation";

/// How many members there are to be while a rebuild may be under way.
fn replicas(desired: &Desired, all: i32) -> i32 {
    let phase = desired.etcd_rebuild.as_ref().map(|rebuild| rebuild.phase);
    if phase == Some(EtcdRebuildPhase::StoppingMembers) {
        0
    } else {
        all
    }
}

/// Whether a member without data makes a new cluster with the others, instead of joining them.
fn may_be_new(desired: &Desired) -> bool {
    let phase = desired.etcd_rebuild.as_ref().map(|rebuild| rebuild.phase);
    !desired.etcd_initialized || phase == Some(EtcdRebuildPhase::StartingMembers)
}

fn environment(desired: &Desired, name: &str, replicas: i32) -> Value {
    let mut environment = vec![
        json!({ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }),
        json!({ "name": "MRG_ETCD_DOMAIN", "value": format!("{name}.{}.svc", desired.namespace) }),
        json!({ "name": "MRG_ETCD_NAME", "value": name }),
        json!({ "name": "MRG_ETCD_REPLICAS", "value": replicas.to_string() }),
        // Once the cluster was made, a member without data must join it and never make a new one.
        json!({ "name": "MRG_ETCD_STATE", "value": if may_be_new(desired) { "new" } else { "existing" } }),
    ];
    if desired.etcd_generation > 0 {
        environment.push(
            json!({ "name": "MRG_ETCD_GENERATION", "value": desired.etcd_generation.to_string() }),
        );
    }
    json!(environment)
}

fn stateful_set(desired: &Desired) -> Value {
    let Some(managed) = &desired.spec.etcd.managed else {
        return Value::Null;
    };
    let name = name(desired);
    let mut pod = desired.pod(COMPONENT);
    let environment = environment(desired, &name, managed.replicas);
    let mut labels = desired.labels(COMPONENT);
    if desired.etcd_generation > 0 {
        let generation = json!(desired.etcd_generation.to_string());
        labels.insert(GENERATION_LABEL.to_owned(), generation);
    }
    let mounts = json!([
        { "name": "data", "mountPath": "/var/lib/etcd" }, { "name": "config", "mountPath": "/etc/mrg" },
    ]);
    pod.insert(
        "initContainers".into(),
        json!([{
            "name": "configure", "image": desired.agent_image, "imagePullPolicy": desired.agent_pull_policy,
            "command": ["/usr/local/bin/mrg-agent", "configure-etcd", "/etc/mrg/etcd.json"],
            "env": environment, "volumeMounts": mounts, "securityContext": container_security(),
        }]),
    );
    let mut container = json!({
        "name": "etcd", "image": managed.image,
        "command": ["etcd", "--config-file=/etc/mrg/etcd.json"],
        "ports": [{ "name": "client", "containerPort": 2379 }, { "name": "peer", "containerPort": 2380 }],
        "volumeMounts": mounts, "securityContext": container_security(),
        "readinessProbe": { "httpGet": { "path": "/readyz", "port": 2381 }, "periodSeconds": 3, "timeoutSeconds": 2 },
        "livenessProbe": { "httpGet": { "path": "/livez", "port": 2381 }, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6 },
    });
    if let Some(resources) = &managed.resources {
        container["resources"] = json!(resources);
    }
    pod.insert("containers".into(), json!([container]));
    pod.insert("terminationGracePeriodSeconds".into(), json!(20));
    pod.insert(
        "volumes".into(),
        json!([{ "name": "config", "emptyDir": {} }]),
    );
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": desired.metadata(&name, COMPONENT),
        "spec": {
            "serviceName": name, "replicas": replicas(desired, managed.replicas), "podManagementPolicy": "Parallel",
            // A changed template reaches a member when it restarts; nothing restarts a quorum for
            // it.
            "updateStrategy": { "type": "OnDelete" },
            "persistentVolumeClaimRetentionPolicy": desired.claim_retention(),
            "selector": { "matchLabels": desired.selector(COMPONENT) },
            "template": { "metadata": { "labels": labels }, "spec": pod },
            "volumeClaimTemplates": [desired.claim("data", COMPONENT, &managed.storage)],
        },
    })
}
