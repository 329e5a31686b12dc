//! The PostgreSQL members: configuration, Services, StatefulSet.

use serde_json::{Value, json};

use crate::kinds::postgres_cluster::build::{
    POSTGRES_PORT, REST_PORT, ROLE_LABEL, config, container_security,
};
use crate::kinds::postgres_cluster::validate::Desired;
use mrg_dcs::wire::compact;

const COMPONENT: &str = "postgres";
/// Where the passwords are mounted. Unlike the environment it changes when they are rotated, and no
/// process inherits it.
const SECRET_DIRECTORY: &str = "/etc/mrg-secret";
/// In memory: the file from which libpq takes the passwords of the agent's roles.
const PASSFILE_DIRECTORY: &str = "/run/mrg-passfile";
/// The agent's own passwords in the Secret; it has no role for `pg_rewind`.
const OWN_PASSWORDS: [&str; 3] = ["superuser", "replication", "rest"];
/// Where the ConfigMap is mounted, as a directory: files in it change with the object.
const CONFIG_DIRECTORY: &str = "/etc/mrg";
/// The settings that execute or load code, in the ConfigMap.
const EXECUTABLE_FILE: &str = "executable.json";

/// The objects.
pub(super) fn objects(desired: &Desired) -> Vec<Value> {
    vec![
        service_account(desired),
        config_map(desired),
        service(desired, &format!("{}-members", desired.name), None),
        service(desired, &format!("{}-rw", desired.name), Some("primary")),
        service(desired, &format!("{}-ro", desired.name), Some("replica")),
        disruption_budget(desired),
        stateful_set(desired),
    ]
}

fn service_account(desired: &Desired) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": desired.metadata(&desired.name, COMPONENT), "automountServiceAccountToken": false,
    })
}

/// The agent's file, JSON, which is YAML too, and the settings that execute or load code.
fn config_map(desired: &Desired) -> Value {
    let databases: Vec<Value> = desired
        .spec
        .bootstrap
        .databases
        .iter()
        .map(|database| json!({ "name": database.name, "owner": database.owner }))
        .collect();
    let agent = json!({
        "scope": desired.scope,
        "restapi": { "listen": format!("0.0.0.0:{REST_PORT}") },
        "etcd3": { "hosts": desired.etcd_endpoints() },
        "bootstrap": {
            "dcs": config::dynamic_config(desired),
            "initdb": [
                { "encoding": desired.spec.bootstrap.encoding }, { "locale": desired.spec.bootstrap.locale }, "data-checksums",
            ],
        },
        "postgresql": {
            "listen": format!("0.0.0.0:{POSTGRES_PORT}"),
            "data_dir": "/var/lib/postgresql/data/pgdata",
            "bin_dir": desired.spec.bin_directory,
            "pgpass": format!("{PASSFILE_DIRECTORY}/pgpass"),
        },
        "mrg": {
            "container": true,
            "incarnation_file": "/run/mrg/incarnation",
            "termination_message": "/run/mrg-termination/message",
            "databases": databases,
            "secret_directory": SECRET_DIRECTORY,
            "executable_settings_file": format!("{CONFIG_DIRECTORY}/{EXECUTABLE_FILE}"),
            "stop_timeout": 30,
        },
    });
    let executable = config::executable_settings(desired);
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": desired.metadata(&format!("{}-agent", desired.name), COMPONENT),
        "data": { "agent.yml": compact(&agent), EXECUTABLE_FILE: compact(&executable) },
    })
}

fn service(desired: &Desired, name: &str, role: Option<&str>) -> Value {
    let mut selector = desired.selector(COMPONENT);
    let mut spec = json!({
        "ports": [{ "name": "postgres", "port": POSTGRES_PORT }, { "name": "rest", "port": REST_PORT }],
    });
    if let Some(role) = role {
        selector[ROLE_LABEL] = json!(role);
    } else {
        spec["clusterIP"] = json!("None");
        spec["publishNotReadyAddresses"] = json!(true);
    }
    spec["selector"] = selector;
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": desired.metadata(name, COMPONENT), "spec": spec })
}

fn disruption_budget(desired: &Desired) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": desired.metadata(&desired.name, COMPONENT),
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": desired.selector(COMPONENT) } },
    })
}

fn environment() -> Value {
    let field = |path: &str| json!({ "fieldRef": { "fieldPath": path } });
    json!([
        { "name": "PATRONI_NAME", "valueFrom": field("metadata.name") },
        { "name": "POD_IP", "valueFrom": field("status.podIP") },
        { "name": "PATRONI_POSTGRESQL_CONNECT_ADDRESS", "value": format!("$(POD_IP):{POSTGRES_PORT}") },
        { "name": "PATRONI_RESTAPI_CONNECT_ADDRESS", "value": format!("$(POD_IP):{REST_PORT}") },
        { "name": "PATRONI_SUPERUSER_USERNAME", "value": "postgres" },
        { "name": "PATRONI_REPLICATION_USERNAME", "value": "replicator" },
        { "name": "PATRONI_RESTAPI_USERNAME", "value": "mrg" },
        { "name": "LANG", "value": "C.UTF-8" },
        // psql in `kubectl exec` finds the socket.
        { "name": "PGHOST", "value": "/var/lib/postgresql/data/pgdata.run" },
        { "name": "PGUSER", "value": "postgres" },
    ])
}

