//! The objects of the platform, from its validated spec alone. Pure.

use std::collections::BTreeMap;

use base64::Engine;
use k8s_openapi::api::core::v1::EnvVar;
use serde_json::{Map, Value, json};

use super::alerts;
use super::canary::pods;
use super::orders;
use super::trial::{Trial, trial_name};
use super::validate::{Address, Desired, DesiredService, Wiring};
use crate::checksum::checksum;
use crate::kinds::service_resilience::inject::{ADMIN_PORT, Image, inject};
use crate::kinds::service_resilience::validate::WORKLOAD;
use mrg_api::order_service_set::CanaryStatus;
use mrg_kube_support::Manifest;
use mrg_platform_catalog::Tier;
use mrg_policy::{Canary, Url};

/// Names the OrderServiceSet on everything that belongs to it.
pub const SET_LABEL: &str = "mrg.bluebird.id/set";
/// Names the service.
pub const SERVICE_LABEL: &str = "mrg.bluebird.id/service";
/// What the pods were made from: a change of it, and nothing else, changes pods.
pub const REVISION: &str = "mrg.bluebird.id/revision";
/// The template as it was applied. Another version of this operator keeps it as long as the
/// revision stays, so that its upgrade restarts nothing.
pub const TEMPLATE: &str = "mrg.bluebird.id/template";
/// The port at which every service is called.
pub const SERVICE_PORT: u16 = 8080;

/// What an installation of the operator decides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The image with the sidecar.
    pub sidecar: Image,
    /// What the priority classes of the tiers begin with, such as `mrg-` for `mrg-p0`; none are set
    /// without it.
    pub priority_classes: Option<String>,
}

impl Desired {
    fn labels(&self, service: &DesiredService) -> Map<String, Value> {
        let labels = json!({
            "app.kubernetes.io/name": service.catalog.name,
            "app.kubernetes.io/part-of": self.name,
            "app.kubernetes.io/managed-by": "mrg-operator",
            SET_LABEL: self.name,
            SERVICE_LABEL: service.name,
            "mrg.bluebird.id/tier": service.catalog.tier.value.name(),
        });
        labels.as_object().cloned().unwrap_or_default()
    }

    fn selector(&self, service: &str) -> Value {
        json!({ SET_LABEL: self.name, SERVICE_LABEL: service })
    }

    /// The pods of a service, with those of it that are tried out.
    fn both(&self, service: &str) -> Value {
        let names = [service.to_owned(), canary_name(service)];
        json!({ "matchLabels": { SET_LABEL: self.name }, "matchExpressions": [{ "key": SERVICE_LABEL, "operator": "In", "values": names }] })
    }

    fn metadata(&self, service: &DesiredService) -> Value {
        json!({
            "name": service.name, "namespace": self.namespace, "labels": self.labels(service), "ownerReferences": [self.owner()],
        })
    }

    /// Who owns what this set makes.
    pub fn owner(&self) -> Value {
        json!({
            "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "OrderServiceSet", "name": self.name, "uid": self.uid,
            "controller": true, "blockOwnerDeletion": true,
        })
    }
}

/// What the version of a service is called that is tried out beside it.
pub fn canary_name(service: &str) -> String {
    format!("{service}-canary")
}

/// The version of a service that is tried out: the same in all but its name and the number of its
/// pods, so that nothing reaches it but what the sidecars of the other send.
pub fn canary(service: &DesiredService) -> DesiredService {
    let mut canary = service.clone();
    canary.name = canary_name(service.catalog.name);
    canary.resilience.name.clone_from(&canary.name);
    canary
        .resilience
        .spec
        .target_ref
        .name
        .clone_from(&canary.name);
    canary.resilience.spec.availability.min_replicas = Some(1);
    canary
}

/// The pods that are tried out, their Service and what guards their calls.
pub fn trial(
    desired: &Desired,
    service: &DesiredService,
    state: &Trial,
    stable: i32,
    settings: &Settings,
) -> Option<Vec<Manifest>> {
    let spec = desired.spec.rollout.canary.as_ref()?;
    let canary = canary(service);
    let template = template(desired, &canary, settings);
    let deployment = deployment(
        desired,
        &canary,
        &template,
        &state.state.revision,
        Some(pods(spec, &state.state, stable)),
    );
    let mut resilience = resilience(desired, &canary);
    resilience["metadata"]["annotations"] = json!({ WORKLOAD: service.catalog.name });
    Some(vec![
        Manifest(resilience),
        Manifest(kubernetes_service(desired, &canary)),
        deployment,
    ])
}

