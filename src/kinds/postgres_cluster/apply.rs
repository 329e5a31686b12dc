//! What a cluster needs besides the objects that `build` makes: passwords, volumes that grow, the
//! members' role labels, and the dynamic configuration in etcd. What is as wanted already is not
//! written.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::conditions::is_deleted;
use kube::runtime::wait::await_condition;
use kube::{Client, ResourceExt};
use serde_json::json;

use crate::kinds::postgres_cluster::build::{ROLE_LABEL, dynamic_config, executable_version};
use crate::kinds::postgres_cluster::observe::Observed;
use crate::kinds::postgres_cluster::validate::{Desired, ROTATE_ANNOTATION};
use crate::password;
use crate::quantity::bytes;
use mrg_dcs::Store;
use mrg_kube_support::delete_if_unchanged;

/// The garbage collector takes a second or two to free the pods.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// The version of the mounted settings that a pod's kubelet was told of.
const SETTINGS_ANNOTATION: &str = "mrg.bluebird.id/executable-settings";

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object could not be applied.
    #[error(transparent)]
    Object(#[from] mrg_kube_support::Error),
    /// Another request failed.
    #[error("failed to {operation}")]
    Request {
        /// What.
        operation: &'static str,
        /// Why.
        source: Box<kube::Error>,
    },
}

fn failed(operation: &'static str) -> impl FnOnce(kube::Error) -> Error {
    move |source| Error::Request {
        operation,
        source: Box::new(source),
    }
}

/// Creates the Secret with the passwords, or adds those that are missing. One that is there is
/// replaced only where its rotation was requested.
pub(super) async fn keep_secret(client: &Client, desired: &Desired) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &desired.namespace);
    let mut wanted = vec![
        "superuser-password".to_owned(),
        "replication-password".to_owned(),
        "rest-password".to_owned(),
    ];
    wanted.extend(
        desired
            .owners()
            .into_iter()
            .map(|owner| format!("{owner}-password")),
    );
    let password = || ByteString(password::generate().into_bytes());
    let existing = api
        .get_opt(&desired.secret_name())
        .await
        .map_err(failed("read the credentials"))?;
    let Some(existing) = existing else {
        let mut secret = Secret {
            data: Some(wanted.into_iter().map(|key| (key, password())).collect()),
            ..Secret::default()
        };
        secret.metadata.name = Some(desired.secret_name());
        // Not owned: the passwords outlive the object, as the volumes do, or the data could not be
        // opened again.
        let labels = desired.labels("credentials");
        secret.metadata.labels = Some(
            labels
                .into_iter()
                .map(|(key, value)| (key, value.as_str().unwrap_or_default().to_owned()))
                .collect(),
        );
        return api
            .create(&PostParams::default(), &secret)
            .await
            .map(|_| ())
            .map_err(failed("create the credentials"));
    };
    let rotated = existing
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(ROTATE_ANNOTATION));
    let rotates = desired.rotation.is_some() && rotated != desired.rotation.as_ref();
    let rotating: BTreeSet<String> = desired
        .owners()
        .into_iter()
        .filter(|_| rotates)
        .map(|owner| format!("{owner}-password"))
        .collect();
    let have = existing.data.unwrap_or_default();
    let fresh: BTreeMap<String, ByteString> = wanted
        .into_iter()
        .filter(|key| rotating.contains(key) || !have.contains_key(key))
        .map(|key| (key, password()))
        .collect();
    if fresh.is_empty() && !rotates {
        return Ok(());
    }
    let mut patch = json!({ "data": fresh });
    if rotates {
        tracing::info!(cluster = desired.name, keys = ?rotating, "the owners of the databases get new passwords");
        patch["metadata"] = json!({ "annotations": { ROTATE_ANNOTATION: desired.rotation } });
    }
    let patch = Patch::Merge(patch);
    api.patch(&desired.secret_name(), &PatchParams::default(), &patch)
        .await
        .map(|_| ())
        .map_err(failed("add credentials"))
}

/// Labels the pods by role, for the `-rw` and `-ro` Services. The poolers and the election do not
/// depend on it.
pub(super) async fn label_pods(
    client: &Client,
    desired: &Desired,
    observed: &Observed,
) -> Result<(), Error> {
    let Some(dcs) = &observed.dcs else {
        return Ok(());
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), &desired.namespace);
    let leader = dcs
        .cluster
        .leader
        .as_ref()
        .map(|key| key.member.to_string());
    // The old leader loses the label before the new one gets it.
    let mut changes: Vec<(&String, Option<&str>)> = Vec::new();
    for (name, pod) in &observed.pods {
        let member = dcs
            .members
            .iter()
            .find(|(member, _)| member.as_str() == name)
            .map(|(_, data)| data);
        let role = match member {
            Some(data) if leader.as_ref() == Some(name) && data.is_primary() => Some("primary"),
            Some(data) if leader.as_ref() != Some(name) && data.is_running() => Some("replica"),
            _ => None,
        };
        if pod.labels().get(ROLE_LABEL).map(String::as_str) != role {
            changes.push((name, role));
        }
    }
    changes.sort_by_key(|(_, role)| *role == Some("primary"));
    for (name, role) in changes {
        let patch = Patch::Merge(json!({ "metadata": { "labels": { ROLE_LABEL: role } } }));
        match api.patch(name, &PatchParams::default(), &patch).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(failed("label a pod")(error)),
        }
    }
    Ok(())
}

