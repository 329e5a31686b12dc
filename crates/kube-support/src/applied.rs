//! Settled means silent: an object that is as it was applied is not sent again, and nobody is asked
//! whether it is, since a watch of each kind tells.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use kube::api::{ApiResource, DynamicObject, ObjectMeta, PartialObjectMeta};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::apply::{Error, FIELD_MANAGER, Manifest, apply, live, take};
use super::cache::PAGE;
use super::mirror::{Held, Mirror, version};
use mrg_base::lock;

/// What every object of this operator is labelled with: only those are watched.
pub const MANAGED: &str = "app.kubernetes.io/managed-by=mrg-operator";

/// What was applied last, and what became of it since.
pub struct Applied {
    client: Client,
    kinds: Mutex<HashMap<ApiResource, Kind>>,
}

/// One kind of object.
struct Kind {
    known: Arc<Mutex<Known>>,
    /// Those whose kind may not be listed are asked for one by one.
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Kind {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[derive(Default)]
struct Known {
    /// How each object is now.
    now: Mirror<u64>,
    /// What was applied, by namespace and name, as long as it is there.
    applied: HashMap<String, HashMap<String, Sent>>,
}

/// An object as it was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    /// Of the manifest.
    manifest: u64,
    /// Of what the server made of it.
    fingerprint: u64,
    /// At which version it was that.
    version: u64,
}

/// Secrets are not watched: the operator may read those that it is told of, and list none.
fn may_be_watched(kind: &ApiResource) -> bool {
    kind.kind != "Secret"
}

impl Applied {
    /// Nothing was applied yet.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            kinds: Mutex::default(),
        }
    }

    /// Applies the objects, in order. One that fails does not hold up the others.
    ///
    /// # Errors
    /// The first failure, after all were tried.
    pub async fn apply_all(&self, objects: &[Manifest]) -> Result<(), Error> {
        let mut first = Ok(());
        for manifest in objects {
            let done = self.apply_with(manifest, apply).await;
            first = first.and(done);
        }
        first
    }

    /// Applies objects that are this operator's alone, in order: what others changed of them is
    /// taken back. Says who changed what.
    pub async fn enforce_all(&self, objects: &[Manifest]) -> (Result<(), Error>, Vec<String>) {
        let (mut first, mut corrected) = (Ok(()), Vec::new());
        for manifest in objects {
            let done = match self.apply_with(manifest, apply).await {
                Err(Error::Conflict {
                    kind,
                    name,
                    message,
                }) => {
                    corrected.push(format!("{kind} {name}: taken back: {message}"));
                    self.apply_with(manifest, take).await
                }
                done => done,
            };
            first = first.and(done);
        }
        (first, corrected)
    }

    /// Whether what was read of a namespace is older than what was written there: then its reader
    /// waits for the news. `read` gives the version at which an object was read; 0 if it was not
    /// found.
    pub fn is_ahead(
        &self,
        resource: &ApiResource,
        namespace: &str,
        read: impl Fn(&str) -> u64,
    ) -> bool {
        let known = self.known(resource);
        let known = lock(&known);
        known
            .applied
            .get(namespace)
            .into_iter()
            .flatten()
            .any(|(name, sent)| read(name) < sent.version)
    }

    async fn apply_with(
        &self,
        manifest: &Manifest,
        how: impl AsyncFn(&Client, &Manifest) -> Result<DynamicObject, Error>,
    ) -> Result<(), Error> {
        let resource = manifest.resource();
        let known = self.known(&resource);
        // What lacks the label is in no watch.
        let watched = may_be_watched(&resource)
            && manifest
                .0
                .pointer("/metadata/labels/app.kubernetes.io~1managed-by")
                == Some(&json!(FIELD_MANAGER));
        let wanted = hash(manifest);
        if !watched && lock(&known).last(manifest, wanted).is_some() {
            let live = live(&self.client, manifest).await?;
            lock(&known).read(manifest, live.as_ref());
        }
        if lock(&known).is_settled(manifest, wanted) {
            return Ok(());
        }
        let applied = how(&self.client, manifest).await?;
        lock(&known).sent(manifest, wanted, &applied);
        Ok(())
    }

    /// What is known of a kind. From the first question on it is watched.
    fn known(&self, resource: &ApiResource) -> Arc<Mutex<Known>> {
        let mut kinds = lock(&self.kinds);
        if let Some(kind) = kinds.get(resource) {
            return kind.known.clone();
        }
        let known = Arc::new(Mutex::new(Known::default()));
        let api: Api<PartialObjectMeta<DynamicObject>> =
            Api::all_with(self.client.clone(), resource);
        let task = may_be_watched(resource)
            .then(|| tokio::spawn(keep(known.clone(), api, resource.kind.clone())));
        kinds.insert(
            resource.clone(),
            Kind {
                known: known.clone(),
                task,
            },
        );
        known
    }
}

