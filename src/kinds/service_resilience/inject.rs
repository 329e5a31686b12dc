//! What a pod of an enrolled workload is changed to when it is created. Pure: pod in, pod out;
//! nothing that Git owns is touched.

use serde_json::{Value, json};

use super::validate::Desired;
use mrg_api::service_resilience::{Mode, Probe, ProbeMode, Spread};

/// The sidecar's name.
pub const CONTAINER: &str = "mrg-proxy";
/// Where its admin port is.
pub const ADMIN_PORT: u16 = 15_021;
/// Names the ServiceResilience on its pods.
pub const LABEL: &str = "mrg.bluebird.id/resilience";

/// The programs.
#[derive(Clone, Debug)]
pub struct Image {
    /// The image with `mrg-proxy`.
    pub name: String,
    /// When it is pulled.
    pub pull_policy: String,
}

/// Changes a pod. In Audit mode nothing is changed.
pub fn inject(pod: &mut Value, desired: &Desired, image: &Image) {
    if desired.spec.mode == Mode::Audit || has_sidecar(pod) {
        return;
    }
    if !pod["metadata"]["labels"].is_object() {
        pod["metadata"]["labels"] = json!({});
    }
    pod["metadata"]["labels"][LABEL] = json!(desired.name);
    take_over_port(pod, desired);
    probes(pod, desired);
    containers(pod, desired);
    spread(pod, desired);
    sidecar(pod, desired, image);
}

fn has_sidecar(pod: &Value) -> bool {
    pod.pointer("/spec/initContainers")
        .and_then(Value::as_array)
        .is_some_and(|all| all.iter().any(|container| container["name"] == CONTAINER))
}

fn list<'a>(parent: &'a mut Value, name: &str) -> Option<&'a mut Vec<Value>> {
    if !parent[name].is_array() {
        parent[name] = json!([]);
    }
    parent[name].as_array_mut()
}

/// The workload's container: the one that is named, else the first.
fn main_container<'a>(pod: &'a mut Value, desired: &Desired) -> Option<&'a mut Value> {
    let containers = pod.pointer_mut("/spec/containers")?.as_array_mut()?;
    let at = match &desired.spec.probes.container {
        Some(name) => containers
            .iter()
            .position(|container| container["name"] == **name)?,
        None => 0,
    };
    containers.get_mut(at)
}

/// The probe as the kubelet wants it.
pub fn probe(probe: &Probe, port: u16) -> Value {
    json!({
        "httpGet": { "path": probe.path, "port": port },
        "initialDelaySeconds": probe.initial_delay_seconds, "periodSeconds": probe.period_seconds,
        "timeoutSeconds": probe.timeout_seconds, "failureThreshold": probe.failure_threshold,
    })
}

fn probes(pod: &mut Value, desired: &Desired) {
    let wanted = desired.spec.probes.clone();
    if wanted.mode == ProbeMode::Ignore {
        return;
    }
    if let Some(container) = main_container(pod, desired) {
        container["livenessProbe"] = probe(&wanted.liveness, wanted.port);
        container["readinessProbe"] = probe(&wanted.readiness, wanted.port);
    }
}

/// Callers reach the sidecar by the name of the port: Services need not change. What asked for the
/// port by name inside of the container gets its number, since names are looked up there.
fn take_over_port(pod: &mut Value, desired: &Desired) {
    let Some(inbound) = &desired.spec.inbound else {
        return;
    };
    let Some(containers) = pod
        .pointer_mut("/spec/containers")
        .and_then(Value::as_array_mut)
    else {
        return;
    };
    for container in containers {
        let Some(ports) = container["ports"].as_array_mut() else {
            continue;
        };
        let Some(port) = ports
            .iter_mut()
            .find(|port| port["containerPort"] == inbound.target_port)
        else {
            continue;
        };
        let Some(name) = port["name"].as_str().map(str::to_owned) else {
            continue;
        };
        // Names are fifteen characters long at most.
        port["name"] = json!(
            format!("app-{}", name.chars().take(11).collect::<String>()).trim_end_matches('-')
        );
        for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
            for how in ["httpGet", "tcpSocket"] {
                if container[kind][how]["port"] == *name {
                    container[kind][how]["port"] = json!(inbound.target_port);
                }
            }
        }
        pod["metadata"]["annotations"]["mrg.bluebird.id/port-name"] = json!(name);
        return;
    }
}

