//! The objects of a cluster, from its `Desired`: the validated spec and the operator's settings.
//! Pure: no client, no clock, nothing that can fail.

mod config;
mod etcd;
mod postgres;

use serde_json::{Map, Value, json};

use crate::kinds::postgres_cluster::validate::Desired;
use mrg_api::postgres_cluster::Etcd;
use mrg_kube_support::Manifest;

pub(super) use config::{dynamic_config, executable_version};
pub(super) use etcd::GENERATION_LABEL;

/// The container port of PostgreSQL.
pub(super) const POSTGRES_PORT: u16 = 5432;
/// The container port of the agent's REST API.
pub(super) const REST_PORT: u16 = 8008;
/// The label that says which member leads.
pub(super) const ROLE_LABEL: &str = "mrg.bluebird.id/role";

/// All objects, in the order in which they are applied: what is mounted comes before what mounts
/// it.
pub(super) fn build(desired: &Desired) -> Vec<Manifest> {
    let mut objects = Vec::new();
    if desired.spec.etcd.managed.is_some() {
        objects.extend(etcd::objects(desired));
    }
    objects.extend(postgres::objects(desired));
    objects.into_iter().map(Manifest).collect()
}

/// Where a cluster's etcd is.
pub(super) fn etcd_endpoints(etcd: &Etcd, name: &str, namespace: &str) -> Vec<String> {
    match (&etcd.managed, &etcd.external) {
        (_, Some(external)) => external
            .endpoints
            .iter()
            .map(|endpoint| endpoint.0.clone())
            .collect(),
        (Some(managed), None) => (0..managed.replicas)
            .map(|i| format!("http://{name}-etcd-{i}.{name}-etcd.{namespace}.svc:2379"))
            .collect(),
        (None, None) => vec![],
    }
}

impl Desired {
    /// Labels of everything of this cluster.
    pub fn labels(&self, component: &str) -> Map<String, Value> {
        let labels = json!({
            "app.kubernetes.io/name": component,
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/managed-by": "mrg-operator",
            "mrg.bluebird.id/cluster": self.name,
        });
        labels.as_object().cloned().unwrap_or_default()
    }

    /// Labels that select the pods of a component.
    fn selector(&self, component: &str) -> Value {
        json!({ "app.kubernetes.io/name": component, "mrg.bluebird.id/cluster": self.name })
    }

    /// Metadata of an object that goes with the cluster.
    fn metadata(&self, name: &str, component: &str) -> Value {
        json!({
            "name": name,
            "namespace": self.namespace,
            "labels": self.labels(component),
            "ownerReferences": [{
                "apiVersion": "mrg.bluebird.id/v1alpha1", "kind": "PostgresCluster", "name": self.name, "uid": self.uid,
                "controller": true, "blockOwnerDeletion": true,
            }],
        })
    }

    /// Where etcd is.
    pub fn etcd_endpoints(&self) -> Vec<String> {
        etcd_endpoints(&self.spec.etcd, &self.name, &self.namespace)
    }

    /// What every pod of this operator's looks like from outside: the `restricted` Pod Security
    /// Standard, placement, priority.
    fn pod(&self, component: &str) -> Map<String, Value> {
        let scheduling = &self.spec.scheduling;
        let required = scheduling.spread == mrg_api::postgres_cluster::Spread::Required;
        let unsatisfiable = if required {
            "DoNotSchedule"
        } else {
            "ScheduleAnyway"
        };
        let mut pod = json!({
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "shareProcessNamespace": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": self.spec.run_as_user, "runAsGroup": self.spec.run_as_user,
                "fsGroup": self.spec.run_as_user, "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "topologySpreadConstraints": [{
                "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": unsatisfiable,
                "labelSelector": { "matchLabels": self.selector(component) },
            }],
        });
        if !scheduling.node_selector.is_empty() {
            pod["nodeSelector"] = json!(scheduling.node_selector);
        }
        // A lost node is found out by the election, not by eviction; a pod that comes back finds
        // its volume.
        pod["tolerations"] = json!(scheduling.tolerations);
        if let Some(class) = scheduling
            .priority_class_name
            .as_ref()
            .or(self.priority_class.as_ref())
        {
            pod["priorityClassName"] = json!(class);
        }
        pod.as_object().cloned().unwrap_or_default()
    }

    /// The init container that brings the agent into the pod.
    fn install_container(&self) -> Value {
        json!({
            "name": "install-agent",
            "image": self.agent_image,
            "imagePullPolicy": self.agent_pull_policy,
            "command": ["/usr/local/bin/mrg-agent", "install", "/mrg/mrg-agent"],
            "securityContext": container_security(),
            "volumeMounts": [{ "name": "mrg", "mountPath": "/mrg" }],
        })
    }

    /// The claim of a volume.
    fn claim(
        &self,
        name: &str,
        component: &str,
        storage: &mrg_api::postgres_cluster::Storage,
    ) -> Value {
        let mut spec = json!({
            "accessModes": ["ReadWriteOnce"],
            "resources": { "requests": { "storage": storage.size } },
        });
        if let Some(class) = &storage.storage_class_name {
            spec["storageClassName"] = json!(class);
        }
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": { "name": name, "labels": self.selector(component) }, "spec": spec,
        })
    }

    /// What becomes of the volumes.
    fn claim_retention(&self) -> Value {
        let deleted =
            if self.spec.deletion_policy == mrg_api::postgres_cluster::DeletionPolicy::Delete {
                "Delete"
            } else {
                "Retain"
            };
        json!({ "whenDeleted": deleted, "whenScaled": "Retain" })
    }
}

/// The `restricted` Pod Security Standard, for a container.
fn container_security() -> Value {
    json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "readOnlyRootFilesystem": true })
}

#[cfg(test)]
pub(super) mod tests;