async fn keep(known: Arc<Mutex<Known>>, api: Api<PartialObjectMeta<DynamicObject>>, kind: String) {
    let stream = watcher(
        api,
        watcher::Config::default().labels(MANAGED).page_size(PAGE),
    )
    .default_backoff();
    tokio::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => lock(&known).on(event),
            Err(error) => tracing::warn!(%error, kind, "the watch broke; it is tried again"),
        }
    }
}

impl Known {
    fn on(&mut self, event: watcher::Event<PartialObjectMeta<DynamicObject>>) {
        let names = |object: &PartialObjectMeta<DynamicObject>| {
            (object.namespace().unwrap_or_default(), object.name_any())
        };
        match event {
            watcher::Event::Init => self.now.begin(),
            watcher::Event::InitApply(object) => {
                let (namespace, name) = names(&object);
                self.now.listed(&namespace, &name, held(&object.metadata));
            }
            watcher::Event::InitDone => {
                for (namespace, name, _) in self.now.complete() {
                    self.gone(&namespace, &name);
                }
            }
            watcher::Event::Apply(object) => {
                let (namespace, name) = names(&object);
                self.now.put(&namespace, &name, held(&object.metadata));
            }
            watcher::Event::Delete(object) => {
                let (namespace, name) = names(&object);
                self.now
                    .remove(&namespace, &name, held(&object.metadata).version);
                if self.now.get(&namespace, &name).is_none() {
                    self.gone(&namespace, &name);
                }
            }
        }
    }

    fn gone(&mut self, namespace: &str, name: &str) {
        let Some(names) = self.applied.get_mut(namespace) else {
            return;
        };
        names.remove(name);
        if names.is_empty() {
            self.applied.remove(namespace);
        }
    }

    /// An object that is not watched is as it was read just now.
    fn read(&mut self, manifest: &Manifest, live: Option<&DynamicObject>) {
        let (namespace, name) = (manifest.namespace(), manifest.name());
        match live {
            Some(live) => self.now.put(&namespace, &name, held(&live.metadata)),
            None => self.gone(&namespace, &name),
        }
    }

    fn sent(&mut self, manifest: &Manifest, hash: u64, applied: &DynamicObject) {
        let (namespace, name, held) = (
            manifest.namespace(),
            manifest.name(),
            held(&applied.metadata),
        );
        let sent = Sent {
            manifest: hash,
            fingerprint: held.value,
            version: held.version,
        };
        self.now.put(&namespace, &name, held);
        self.applied
            .entry(namespace)
            .or_default()
            .insert(name, sent);
    }

    fn last(&self, manifest: &Manifest, hash: u64) -> Option<&Sent> {
        self.applied
            .get(&manifest.namespace())?
            .get(&manifest.name())
            .filter(|sent| sent.manifest == hash)
    }

    /// Whether this manifest was the last one, and the object is still what the server made of it.
    fn is_settled(&self, manifest: &Manifest, hash: u64) -> bool {
        let now = self
            .now
            .get(&manifest.namespace(), &manifest.name())
            .map(|held| held.value);
        self.last(manifest, hash)
            .is_some_and(|sent| now == Some(sent.fingerprint))
    }
}