/// The agent's own passwords and the owners', and no others. A pod does not start without them.
fn passwords(desired: &Desired) -> Value {
    let own = OWN_PASSWORDS.map(str::to_owned);
    let keys: Vec<Value> = own
        .into_iter()
        .chain(desired.owners())
        .map(|whose| format!("{whose}-password"))
        .map(|key| json!({ "key": key, "path": key }))
        .collect();
    json!({ "name": "secret", "secret": { "secretName": desired.secret_name(), "items": keys, "defaultMode": 0o440 } })
}

fn stateful_set(desired: &Desired) -> Value {
    let mut pod = desired.pod(COMPONENT);
    let mut container = json!({
        "name": "postgres", "image": desired.spec.image,
        "command": ["/mrg/mrg-agent", format!("{CONFIG_DIRECTORY}/agent.yml")],
        "env": environment(),
        "ports": [{ "name": "postgres", "containerPort": POSTGRES_PORT }, { "name": "rest", "containerPort": REST_PORT }],
        "terminationMessagePath": "/run/mrg-termination/message",
        "securityContext": container_security(),
        "volumeMounts": [
            { "name": "data", "mountPath": "/var/lib/postgresql/data" }, { "name": "mrg", "mountPath": "/mrg", "readOnly": true },
            { "name": "config", "mountPath": CONFIG_DIRECTORY }, { "name": "run", "mountPath": "/run/mrg" },
            { "name": "secret", "mountPath": SECRET_DIRECTORY }, { "name": "passfile", "mountPath": PASSFILE_DIRECTORY }, { "name": "tmp", "mountPath": "/tmp" }, { "name": "shm", "mountPath": "/dev/shm" },
        ],
        // The kubelet restarts only an agent whose loop stands still; everything else is the
        // agent's to decide.
        "livenessProbe": { "httpGet": { "path": "/liveness", "port": REST_PORT }, "initialDelaySeconds": 30, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6 },
        "readinessProbe": { "httpGet": { "path": "/readiness", "port": REST_PORT }, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2 },
    });
    if let Some(resources) = &desired.spec.resources {
        container["resources"] = json!(resources);
    }
    pod.insert("serviceAccountName".into(), json!(desired.name));
    pod.insert(
        "initContainers".into(),
        json!([desired.install_container()]),
    );
    pod.insert("containers".into(), json!([container]));
    // Checkpoint, fast stop, receipt, release: the shutdown deadline of the agent, and a little.
    pod.insert("terminationGracePeriodSeconds".into(), json!(60));
    pod.insert(
        "volumes".into(),
        json!([
            { "name": "mrg", "emptyDir": {} }, { "name": "run", "emptyDir": {} }, { "name": "tmp", "emptyDir": {} },
            { "name": "shm", "emptyDir": { "medium": "Memory" } },
            { "name": "passfile", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } },
            { "name": "config", "configMap": { "name": format!("{}-agent", desired.name) } },
            passwords(desired),
        ]),
    );
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": desired.metadata(&desired.name, COMPONENT),
        "spec": {
            "serviceName": format!("{}-members", desired.name), "replicas": desired.spec.replicas, "podManagementPolicy": "Parallel",
            // Replicas first, the leader last, after a switchover: the operator rolls, not the
            // StatefulSet.
            "updateStrategy": { "type": "OnDelete" },
            "persistentVolumeClaimRetentionPolicy": desired.claim_retention(),
            "selector": { "matchLabels": desired.selector(COMPONENT) },
            "template": { "metadata": { "labels": desired.labels(COMPONENT) }, "spec": pod },
            "volumeClaimTemplates": [desired.claim("data", COMPONENT, &desired.spec.storage)],
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::postgres_cluster::validate::tests::with_databases;

    #[test]
    fn passwords_are_files_of_their_own_and_in_no_environment() {
        let desired = with_databases(&[("a", "a-b"), ("b", "a_b")]).unwrap();
        let set = stateful_set(&desired);
        let pod = &set["spec"]["template"]["spec"];
        let environment = pod["containers"][0]["env"].to_string();
        assert!(!environment.contains("secretKeyRef"), "{environment}");
        let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
        let program = mounts.iter().find(|mount| mount["name"] == "mrg").unwrap();
        assert_eq!(
            program["readOnly"], true,
            "postgres could replace its agent"
        );
        let volumes = pod["volumes"].as_array().unwrap();
        let named = |name: &str| {
            volumes
                .iter()
                .find(|volume| volume["name"] == name)
                .unwrap()
        };
        let items = named("secret")["secret"]["items"].as_array().unwrap();
        let paths: Vec<&str> = items
            .iter()
            .map(|item| item["path"].as_str().unwrap())
            .collect();
        assert_eq!(
            paths,
            [
                "superuser-password",
                "replication-password",
                "rest-password",
                "a-b-password",
                "a_b-password"
            ]
        );
        assert_eq!(named("passfile")["emptyDir"]["medium"], "Memory");
    }
}