/// Rules and dashboard, and for Prometheus' operator what it reads.
pub fn alerting(desired: &Desired) -> Vec<Manifest> {
    let Some(alerting) = &desired.spec.alerting else {
        return Vec::new();
    };
    let metadata = |name: &str, more: &[(&str, &str)]| {
        let mut labels = json!({ "app.kubernetes.io/part-of": desired.name, "app.kubernetes.io/managed-by": "mrg-operator", SET_LABEL: desired.name });
        for (label, value) in more {
            labels[*label] = json!(value);
        }
        json!({ "name": format!("{}-{name}", desired.name), "namespace": desired.namespace, "labels": labels, "ownerReferences": [desired.owner()] })
    };
    let rules = alerts::rules(desired, alerting);
    let text = serde_saphyr::to_string(&rules).unwrap_or_else(|_| rules.to_string());
    let file = format!("mrg-{}.json", desired.name);
    let mut all = vec![
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("alerts", &[]), "data": { "rules.yaml": text } }),
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("dashboard", &[("grafana_dashboard", "1")]),
            "data": { file: alerts::dashboard(desired).to_string() },
        }),
    ];
    if alerting.prometheus_operator {
        let selector = json!({ "matchLabels": { SET_LABEL: desired.name } });
        let pods = |name: &str, port: &str| {
            json!({
                "apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": metadata(name, &[]),
                "spec": { "jobLabel": SERVICE_LABEL, "selector": selector, "podMetricsEndpoints": [{ "port": port, "interval": "15s" }] },
            })
        };
        all.push(json!({
            "apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": metadata("alerts", &[]), "spec": rules,
        }));
        all.push(pods("services", "app-http"));
        all.push(pods("sidecars", "mrg-proxy"));
    }
    all.into_iter().map(Manifest).collect()
}

/// Everything beside the Deployments. They come and change at once.
pub fn around(
    desired: &Desired,
    trials: &BTreeMap<&'static str, Trial>,
    split: Option<&CanaryStatus>,
) -> Vec<Manifest> {
    let mut all = Vec::new();
    for service in &desired.services {
        let mut resilience = resilience(desired, service);
        if let Some(state) = trials
            .get(service.catalog.name)
            .filter(|trial| trial.runs && trial.state.weight > 0)
            .map(|trial| &trial.state)
        {
            let url = Url {
                tls: false,
                host: canary_name(service.catalog.name),
                port: SERVICE_PORT,
                base: String::new(),
            };
            let share = u8::try_from(state.weight).unwrap_or(100);
            resilience["spec"]["inbound"]["canary"] = json!(Canary {
                url,
                share,
                trial: trial_name(state)
            });
        }
        if let Some(split) =
            split.filter(|split| split.weight > 0 && service.catalog.name == "orderorchestrator")
        {
            resilience["spec"]["inbound"]["routes"] =
                json!(orders::routes(split.weight, &trial_name(split)));
        }
        all.push(resilience);
        all.push(service_account(desired, service));
        all.push(kubernetes_service(desired, service));
        all.extend(autoscaler(desired, service));
        all.extend(network_policy(desired, service));
    }
    all.into_iter().map(Manifest).collect()
}

/// The Secret with the address that queues are kept at.
pub fn queue_secret(desired: &Desired, wiring: &Wiring, password: &str) -> Manifest {
    let dsn = dsn(&wiring.write, &wiring.user, &encoded(password));
    Manifest(json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {
            "name": wiring.queue_secret, "namespace": desired.namespace, "ownerReferences": [desired.owner()],
            "labels": { "app.kubernetes.io/managed-by": "mrg-operator", SET_LABEL: desired.name },
        },
        "data": { "dsn": base64::engine::general_purpose::STANDARD.encode(dsn) },
    }))
}

/// What means something else in an address, as `%XX`.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn dsn(address: &Address, user: &str, password: &str) -> String {
    format!(
        "postgres://{user}:{password}@{}:{}/{}",
        address.host, address.port, address.database
    )
}

