//! Server-side apply: one field manager, only the fields that we mean. A conflict is an error that
//! names the other manager, never a fight.

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

/// The name under which this operator owns fields.
pub const FIELD_MANAGER: &str = "mrg-operator";

/// An object as it is sent: built from nothing, never from one that was fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest(pub Value);

/// What went wrong with a request to the API server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request failed.
    #[error("failed to {operation} {kind} {name}")]
    Request {
        /// What was tried.
        operation: &'static str,
        /// On what kind.
        kind: String,
        /// On which object.
        name: String,
        /// The client's error, or the server's answer.
        source: Box<kube::Error>,
    },
    /// Somebody else owns a field that we mean.
    #[error("{kind} {name}: {message}")]
    Conflict {
        /// The kind.
        kind: String,
        /// The object.
        name: String,
        /// The API server's words, with the other manager's name.
        message: String,
    },
    /// The answer is not what it should be.
    #[error("the {kind} {name} cannot be read")]
    Decode {
        /// The kind.
        kind: String,
        /// The object.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl Manifest {
    fn text(&self, path: &str) -> String {
        self.0
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    /// `kind` of the object; empty if the manifest has none.
    pub fn kind(&self) -> String {
        self.text("/kind")
    }

    /// `metadata.name` of the object; empty if the manifest has none.
    pub fn name(&self) -> String {
        self.text("/metadata/name")
    }

    /// Its namespace; empty if it is of none.
    pub fn namespace(&self) -> String {
        self.text("/metadata/namespace")
    }

    /// How the API server knows its kind.
    pub fn resource(&self) -> ApiResource {
        let version = self.text("/apiVersion");
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &self.kind()))
    }

    fn api(&self, client: &Client) -> Api<DynamicObject> {
        let resource = self.resource();
        match self
            .0
            .pointer("/metadata/namespace")
            .and_then(Value::as_str)
        {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        }
    }

    fn failed(&self, operation: &'static str, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) if status.code == 409 && status.reason == "Conflict" => {
                Error::Conflict {
                    kind: self.kind(),
                    name: self.name(),
                    message: status.message.clone(),
                }
            }
            error => Error::Request {
                operation,
                kind: self.kind(),
                name: self.name(),
                source: Box::new(error),
            },
        }
    }
}

/// Applies a manifest; returns the object as the server stored it.
///
/// # Errors
/// [`Error::Conflict`] if another field manager owns a field with another value,
/// [`Error::Request`] for everything else.
pub async fn apply(client: &Client, manifest: &Manifest) -> Result<DynamicObject, Error> {
    send(
        client,
        manifest,
        PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        },
    )
    .await
}

/// Applies a manifest of an object that is this operator's alone: fields that other managers own
/// are overwritten.
pub(crate) async fn take(client: &Client, manifest: &Manifest) -> Result<DynamicObject, Error> {
    take_as(client, manifest, FIELD_MANAGER).await
}

/// Applies by force under another field manager, so that fields owned by one are released without
/// the other's.
///
/// # Errors
/// If the API server cannot be reached or refuses.
pub async fn take_as(
    client: &Client,
    manifest: &Manifest,
    manager: &str,
) -> Result<DynamicObject, Error> {
    send(client, manifest, PatchParams::apply(manager).force()).await
}

async fn send(
    client: &Client,
    manifest: &Manifest,
    parameters: PatchParams,
) -> Result<DynamicObject, Error> {
    let api = manifest.api(client);
    let applied = api
        .patch(&manifest.name(), &parameters, &Patch::Apply(&manifest.0))
        .await;
    applied.map_err(|error| manifest.failed("apply", error))
}

/// The object as it is now; `None` if it does not exist.
///
/// # Errors
/// If the API server cannot be reached or refuses.
pub async fn live(client: &Client, manifest: &Manifest) -> Result<Option<DynamicObject>, Error> {
    manifest
        .api(client)
        .get_opt(&manifest.name())
        .await
        .map_err(|error| manifest.failed("get", error))
}

/// Deletes an object if it still has this uid, so that one of the same name that was created since
/// stays. That it is gone or another one already counts as done.
///
/// # Errors
/// If the API server cannot be reached or refuses.
pub async fn delete_if_unchanged<K>(
    api: &Api<K>,
    name: &str,
    uid: Option<String>,
    parameters: DeleteParams,
) -> Result<(), kube::Error>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let preconditions = Some(Preconditions {
        uid,
        resource_version: None,
    });
    let parameters = DeleteParams {
        preconditions,
        ..parameters
    };
    match api.delete(name, &parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