fn containers(pod: &mut Value, desired: &Desired) {
    let drain = desired.spec.availability.drain_seconds;
    let variables: Vec<(String, String)> = desired.spec.dependencies.iter().map(variable).collect();
    let Some(containers) = pod
        .pointer_mut("/spec/containers")
        .and_then(Value::as_array_mut)
    else {
        return;
    };
    for container in containers {
        // Clients that still take the pod for ready are served meanwhile.
        if drain > 0 && container["lifecycle"]["preStop"].is_null() {
            container["lifecycle"]["preStop"] = json!({ "sleep": { "seconds": drain } });
        }
        if let Some(environment) = list(container, "env") {
            for (name, value) in &variables {
                if !environment
                    .iter()
                    .any(|variable| variable["name"] == **name)
                {
                    environment.push(json!({ "name": name, "value": value }));
                }
            }
        }
    }
}

/// `BBD_URL=http://127.0.0.1:19001`.
fn variable(dependency: &mrg_policy::Dependency) -> (String, String) {
    let name = dependency.name.to_ascii_uppercase().replace('-', "_");
    (
        format!("{name}_URL"),
        format!("http://127.0.0.1:{}", dependency.port),
    )
}

fn spread(pod: &mut Value, desired: &Desired) {
    let unsatisfiable = match desired.spec.availability.spread {
        Spread::None => return,
        Spread::Preferred => "ScheduleAnyway",
        Spread::Required => "DoNotSchedule",
    };
    let labels = json!({ LABEL: desired.name });
    if let Some(constraints) = list(&mut pod["spec"], "topologySpreadConstraints")
        && !constraints
            .iter()
            .any(|constraint| constraint["topologyKey"] == "kubernetes.io/hostname")
    {
        constraints.push(json!({
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": unsatisfiable,
            "labelSelector": { "matchLabels": labels },
        }));
    }
}

