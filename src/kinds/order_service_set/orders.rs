//! The two deployments of `mrg-orders`, what prepares the database for them, and what archives.
//! Pure.

use serde_json::{Value, json};

use super::build::{REVISION, SERVICE_LABEL, SERVICE_PORT, SET_LABEL, Settings, TEMPLATE};
use super::validate::{Desired, Wiring};
use crate::checksum::checksum;
use mrg_api::Duration;
use mrg_api::order_service_set::ReadSplit;
use mrg_kube_support::Manifest;
use mrg_policy::{Canary, Route, Url};

/// The deployment for orders under way.
pub const ACTIVE: &str = "orders-active";
/// The one for those that have ended.
pub const HISTORY: &str = "orders-history";
/// The user of each, and of the job that archives.
pub const USERS: [&str; 3] = [
    "mrg_orders_active",
    "mrg_orders_history",
    "mrg_orders_archiver",
];

const PORT: u16 = 8080;

/// A Deployment as it was applied: its revision and its template.
pub type Applied = (String, Value);

fn metadata(desired: &Desired, name: &str) -> Value {
    json!({
        "name": name, "namespace": desired.namespace, "ownerReferences": [desired.owner()],
        "labels": {
            "app.kubernetes.io/name": name, "app.kubernetes.io/part-of": desired.name, "app.kubernetes.io/managed-by": "mrg-operator",
            SET_LABEL: desired.name, SERVICE_LABEL: name,
        },
    })
}

fn selector(desired: &Desired, name: &str) -> Value {
    json!({ SET_LABEL: desired.name, SERVICE_LABEL: name })
}

/// The password of a user, put into an address by the kubelet.
fn password(wiring: &Wiring, user: &str) -> Value {
    json!({ "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": wiring.secret, "key": format!("{user}-password") } } })
}

fn at(user: &str, host: &str, port: u16, database: &str) -> String {
    format!("postgres://{user}:$(PASSWORD)@{host}:{port}/{database}")
}

fn millis(duration: Duration) -> String {
    format!("{}ms", duration.0.0)
}

fn pod(
    desired: &Desired,
    split: &ReadSplit,
    settings: &Settings,
    name: &str,
    mut container: Value,
) -> Value {
    let image = split
        .image
        .clone()
        .unwrap_or_else(|| settings.sidecar.name.clone());
    container["image"] = json!(image);
    container["imagePullPolicy"] = json!(settings.sidecar.pull_policy);
    container["securityContext"] = json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true });
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "fsGroup": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
        "containers": [container],
    });
    if let Some(archive) = &split.archive {
        if let Some(secret) = &archive.secret_name {
            spec["containers"][0]["envFrom"] = json!([{ "secretRef": { "name": secret } }]);
        }
        if let Some(claim) = &archive.claim_name {
            let path = archive.url.strip_prefix("file://").unwrap_or("/archive");
            spec["containers"][0]["volumeMounts"] =
                json!([{ "name": "archive", "mountPath": path }]);
            spec["volumes"] =
                json!([{ "name": "archive", "persistentVolumeClaim": { "claimName": claim } }]);
        }
    }
    json!({ "metadata": { "labels": metadata(desired, name)["labels"] }, "spec": spec })
}

