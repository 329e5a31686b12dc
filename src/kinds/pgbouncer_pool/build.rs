//! The objects of a pool, from its validated spec alone. Pure.

use serde_json::{Map, Value, json};

use crate::checksum::checksum;
use crate::kinds::pgbouncer_pool::validate::{Desired, MaxLag};
use mrg_api::pgbouncer_pool::{Fallback, Mode, OnTimeout, PoolMode};
use mrg_api::postgres_cluster::Spread;
use mrg_dcs::wire::compact;
use mrg_kube_support::Manifest;

/// The container port of metrics and health checks.
pub(super) const HTTP_PORT: u16 = 8009;

/// All objects, in the order in which they are applied.
pub(super) fn build(desired: &Desired) -> Vec<Manifest> {
    [
        service_account(desired),
        config_map(desired),
        service(desired),
        disruption_budget(desired),
        deployment(desired),
    ]
    .map(Manifest)
    .into()
}

impl Desired {
    fn labels(&self) -> Map<String, Value> {
        let labels = json!({
            "app.kubernetes.io/name": "pgbouncer",
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/managed-by": "mrg-operator",
            "mrg.bluebird.id/pool": self.name,
        });
        labels.as_object().cloned().unwrap_or_default()
    }

    fn selector(&self) -> Value {
        json!({ "app.kubernetes.io/name": "pgbouncer", "mrg.bluebird.id/pool": self.name })
    }

    fn metadata(&self, name: &str) -> Value {
        json!({
            "name": name, "namespace": self.namespace, "labels": self.labels(),
            "ownerReferences": [{
                "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "PgBouncerPool", "name": self.name, "uid": self.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        })
    }

    fn file_name(&self) -> String {
        format!("{}-pooler", self.name)
    }

    /// The pooler's file.
    fn pooler_file(&self) -> String {
        let spec = &self.spec;
        let databases: Vec<Value> = spec
            .databases
            .iter()
            .map(|database| json!({ "alias": database.name, "name": database.database }))
            .collect();
        let mut settings: Map<String, Value> = spec
            .settings
            .iter()
            .map(|(name, value)| (name.clone(), json!(value.0)))
            .collect();
        if spec.tls.is_some() {
            for (name, value) in [
                ("client_tls_sslmode", "require"),
                ("client_tls_cert_file", "/etc/mrg-tls/tls.crt"),
                ("client_tls_key_file", "/etc/mrg-tls/tls.key"),
                // It wants one even if no client certificate is asked for, and finds none by itself
                // in an image without ca-certificates.
                ("client_tls_ca_file", "/etc/mrg-tls/tls.crt"),
            ] {
                settings.insert(name.to_owned(), json!(value));
            }
        }
        let pool_mode = match spec.pool_mode {
            PoolMode::Session => "session",
            PoolMode::Transaction => "transaction",
            PoolMode::Statement => "statement",
        };
        let mut file = json!({
            "scope": self.scope, "etcd": self.etcd, "pool": self.name,
            "mode": if spec.mode == Mode::Write { "Write" } else { "Read" },
            "port": self.port, "http_port": HTTP_PORT, "processes": spec.processes,
            "databases": databases, "users": self.users,
            "secret_directory": "/etc/mrg-secret", "run_directory": "/run/mrg",
            "pool_mode": pool_mode,
            "max_client_connections": spec.max_client_connections, "default_pool_size": spec.default_pool_size,
            "settings": settings, "tls_required": spec.tls.is_some(),
            "max_hold_ms": spec.failover.max_hold.0, "max_wait_ms": spec.switchover.max_wait.0,
            "abandons": spec.switchover.on_timeout == OnTimeout::Abandon,
            "drain_ms": spec.drain.0,
        });
        if spec.mode == Mode::Read {
            match self.max_lag {
                MaxLag::Bytes(bytes) => file["max_lag_bytes"] = json!(bytes),
                MaxLag::Time(age) => file["max_lag_ms"] = json!(age),
            }
            file["falls_back"] =
                json!(spec.read.clone().unwrap_or_default().fallback == Fallback::Primary);
        }
        compact(&file)
    }
}

fn service_account(desired: &Desired) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": desired.metadata(&desired.file_name()), "automountServiceAccountToken": false,
    })
}

fn config_map(desired: &Desired) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": desired.metadata(&desired.file_name()),
        "data": { "pooler.json": desired.pooler_file() },
    })
}

fn service(desired: &Desired) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": desired.metadata(&desired.name),
        "spec": { "selector": desired.selector(), "ports": [{ "name": "postgres", "port": desired.port, "targetPort": "postgres" }] },
    })
}