fn resilience(desired: &Desired, service: &DesiredService) -> Value {
    json!({
        "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "ServiceResilience",
        "metadata": desired.metadata(service), "spec": service.resilience.spec,
    })
}

fn service_account(desired: &Desired, service: &DesiredService) -> Value {
    json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": desired.metadata(service), "automountServiceAccountToken": false })
}

fn kubernetes_service(desired: &Desired, service: &DesiredService) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": desired.metadata(service),
        "spec": {
            "selector": desired.selector(&service.name),
            "ports": [{ "name": "http", "port": SERVICE_PORT, "targetPort": "http" }],
        },
    })
}

fn autoscaler(desired: &Desired, service: &DesiredService) -> Option<Value> {
    let wanted = service.spec.autoscaling?;
    let fewest = wanted
        .min_replicas
        .unwrap_or(service.catalog.tier.value.min_replicas().value);
    Some(json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": desired.metadata(service),
        "spec": {
            "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": service.catalog.name },
            "minReplicas": fewest, "maxReplicas": wanted.max_replicas.max(fewest),
            "metrics": [{ "type": "Resource", "resource": {
                "name": "cpu", "target": { "type": "Utilization", "averageUtilization": wanted.target_cpu_percent } } }],
        },
    }))
}

/// Services that customers do not call are reached by those that call them, and their sidecars by
/// everybody who looks after them.
fn network_policy(desired: &Desired, service: &DesiredService) -> Option<Value> {
    if desired.spec.network_policy == mrg_api::order_service_set::NetworkPolicyMode::Off
        || service.catalog.entry
    {
        return None;
    }
    let name = service.catalog.name;
    let calls = |other: &&DesiredService| {
        let providers = other
            .resilience
            .spec
            .dependencies
            .iter()
            .flat_map(|dependency| &dependency.providers);
        providers
            .into_iter()
            .any(|provider| provider.url.host.split('.').next() == Some(name))
    };
    let callers: Vec<Value> = desired
        .services
        .iter()
        .filter(calls)
        .map(|caller| json!({ "podSelector": desired.both(caller.catalog.name) }))
        // What is tried out of it is called by it.
        .chain([json!({ "podSelector": desired.both(name) })])
        .collect();
    let ingress = [
        json!({ "ports": [{ "port": ADMIN_PORT }] }),
        json!({ "from": callers }),
    ];
    Some(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": desired.metadata(service),
        "spec": { "podSelector": desired.both(name), "policyTypes": ["Ingress"], "ingress": ingress },
    }))
}

fn security() -> Value {
    json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true })
}

fn filled(words: &[String], name: &str) -> Vec<String> {
    words
        .iter()
        .map(|word| word.replace("{service}", name))
        .collect()
}