fn secrets(desired: &Desired) -> Vec<String> {
    let providers = desired
        .spec
        .dependencies
        .iter()
        .flat_map(|dependency| &dependency.providers);
    let mut names: Vec<String> = providers
        .filter_map(|provider| Some(provider.credentials.as_ref()?.secret_name.clone()))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn sidecar(pod: &mut Value, desired: &Desired, image: &Image) {
    let mut command: Vec<Value> = [
        "/usr/local/bin/mrg-proxy",
        "run",
        "/etc/mrg-proxy/config/proxy.json",
        "--token-file",
        "/etc/mrg-proxy/token/token",
    ]
    .map(Value::from)
    .into();
    let mut mounts = vec![
        json!({ "name": "mrg-proxy-config", "mountPath": "/etc/mrg-proxy/config", "readOnly": true }),
        json!({ "name": "mrg-proxy-token", "mountPath": "/etc/mrg-proxy/token", "readOnly": true }),
    ];
    let mut volumes = vec![
        json!({ "name": "mrg-proxy-config", "configMap": { "name": desired.file_name() } }),
        json!({ "name": "mrg-proxy-token", "secret": { "secretName": desired.file_name(), "items": [{ "key": "token", "path": "token" }] } }),
    ];
    for (index, secret) in secrets(desired).into_iter().enumerate() {
        let name = format!("mrg-proxy-secret-{index}");
        mounts.push(json!({ "name": name, "mountPath": format!("/etc/mrg-proxy/secrets/{secret}"), "readOnly": true }));
        volumes.push(json!({ "name": name, "secret": { "secretName": secret } }));
    }
    if let Some(queue) = &desired.spec.queue {
        if let Some(database) = &queue.database {
            command.extend(["--queue-dsn-file", "/etc/mrg-proxy/queue/dsn"].map(Value::from));
            mounts.push(json!({ "name": "mrg-proxy-queue-dsn", "mountPath": "/etc/mrg-proxy/queue", "readOnly": true }));
            let items = json!([{ "key": database.key, "path": "dsn" }]);
            volumes.push(json!({ "name": "mrg-proxy-queue-dsn", "secret": { "secretName": database.secret_name, "items": items } }));
        }
        if let Some(volume) = &queue.volume {
            command.extend(["--queue-directory", "/var/lib/mrg-proxy"].map(Value::from));
            mounts.push(json!({ "name": "mrg-proxy-queue", "mountPath": "/var/lib/mrg-proxy" }));
            volumes.push(json!({ "name": "mrg-proxy-queue", "emptyDir": { "sizeLimit": volume.size_limit } }));
        }
    }
    let mut container = json!({
        "name": CONTAINER, "image": image.name, "imagePullPolicy": image.pull_policy, "restartPolicy": "Always",
        "command": command,
        "env": [{ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        "ports": [{ "name": "mrg-proxy", "containerPort": ADMIN_PORT }],
        "startupProbe": { "httpGet": { "path": "/readyz", "port": ADMIN_PORT }, "periodSeconds": 1, "failureThreshold": 60 },
        "livenessProbe": { "httpGet": { "path": "/healthz", "port": ADMIN_PORT }, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6 },
        "resources": desired.spec.resources.as_ref().map_or_else(
            || json!({ "requests": { "cpu": "10m", "memory": "16Mi" }, "limits": { "memory": "128Mi" } }),
            |resources| json!(resources),
        ),
        "securityContext": {
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true,
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": { "type": "RuntimeDefault" },
        },
        "volumeMounts": mounts,
    });
    let taken = pod
        .pointer("/metadata/annotations/mrg.bluebird.id~1port-name")
        .cloned();
    if let (Some(inbound), Some(ports)) = (&desired.spec.inbound, container["ports"].as_array_mut())
    {
        let name = taken.unwrap_or_else(|| json!("inbound"));
        ports.push(json!({ "name": name, "containerPort": inbound.port }));
        // Callers keep their connections: they are told to leave while the workload still serves
        // them. Hooks of all containers run at once.
        let drain = [
            "/usr/local/bin/mrg-proxy",
            "drain",
            "--token-file",
            "/etc/mrg-proxy/token/token",
        ];
        container["lifecycle"] = json!({ "preStop": { "exec": { "command": drain } } });
    }
    let spec = &mut pod["spec"];
    if let Some(all) = list(spec, "initContainers") {
        // Others that call dependencies while they prepare the pod find it there.
        all.insert(0, container);
    }
    if let Some(all) = list(spec, "volumes") {
        all.extend(volumes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_api::ServiceResilience;

    fn desired(more: &Value) -> Desired {
        let mut object = json!({
            "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "ServiceResilience", "metadata": { "name": "tpg", "namespace": "mrg", "uid": "u" },
            "spec": {
                "targetRef": { "name": "taxipartnergateway" },
                "dependencies": [{ "name": "tpg-bbd", "port": 19001, "providers": [{
                    "name": "bbd", "url": "http://bbd:8080", "credentials": { "secretName": "bbd", "key": "token" } }] }],
            },
        });
        if let (Some(spec), Some(more)) = (object["spec"].as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        let object: ServiceResilience = serde_json::from_value(object).unwrap();
        super::super::validate::validate(&object, jiff::Timestamp::UNIX_EPOCH).unwrap()
    }

    fn image() -> Image {
        Image {
            name: "mrg".to_owned(),
            pull_policy: "Never".to_owned(),
        }
    }

    fn pod() -> Value {
        json!({
            "metadata": { "labels": { "app": "tpg" } },
            "spec": { "containers": [{
                "name": "app", "ports": [{ "name": "http", "containerPort": 8080 }],
                "startupProbe": { "httpGet": { "path": "/health", "port": "http" } },
                "env": [{ "name": "TPG_BBD_URL", "value": "http://mine" }],
            }] },
        })
    }

    #[test]
    fn a_pod_gets_sidecar_probes_spread_and_addresses() {
        let mut pod = pod();
        inject(&mut pod, &desired(&json!({})), &image());
        let container = &pod["spec"]["containers"][0];
        assert_eq!(
            container["livenessProbe"]["httpGet"],
            json!({ "path": "/health", "port": 8080 })
        );
        assert_eq!(container["readinessProbe"]["periodSeconds"], 5);
        assert_eq!(container["lifecycle"]["preStop"]["sleep"]["seconds"], 5);
        assert_eq!(
            container["env"].as_array().unwrap().len(),
            1,
            "what the workload says itself stays"
        );
        let sidecar = &pod["spec"]["initContainers"][0];
        assert_eq!(
            (sidecar["name"].as_str(), sidecar["restartPolicy"].as_str()),
            (Some("mrg-proxy"), Some("Always"))
        );
        assert!(
            sidecar["volumeMounts"]
                .as_array()
                .unwrap()
                .iter()
                .any(|mount| mount["mountPath"] == "/etc/mrg-proxy/secrets/bbd")
        );
        assert_eq!(
            pod["spec"]["topologySpreadConstraints"][0]["whenUnsatisfiable"],
            "ScheduleAnyway"
        );
        let once = pod.clone();
        inject(&mut pod, &desired(&json!({})), &image());
        assert_eq!(pod, once, "a second time changes nothing");
    }

    #[test]
    fn the_sidecar_takes_the_name_of_the_port_and_probes_get_its_number() {
        let mut pod = pod();
        inject(
            &mut pod,
            &desired(&json!({ "inbound": { "port": 15080 } })),
            &image(),
        );
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["ports"][0]["name"], "app-http");
        assert_eq!(container["startupProbe"]["httpGet"]["port"], 8080);
        let ports = pod["spec"]["initContainers"][0]["ports"]
            .as_array()
            .unwrap();
        assert!(
            ports.contains(&json!({ "name": "http", "containerPort": 15080 })),
            "{ports:?}"
        );
    }

    #[test]
    fn in_audit_mode_a_pod_stays_as_it_is() {
        let (mut changed, before) = (pod(), pod());
        inject(
            &mut changed,
            &desired(&json!({ "mode": "Audit" })),
            &image(),
        );
        assert_eq!(changed, before);
    }
}