fn disruption_budget(desired: &Desired) -> Value {
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": desired.metadata(&desired.name),
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": desired.selector() } },
    })
}

fn container_security() -> Value {
    json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true })
}

fn deployment(desired: &Desired) -> Value {
    let spec = &desired.spec;
    let mut container = json!({
        "name": "pgbouncer", "image": spec.image,
        "command": ["/mrg/mrg-pooler", "/etc/mrg/pooler.json"],
        "env": [{ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        "ports": [{ "name": "postgres", "containerPort": desired.port }, { "name": "http", "containerPort": HTTP_PORT }],
        "securityContext": container_security(),
        "volumeMounts": [
            { "name": "mrg", "mountPath": "/mrg", "readOnly": true }, { "name": "config", "mountPath": "/etc/mrg" },
            { "name": "secret", "mountPath": "/etc/mrg-secret" }, { "name": "run", "mountPath": "/run/mrg" },
        ],
        "readinessProbe": { "httpGet": { "path": "/readyz", "port": HTTP_PORT }, "periodSeconds": 2, "timeoutSeconds": 2, "failureThreshold": 2 },
        "livenessProbe": { "httpGet": { "path": "/healthz", "port": HTTP_PORT }, "initialDelaySeconds": 10, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6 },
    });
    if let Some(resources) = &spec.resources {
        container["resources"] = json!(resources);
    }
    let unsatisfiable = if spec.scheduling.spread == Spread::Required {
        "DoNotSchedule"
    } else {
        "ScheduleAnyway"
    };
    let passwords: Vec<Value> = desired
        .users
        .iter()
        .map(|user| format!("{user}-password"))
        .map(|key| json!({ "key": key, "path": key }))
        .collect();
    let mut pod = json!({
        "serviceAccountName": desired.file_name(),
        "automountServiceAccountToken": false, "enableServiceLinks": false,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": spec.run_as_user, "runAsGroup": spec.run_as_user, "fsGroup": spec.run_as_user,
            "seccompProfile": { "type": "RuntimeDefault" },
        },
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": unsatisfiable,
            "labelSelector": { "matchLabels": desired.selector() },
        }],
        "tolerations": spec.scheduling.tolerations,
        "initContainers": [{
            "name": "install-pooler", "image": desired.pooler_image, "imagePullPolicy": desired.pooler_pull_policy,
            "command": ["/usr/local/bin/mrg-pooler", "install", "/mrg/mrg-pooler"],
            "securityContext": container_security(), "volumeMounts": [{ "name": "mrg", "mountPath": "/mrg" }],
        }],
        "containers": [container],
        // Clients go by themselves, or are ended between two transactions.
        "terminationGracePeriodSeconds": spec.drain.as_seconds() + 15,
        "volumes": [
            { "name": "mrg", "emptyDir": {} },
            { "name": "run", "emptyDir": { "medium": "Memory" } },
            { "name": "config", "configMap": { "name": desired.file_name() } },
            { "name": "secret", "secret": { "secretName": desired.secret, "items": passwords, "defaultMode": 0o440 } },
        ],
    });
    if let Some(tls) = &spec.tls {
        let (volumes, mounts) = ("/volumes", "/containers/0/volumeMounts");
        let volume = json!({ "name": "tls", "secret": { "secretName": tls.secret_name, "defaultMode": 0o440 } });
        for (place, item) in [
            (volumes, volume),
            (
                mounts,
                json!({ "name": "tls", "mountPath": "/etc/mrg-tls" }),
            ),
        ] {
            if let Some(items) = pod.pointer_mut(place).and_then(Value::as_array_mut) {
                items.push(item);
            }
        }
    }
    if !spec.scheduling.node_selector.is_empty() {
        pod["nodeSelector"] = json!(spec.scheduling.node_selector);
    }
    if let Some(class) = spec
        .scheduling
        .priority_class_name
        .as_ref()
        .or(desired.priority_class.as_ref())
    {
        pod["priorityClassName"] = json!(class);
    }
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": desired.metadata(&desired.name),
        "spec": {
            "replicas": spec.replicas,
            // A new pod takes clients before an old one stops to.
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
            "selector": { "matchLabels": desired.selector() },
            "template": {
                "metadata": {
                    "labels": desired.labels(),
                    "annotations": {
                        "mrg.bluebird.id/configuration": checksum(&desired.pooler_file(), 8),
                        "prometheus.io/scrape": "true", "prometheus.io/port": HTTP_PORT.to_string(),
                    },
                },
                "spec": pod,
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_configuration_is_the_same_in_every_build() {
        assert_eq!(checksum("{}", 8), "44136fa355b3678a");
    }
}