/// The environment: the wiring, the template's, the service's own; the last one of a name counts.
fn environment(desired: &Desired, service: &DesiredService) -> Vec<Value> {
    let uses = |part: &str| service.catalog.uses.iter().any(|(name, _)| *name == part);
    let mut all: Vec<Value> = Vec::new();
    if let Some(wiring) = desired.wiring.as_ref().filter(|_| uses("postgresql")) {
        let secret = json!({ "secretKeyRef": { "name": wiring.secret, "key": wiring.key } });
        all.push(json!({ "name": "DATABASE_USER", "value": wiring.user }));
        all.push(json!({ "name": "DATABASE_PASSWORD", "valueFrom": secret }));
        // The kubelet puts the password in.
        for (name, address) in [
            ("DATABASE_URL", &wiring.write),
            ("DATABASE_READ_URL", &wiring.read),
        ] {
            all.push(json!({ "name": name, "value": dsn(address, "$(DATABASE_USER)", "$(DATABASE_PASSWORD)") }));
        }
    }
    for (part, name, store) in [
        ("redis", "REDIS_URL", &desired.spec.cache),
        ("rabbitmq", "AMQP_URL", &desired.spec.broker),
    ] {
        if let Some(store) = store.as_ref().filter(|_| uses(part)) {
            all.push(json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": store.secret_name, "key": store.key } } }));
        }
    }
    let given: Vec<&EnvVar> = desired
        .spec
        .template
        .env
        .iter()
        .chain(&service.spec.env)
        .collect();
    for variable in given {
        all.retain(|other| other["name"] != *variable.name);
        all.push(json!(variable));
    }
    all
}

/// The pods of a service, sidecar and probes included.
pub fn template(desired: &Desired, service: &DesiredService, settings: &Settings) -> Value {
    let (name, shared) = (service.catalog.name, &desired.spec.template);
    let own =
        |own: &[String], shared: &[String]| filled(if own.is_empty() { shared } else { own }, name);
    let mut container = json!({
        "name": name, "image": service.image, "env": environment(desired, service), "securityContext": security(),
        "ports": [{ "name": "http", "containerPort": service.spec.port }],
        "volumeMounts": [{ "name": "tmp", "mountPath": "/tmp" }],
    });
    let (command, arguments) = (
        own(&service.spec.command, &shared.command),
        own(&service.spec.args, &shared.args),
    );
    let optional = [
        ("command", (!command.is_empty()).then(|| json!(command))),
        ("args", (!arguments.is_empty()).then(|| json!(arguments))),
        (
            "imagePullPolicy",
            shared
                .image_pull_policy
                .as_ref()
                .map(|policy| json!(policy)),
        ),
        (
            "envFrom",
            (!shared.env_from.is_empty()).then(|| json!(shared.env_from)),
        ),
        (
            "resources",
            service
                .spec
                .resources
                .as_ref()
                .or(shared.resources.as_ref())
                .map(|resources| json!(resources)),
        ),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            container[field] = value;
        }
    }
    let mut pod = json!({
        "metadata": { "labels": desired.labels(service), "annotations": {} },
        "spec": {
            "serviceAccountName": name, "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": shared.termination_grace_period_seconds,
            "securityContext": { "runAsNonRoot": true, "runAsUser": shared.run_as_user, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [container],
            "volumes": [{ "name": "tmp", "emptyDir": {} }],
        },
    });
    let optional = [
        (
            "imagePullSecrets",
            (!shared.image_pull_secrets.is_empty()).then(|| json!(shared.image_pull_secrets)),
        ),
        (
            "nodeSelector",
            (!shared.node_selector.is_empty()).then(|| json!(shared.node_selector)),
        ),
        (
            "tolerations",
            (!shared.tolerations.is_empty()).then(|| json!(shared.tolerations)),
        ),
        (
            "priorityClassName",
            settings
                .priority_classes
                .as_ref()
                .map(|prefix| json!(priority_class(prefix, service.catalog.tier.value))),
        ),
    ];
    for (field, value) in optional {
        if let Some(value) = value {
            pod["spec"][field] = value;
        }
    }
    inject(&mut pod, &service.resilience, &settings.sidecar);
    pod
}

fn priority_class(prefix: &str, tier: Tier) -> String {
    format!("{prefix}{}", tier.name().to_ascii_lowercase())
}

/// What pods depend on. The operator's own image is left out: its upgrade restarts nothing. So is
/// what sidecars are told while they run.
pub fn revision(desired: &Desired, service: &DesiredService, settings: &Settings) -> String {
    let neutral = Settings {
        sidecar: Image {
            name: String::new(),
            pull_policy: String::new(),
        },
        ..settings.clone()
    };
    checksum(&template(desired, service, &neutral).to_string(), 5)
}

/// A Deployment with this template and so many pods; without a number that is left to whoever
/// scales.
pub fn deployment(
    desired: &Desired,
    service: &DesiredService,
    template: &Value,
    revision: &str,
    replicas: Option<i32>,
) -> Manifest {
    let mut metadata = desired.metadata(service);
    metadata["annotations"] = json!({ REVISION: revision, TEMPLATE: template.to_string() });
    let deadline = desired.spec.rollout.progress_deadline.as_seconds();
    let mut spec = json!({
        "selector": { "matchLabels": desired.selector(&service.name) },
        "revisionHistoryLimit": 3,
        "progressDeadlineSeconds": deadline,
        // A new pod serves before an old one goes.
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
        "template": template,
    });
    if let Some(replicas) = replicas {
        spec["replicas"] = json!(replicas);
    }
    Manifest(
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec }),
    )
}