fn hash(manifest: &Manifest) -> u64 {
    let mut hasher = DefaultHasher::new();
    manifest.0.to_string().hash(&mut hasher);
    hasher.finish()
}

fn held(metadata: &ObjectMeta) -> Held<u64> {
    Held {
        version: version(metadata.resource_version.as_deref()),
        value: fingerprint(metadata),
    }
}

/// What changes when somebody changes the object, and not when a controller reports its status: the
/// generation, and the version of kinds that have none, since those have no status that changes,
/// either.
fn fingerprint(metadata: &ObjectMeta) -> u64 {
    let mut hasher = DefaultHasher::new();
    metadata.uid.hash(&mut hasher);
    metadata.labels.hash(&mut hasher);
    let ours = metadata
        .annotations
        .iter()
        .flatten()
        .filter(|(name, _)| name.contains("mrg.bluebird.id/"));
    ours.for_each(|annotation| annotation.hash(&mut hasher));
    for owner in metadata.owner_references.iter().flatten() {
        owner.uid.hash(&mut hasher);
    }
    match metadata.generation {
        Some(generation) => generation.hash(&mut hasher),
        None => metadata.resource_version.hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn manifest(data: &str) -> Manifest {
        Manifest(
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "namespace": "n" }, "data": { "x": data } }),
        )
    }

    fn object(version: u64, more: &Value) -> DynamicObject {
        let mut metadata = json!({ "name": "a", "namespace": "n", "uid": "u", "resourceVersion": version.to_string() });
        metadata
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        serde_json::from_value(
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata }),
        )
        .unwrap()
    }

    fn seen(version: u64, more: &Value) -> PartialObjectMeta<DynamicObject> {
        PartialObjectMeta {
            types: None,
            metadata: object(version, more).metadata,
            _phantom: std::marker::PhantomData,
        }
    }

    fn settled(known: &Known, data: &str) -> bool {
        known.is_settled(&manifest(data), hash(&manifest(data)))
    }

    fn after_sending(version: u64, more: &Value) -> Known {
        let mut known = Known::default();
        known.sent(&manifest("1"), hash(&manifest("1")), &object(version, more));
        known
    }

    #[test]
    fn what_is_as_it_was_applied_is_not_sent_again() {
        let mut known = after_sending(5, &json!({}));
        assert!(settled(&known, "1") && !settled(&known, "2"));
        known.on(watcher::Event::Apply(seen(4, &json!({}))));
        assert!(settled(&known, "1"), "that was before it was applied");
        known.on(watcher::Event::Apply(seen(6, &json!({}))));
        assert!(!settled(&known, "1"), "somebody changed it");
    }

    #[test]
    fn a_status_is_no_change_and_a_label_is_one() {
        let mut known = after_sending(5, &json!({ "generation": 1 }));
        known.on(watcher::Event::Apply(seen(6, &json!({ "generation": 1, "annotations": { "deployment.kubernetes.io/revision": "2" } }))));
        assert!(settled(&known, "1"));
        for (version, change) in [
            (7, json!({ "generation": 2 })),
            (8, json!({ "generation": 1, "labels": { "mine": "yes" } })),
            (
                9,
                json!({ "generation": 1, "annotations": { "mrg.bluebird.id/revision": "x" } }),
            ),
            (10, json!({ "generation": 1, "uid": "another" })),
        ] {
            known.on(watcher::Event::Apply(seen(version, &change)));
            assert!(!settled(&known, "1"), "{change}");
        }
    }

    #[test]
    fn what_was_deleted_is_sent_again() {
        let mut known = after_sending(5, &json!({}));
        known.on(watcher::Event::Delete(seen(6, &json!({}))));
        assert!(!settled(&known, "1") && known.applied.is_empty());
        let mut known = after_sending(5, &json!({}));
        known.on(watcher::Event::Init);
        known.on(watcher::Event::InitDone);
        assert!(
            !settled(&known, "1") && known.applied.is_empty(),
            "a list without it"
        );
    }
}