fn template(
    desired: &Desired,
    split: &ReadSplit,
    wiring: &Wiring,
    settings: &Settings,
    name: &str,
) -> Value {
    let (role, user) = if name == ACTIVE {
        ("active", USERS[0])
    } else {
        ("history", USERS[1])
    };
    let mut environment = vec![
        password(wiring, user),
        json!({ "name": "ORDERS_ROLE", "value": role }),
        json!({ "name": "ORDERS_PRIMARY_DSN", "value": at(user, &wiring.write.host, wiring.write.port, &wiring.write.database) }),
        json!({ "name": "ORDERS_REPLICA_DSN", "value": at(user, &wiring.read.host, wiring.read.port, &wiring.read.database) }),
        // Poolers do not pass notifications on.
        json!({ "name": "ORDERS_CHANGES_DSN", "value": at(user, &format!("{}-rw", wiring.cluster), 5432, &wiring.database) }),
        json!({ "name": "ORDERS_ACTIVE_TTL", "value": millis(split.active_ttl) }),
        json!({ "name": "ORDERS_HISTORY_TTL", "value": millis(split.history_ttl) }),
        json!({ "name": "ORDERS_MAXIMUM_LAG", "value": millis(split.maximum_lag) }),
    ];
    if let Some(cache) = &desired.spec.cache {
        let secret = json!({ "secretKeyRef": { "name": cache.secret_name, "key": cache.key } });
        environment.push(json!({ "name": "ORDERS_CACHE_URL", "valueFrom": secret }));
    }
    if let Some(archive) = &split.archive {
        environment.push(json!({ "name": "ORDERS_ARCHIVE_URL", "value": archive.url }));
        environment
            .push(json!({ "name": "ORDERS_ARCHIVED_AFTER", "value": millis(archive.after) }));
    }
    let probe = |path: &str, period: u32, timeout: u32, failures: u32| json!({ "httpGet": { "path": path, "port": PORT }, "periodSeconds": period, "timeoutSeconds": timeout, "failureThreshold": failures });
    let container = json!({
        "name": "orders", "command": ["/usr/local/bin/mrg-orders", "serve"], "env": environment,
        "ports": [{ "name": "orders", "containerPort": PORT }],
        "livenessProbe": probe("/health", 10, 2, 3), "readinessProbe": probe("/ready", 5, 2, 2),
        "resources": { "requests": { "cpu": "50m", "memory": "32Mi" }, "limits": { "memory": "256Mi" } },
    });
    let mut pod = pod(desired, split, settings, name, container);
    let spread = json!([{
        "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": selector(desired, name) },
    }]);
    pod["spec"]["topologySpreadConstraints"] = spread;
    pod
}

fn digest(value: &Value) -> String {
    checksum(&value.to_string(), 5)
}

fn neutral(settings: &Settings) -> Settings {
    let mut neutral = settings.clone();
    neutral.sidecar.name.clear();
    neutral
}

/// Everything for the split; without the job that prepares the database if that was made before, or
/// if the owner of the database is not known. What is applied already stays as it is while nothing but the
/// operator's own image is another.
pub fn objects(
    desired: &Desired,
    settings: &Settings,
    prepared: bool,
    applied: impl Fn(&str) -> Option<Applied>,
) -> Vec<Manifest> {
    let (Some(split), Some(wiring)) = (&desired.spec.read_split, &desired.wiring) else {
        return Vec::new();
    };
    let mut all = Vec::new();
    if let (false, Some(owner)) = (prepared, &wiring.owner) {
        all.push(schema(desired, split, wiring, owner, settings));
    }
    for (name, replicas) in [
        (ACTIVE, split.active_replicas),
        (HISTORY, split.history_replicas),
    ] {
        let revision = digest(&template(desired, split, wiring, &neutral(settings), name));
        let template = match applied(name) {
            Some((there, kept)) if there == revision => kept,
            _ => template(desired, split, wiring, settings, name),
        };
        let mut meta = metadata(desired, name);
        meta["annotations"] = json!({ REVISION: revision, TEMPLATE: template.to_string() });
        all.push(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
            "spec": {
                "replicas": replicas, "selector": { "matchLabels": selector(desired, name) }, "revisionHistoryLimit": 3,
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
                "template": template,
            },
        }));
        all.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata(desired, name),
            "spec": { "selector": selector(desired, name), "ports": [{ "name": "http", "port": SERVICE_PORT, "targetPort": "orders" }] },
        }));
    }
    all.extend(archive(desired, split, wiring, settings));
    all.into_iter().map(Manifest).collect()
}

