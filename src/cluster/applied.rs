//! Settled means silent: an object that is as it was applied is not sent again.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;

use kube::Client;
use serde_json::Value;

use crate::cluster::apply::{Error, Manifest, apply, live, take};

/// What was applied last, so that nothing is sent twice. The server's own answer tells whether somebody changed it since.
#[derive(Default)]
pub struct Applied(Mutex<HashMap<String, (u64, String)>>);

impl Applied {
    fn key(manifest: &Manifest) -> String {
        format!("{} {}", manifest.kind(), manifest.0.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default())
            + "/"
            + &manifest.name()
    }

    fn hash(manifest: &Manifest) -> u64 {
        let mut hasher = DefaultHasher::new();
        manifest.0.to_string().hash(&mut hasher);
        hasher.finish()
    }

    /// Applies the objects, in order. One that fails does not hold up the others; the first failure is told.
    pub async fn apply_all(&self, client: &Client, objects: &[Manifest]) -> Result<(), Error> {
        let mut first = Ok(());
        for manifest in objects {
            let done = self.apply(client, manifest).await;
            first = first.and(done);
        }
        first
    }

    /// Applies objects that are this operator's alone, in order: what others changed of them is taken back. Says who changed what.
    pub async fn enforce_all(&self, client: &Client, objects: &[Manifest]) -> (Result<(), Error>, Vec<String>) {
        let (mut first, mut corrected) = (Ok(()), Vec::new());
        for manifest in objects {
            let done = match self.apply_with(client, manifest, apply).await {
                Err(Error::Conflict { kind, name, message }) => {
                    corrected.push(format!("{kind} {name}: taken back: {message}"));
                    self.apply_with(client, manifest, take).await
                }
                done => done,
            };
            first = first.and(done);
        }
        (first, corrected)
    }

    /// Applies a manifest unless it is the one applied before and nobody changed the object's spec since.
    async fn apply(&self, client: &Client, manifest: &Manifest) -> Result<(), Error> {
        self.apply_with(client, manifest, apply).await
    }

    async fn apply_with(
        &self,
        client: &Client,
        manifest: &Manifest,
        how: impl AsyncFn(&Client, &Manifest) -> Result<kube::api::DynamicObject, Error>,
    ) -> Result<(), Error> {
        let (key, hash) = (Self::key(manifest), Self::hash(manifest));
        let known = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&key).cloned();
        if let Some((old, version)) = known
            && old == hash
            && let Some(live) = live(client, manifest).await?
            && fingerprint(&live) == version
        {
            return Ok(());
        }
        let applied = how(client, manifest).await?;
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(key, (hash, fingerprint(&applied)));
        Ok(())
    }
}

/// What changes when somebody changes the object, and not when a controller reports its status.
fn fingerprint(object: &kube::api::DynamicObject) -> String {
    let mut data = object.data.clone();
    if let Some(map) = data.as_object_mut() {
        map.remove("status");
    }
    format!("{:?} {:?} {data}", object.metadata.uid, object.metadata.labels)
}
