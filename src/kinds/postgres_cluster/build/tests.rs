use super::*;
use crate::kinds::postgres_cluster::{Settings, validate};

/// A cluster of three, named `c`, with these parts of a spec besides.
pub(in crate::kinds::postgres_cluster) fn desired(spec: &str) -> Desired {
    let mut object = json!({
        "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "PostgresCluster", "metadata": { "name": "c", "namespace": "n", "uid": "u" },
        "spec": { "replicas": 3, "image": "i", "storage": { "size": "1Gi" }, "etcd": { "managed": { "image": "i" } } },
    });
    let more: Map<String, Value> = serde_json::from_str(spec).unwrap();
    for (name, value) in more {
        object["spec"][name] = value;
    }
    let settings = Settings {
        agent_image: "i".to_owned(),
        agent_pull_policy: "Never".to_owned(),
        priority_class: None,
    };
    validate::validate(&settings, &serde_json::from_value(object).unwrap()).unwrap()
}

const WITH_COMMANDS: &str = r#"{"postgresql": {"parameters": {
    "work_mem": "4MB", "Archive_Command": "cp %p /a/%f", "shared_preload_libraries": "pg_stat_statements",
    "archive_mode": "on", "pg_stat_statements.max": "100"}}}"#;

/// The files of the ConfigMap that is mounted into the members' pods.
fn mounted(desired: &Desired) -> (Value, Value) {
    let objects = build(desired);
    let map = objects
        .iter()
        .find(|object| object.0["kind"] == "ConfigMap" && object.0["metadata"]["name"] == "c-agent")
        .unwrap();
    let owner = &map.0["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["uid"], &owner["controller"]),
        (&json!("u"), &json!(true))
    );
    let file = |name: &str| serde_json::from_str(map.0["data"][name].as_str().unwrap()).unwrap();
    (file("agent.yml"), file("executable.json"))
}

#[test]
fn what_executes_or_loads_code_is_mounted_and_the_rest_stands_in_etcd() {
    let desired = desired(WITH_COMMANDS);
    let (agent, executable) = mounted(&desired);
    let key = Value::Object(dynamic_config(&desired));
    assert_eq!(
        executable["parameters"],
        json!({ "Archive_Command": "cp %p /a/%f", "shared_preload_libraries": "pg_stat_statements" })
    );
    assert_eq!(
        key["postgresql"]["parameters"],
        json!({ "archive_mode": "on", "pg_stat_statements.max": "100", "work_mem": "4MB" })
    );
    assert_eq!(agent["bootstrap"]["dcs"], key, "what a new cluster stores");
    assert_eq!(
        agent["mrg"]["executable_settings_file"],
        "/etc/mrg/executable.json"
    );
    assert_eq!(executable["version"], key["mrg"]["executable_settings"]);
}

#[test]
fn the_configmap_is_mounted_as_a_directory_so_that_it_changes_in_the_pod() {
    let objects = build(&desired("{}"));
    let set = objects
        .iter()
        .find(|object| object.0["kind"] == "StatefulSet" && object.0["metadata"]["name"] == "c");
    let container = &set.unwrap().0["spec"]["template"]["spec"]["containers"][0];
    let mounts = container["volumeMounts"].as_array().unwrap();
    let config = mounts
        .iter()
        .find(|mount| mount["name"] == "config")
        .unwrap();
    assert_eq!(
        *config,
        json!({ "name": "config", "mountPath": "/etc/mrg" })
    );
}

#[test]
fn the_version_follows_what_executes_and_nothing_else() {
    let version = |spec: &str| executable_version(&desired(spec));
    let with = version(WITH_COMMANDS);
    assert_eq!(with, version(&WITH_COMMANDS.replace("4MB", "5MB")));
    assert_ne!(with, version(&WITH_COMMANDS.replace("/a/", "/b/")));
    assert_ne!(with, version("{}"));
    assert_eq!(version("{}"), version(r#"{"replicas": 5}"#));
}

#[test]
fn how_long_a_leader_may_not_serve_reaches_the_election() {
    let limit = |spec: &str| {
        let config = mrg_dcs::DynamicConfig(dynamic_config(&desired(spec)));
        mrg_dcs::settings(&config)
            .unwrap()
            .failover
            .unresponsive_after
    };
    for (spec, seconds) in [
        ("{}", 20),
        (r#"{"failover": {"unresponsiveAfter": "1m"}}"#, 60),
        (r#"{"failover": {"unresponsiveAfter": "0s"}}"#, 0),
    ] {
        assert_eq!(limit(spec), mrg_base::Millis::seconds(seconds), "{spec}");
    }
}