/// Where the job that prepares the database logs in, and with which passwords: as the owner for
/// tables, functions and grants, so that nothing of the database's runs as a superuser; as the
/// superuser in the database `postgres`, for the roles.
fn schema_environment(wiring: &Wiring, owner: &str) -> Vec<Value> {
    let secret = |name: &str, key: &str| json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": wiring.secret, "key": format!("{key}-password") } } });
    let dsn = |user: &str, password: &str, database: &str| {
        format!(
            "postgres://{user}:$({password})@{}-rw:5432/{database}",
            wiring.cluster
        )
    };
    let mut environment = vec![
        secret("OWNER_PASSWORD", owner),
        json!({ "name": "ORDERS_OWNER_DSN", "value": dsn(owner, "OWNER_PASSWORD", &wiring.database) }),
        secret("SUPERUSER_PASSWORD", "superuser"),
        json!({ "name": "ORDERS_ROLES_DSN", "value": dsn("postgres", "SUPERUSER_PASSWORD", "postgres") }),
    ];
    for (user, name) in USERS.iter().zip(["ACTIVE", "HISTORY", "ARCHIVER"]) {
        environment.push(secret(&format!("ORDERS_{name}_PASSWORD"), user));
    }
    environment
}

/// Tables, roles and triggers.
fn schema(
    desired: &Desired,
    split: &ReadSplit,
    wiring: &Wiring,
    owner: &str,
    settings: &Settings,
) -> Value {
    let container = json!({
        "name": "schema", "command": ["/usr/local/bin/mrg-orders", "schema", "--apply"],
        "env": schema_environment(wiring, owner),
    });
    let without_archive = ReadSplit {
        archive: None,
        ..split.clone()
    };
    let mut template = pod(
        desired,
        &without_archive,
        settings,
        "orders-schema",
        container,
    );
    template["spec"]["restartPolicy"] = json!("OnFailure");
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata(desired, &schema_name(wiring, owner)),
        "spec": { "backoffLimit": 20, "template": template },
    })
}

/// The job that prepares the database as `owner`. What it does is in its name, since a job is made
/// once and never changed: another version of the schema, or another login, is another job.
pub fn schema_name(wiring: &Wiring, owner: &str) -> String {
    format!(
        "orders-schema-{}",
        digest(&json!([
            include_str!("../../../crates/order-reads/src/roles.sql"),
            include_str!("../../../crates/order-reads/src/schema.sql"),
            schema_environment(wiring, owner),
        ]))
    )
}

fn archive(
    desired: &Desired,
    split: &ReadSplit,
    wiring: &Wiring,
    settings: &Settings,
) -> Option<Value> {
    let archive = split.archive.as_ref()?;
    let user = USERS[2];
    let container = json!({
        "name": "archive", "command": ["/usr/local/bin/mrg-orders", "archive"],
        "env": [
            password(wiring, user),
            { "name": "ORDERS_ARCHIVER_DSN", "value": at(user, &format!("{}-rw", wiring.cluster), 5432, &wiring.database) },
            { "name": "ORDERS_ARCHIVE_URL", "value": archive.url },
            { "name": "ORDERS_ARCHIVED_AFTER", "value": millis(archive.after) },
        ],
    });
    let mut pod = pod(desired, split, settings, "orders-archive", container);
    pod["spec"]["restartPolicy"] = json!("OnFailure");
    Some(json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": metadata(desired, "orders-archive"),
        "spec": {
            "schedule": archive.schedule, "concurrencyPolicy": "Forbid", "startingDeadlineSeconds": 3600,
            "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 3,
            "jobTemplate": { "spec": { "backoffLimit": 3, "activeDeadlineSeconds": 21600, "template": pod } },
        },
    }))
}

/// What the orchestrator's sidecar is told: these reads, this share.
pub fn routes(weight: i32, trial: &str) -> Vec<Route> {
    let to = |host: &str| Canary {
        url: Url {
            tls: false,
            host: host.to_owned(),
            port: SERVICE_PORT,
            base: String::new(),
        },
        share: u8::try_from(weight.clamp(0, 100)).unwrap_or(0),
        trial: trial.to_owned(),
    };
    let route = |paths: &[&str], host: &str| Route {
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        to: to(host),
    };
    vec![
        route(&["/orders/history", "/orders/{id}/history"], HISTORY),
        route(
            &["/orders/active", "/orders/{id}/active", "/orders/{id}"],
            ACTIVE,
        ),
    ]
}