/// Notes on each pod which version of the mounted settings there is: a kubelet that sees a pod change
/// brings its volumes up to date at once, and not only at the next of its rounds.
pub(super) async fn announce_settings(
    client: &Client,
    desired: &Desired,
    observed: &Observed,
) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &desired.namespace);
    let version = executable_version(desired);
    for (name, pod) in &observed.pods {
        if pod.annotations().get(SETTINGS_ANNOTATION) == Some(&version) {
            continue;
        }
        let note = json!({ "metadata": { "annotations": { SETTINGS_ANNOTATION: version } } });
        match api
            .patch(name, &PatchParams::default(), &Patch::Merge(note))
            .await
        {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(failed("annotate a pod")(error)),
        }
    }
    Ok(())
}

/// A StatefulSet's claim template cannot change: where the volumes grow, the set is deleted without
/// its pods and recreated around them.
pub(super) async fn make_way_for_growth(
    client: &Client,
    desired: &Desired,
    old: Option<&StatefulSet>,
) -> Result<(), Error> {
    let Some(old) = old else { return Ok(()) };
    let templates = old
        .spec
        .as_ref()
        .and_then(|spec| spec.volume_claim_templates.as_ref());
    let claim = templates.into_iter().flatten().find_map(|template| {
        template
            .spec
            .as_ref()?
            .resources
            .as_ref()?
            .requests
            .as_ref()?
            .get("storage")
    });
    let wanted = bytes(&desired.spec.storage.size);
    if claim.is_none_or(|claim| bytes(&claim.0) >= wanted) {
        return Ok(());
    }
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), &desired.namespace);
    delete_if_unchanged(&api, &desired.name, old.uid(), DeleteParams::orphan())
        .await
        .map_err(failed("make way for larger volumes"))?;
    tracing::info!(
        cluster = desired.name,
        size = desired.spec.storage.size,
        "the volumes grow; the StatefulSet is recreated around its pods"
    );
    // With `orphan` the garbage collector frees the pods before the object goes.
    let uid = old.uid().unwrap_or_default();
    let gone = await_condition(api, &desired.name, is_deleted(&uid));
    // One that is still there is found, and waited for, by the next reconciliation.
    if let Ok(Err(error)) = tokio::time::timeout(GONE_WITHIN, gone).await {
        tracing::debug!(%error, "the StatefulSet could not be watched");
    }
    Ok(())
}

/// Grows volumes whose claim is smaller than the spec says.
pub(super) async fn grow_volumes(client: &Client, desired: &Desired) -> Result<(), Error> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), &desired.namespace);
    let selector = format!(
        "app.kubernetes.io/name=postgres,mrg.bluebird.id/cluster={}",
        desired.name
    );
    let claims = api
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(failed("list volumes"))?;
    let wanted = bytes(&desired.spec.storage.size);
    for claim in claims {
        let requested = claim
            .spec
            .as_ref()
            .and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
        let requested = requested.and_then(|quantity| bytes(&quantity.0));
        if requested < wanted {
            let patch = Patch::Merge(
                json!({ "spec": { "resources": { "requests": { "storage": desired.spec.storage.size } } } }),
            );
            api.patch(&claim.name_any(), &PatchParams::default(), &patch)
                .await
                .map_err(failed("grow a volume"))?;
        }
    }
    Ok(())
}

/// Keeps the dynamic configuration in etcd as the spec says. Keys that the spec does not speak of
/// are left alone.
pub(super) async fn write_config(
    store: &impl Store,
    desired: &Desired,
    observed: &Observed,
) -> Result<(), mrg_dcs::Error> {
    let config = observed.dcs.as_ref().and_then(|dcs| dcs.config.as_ref());
    let Some((revision, Some(current))) = config else {
        return Ok(());
    };
    let mut wanted = current.clone();
    wanted.0.extend(dynamic_config(desired));
    if wanted == *current {
        return Ok(());
    }
    let written = store.write_config(Some(*revision), wanted, Duration::from_secs(3));
    // After a conflict the next reconciliation compares with what is there then.
    written.await.into_result().map(|_| ())
}
