//! A kind of object as its watch tells it: read without asking the API server, and a stream of what
//! changed.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use futures::{Stream, StreamExt};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{self, mpsc};

use super::mirror::version;
use mrg_base::lock;

/// So many objects are read at a time when a watch begins: a page is in memory whole, before
/// anything is taken away.
pub(super) const PAGE: u32 = 50;

/// Every object of a kind. The watch ends when this is dropped.
pub struct Cache<K>
where
    K: Resource<DynamicType = ()> + 'static,
{
    store: Store<K>,
    told: Arc<Told<K>>,
    task: tokio::task::JoinHandle<()>,
}

/// What goes along with the store: who hears of changes, which names there are in a namespace, and
/// whether all of them were read.
struct Told<K> {
    whole: sync::watch::Sender<bool>,
    names: Mutex<HashMap<String, BTreeSet<String>>>,
    listeners: Mutex<Vec<mpsc::UnboundedSender<Arc<K>>>>,
}

impl<K> Drop for Cache<K>
where
    K: Resource<DynamicType = ()> + 'static,
{
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> Cache<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Watches; `prune` takes away what nobody reads, since every object stays in memory.
    pub fn new(api: Api<K>, config: watcher::Config, prune: fn(&mut K)) -> Self {
        let (store, writer) = reflector::store();
        let told = Arc::new(Told::default());
        let events = watch(api, config.page_size(PAGE)).default_backoff();
        let task = tokio::spawn(keep(events, writer, told.clone(), prune));
        Self { store, told, task }
    }

    /// The objects, for a controller of this kind.
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// Whether everything was read once, to be waited for. (The store's own `wait_until_ready`
    /// wakes one of those who wait.)
    pub fn whole(&self) -> sync::watch::Receiver<bool> {
        self.told.whole.subscribe()
    }

    /// The object as the watch last had it; `None` if it does not exist, as far as the watch knows.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new(name).within(namespace))
    }

    /// At which version an object was read; 0 if it is not there.
    pub fn version(&self, namespace: &str, name: &str) -> u64 {
        self.get(namespace, name).map_or(0, |object| {
            version(object.meta().resource_version.as_deref())
        })
    }

    /// Those of a namespace that are meant, by name.
    pub fn within(&self, namespace: &str, meant: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let names = lock(&self.told.names);
        let all = names
            .get(namespace)
            .into_iter()
            .flatten()
            .filter_map(|name| self.get(namespace, name));
        all.filter(|object| meant(object)).collect()
    }

    /// Every object that is there now, and each that comes, changes or goes from now on.
    pub fn changes(&self) -> impl Stream<Item = Arc<K>> + Send + 'static {
        let (sender, mut queue) = mpsc::unbounded_channel();
        lock(&self.told.listeners).push(sender);
        futures::stream::iter(self.store.state()).chain(futures::stream::poll_fn(move |context| {
            queue.poll_recv(context)
        }))
    }
}

async fn keep<K>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>>,
    mut writer: reflector::store::Writer<K>,
    told: Arc<Told<K>>,
    prune: fn(&mut K),
) where
    K: Resource<DynamicType = ()> + Clone,
{
    let store = writer.as_reader();
    let mut before = Vec::new();
    tokio::pin!(events);
    while let Some(event) = events.next().await {
        let mut event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::warn!(%error, kind = %K::kind(&()), "the watch broke; it is tried again");
                continue;
            }
        };
        if let Event::Apply(object) | Event::Delete(object) | Event::InitApply(object) = &mut event
        {
            prune(object);
        }
        writer.apply_watcher_event(&event);
        match event {
            Event::Init => before = store.state(),
            Event::InitApply(_) => {}
            Event::InitDone => told.read_anew(&store, std::mem::take(&mut before)),
            Event::Apply(object) => told.there(Arc::new(object)),
            Event::Delete(object) => told.gone(Arc::new(object)),
        }
    }
}

fn name<K: Resource>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

impl<K> Default for Told<K> {
    fn default() -> Self {
        Self {
            whole: sync::watch::Sender::new(false),
            names: Mutex::default(),
            listeners: Mutex::default(),
        }
    }
}

impl<K: Resource<DynamicType = ()> + Clone> Told<K> {
    fn there(&self, object: Arc<K>) {
        let (namespace, name) = name(object.as_ref());
        lock(&self.names).entry(namespace).or_default().insert(name);
        self.tell([object]);
    }

    fn gone(&self, object: Arc<K>) {
        let (namespace, name) = name(object.as_ref());
        let mut all = lock(&self.names);
        if let Some(names) = all.get_mut(&namespace) {
            names.remove(&name);
            if names.is_empty() {
                all.remove(&namespace);
            }
        }
        drop(all);
        self.tell([object]);
    }

    /// After a list: everything is news, and what went while nobody watched.
    fn read_anew(&self, store: &Store<K>, before: Vec<Arc<K>>) {
        let now = store.state();
        let mut names: HashMap<String, BTreeSet<String>> = HashMap::new();
        for (namespace, name) in now.iter().map(|object| name(object.as_ref())) {
            names.entry(namespace).or_default().insert(name);
        }
        let gone = |object: &Arc<K>| {
            let (namespace, name) = name(object.as_ref());
            names
                .get(&namespace)
                .is_none_or(|names| !names.contains(&name))
        };
        let gone: Vec<Arc<K>> = before.into_iter().filter(gone).collect();
        *lock(&self.names) = names;
        self.whole.send_replace(true);
        self.tell(gone.into_iter().chain(now));
    }

    fn tell(&self, news: impl IntoIterator<Item = Arc<K>>) {
        let mut listeners = lock(&self.listeners);
        for object in news {
            listeners.retain(|listener| listener.send(object.clone()).is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, version: &str) -> ConfigMap {
        let metadata = serde_json::json!({ "name": name, "namespace": "n", "resourceVersion": version, "labels": { "big": "x" } });
        serde_json::from_value(serde_json::json!({ "metadata": metadata })).unwrap()
    }

    /// What a cache holds and tells after these events.
    async fn after(events: Vec<Event<ConfigMap>>) -> (Vec<(String, u64)>, Vec<String>) {
        let (store, writer) = reflector::store();
        let told = Arc::new(Told::default());
        let cache = Cache {
            store,
            told: told.clone(),
            task: tokio::spawn(async {}),
        };
        let changes = cache.changes();
        keep(
            futures::stream::iter(events.into_iter().map(Ok)),
            writer,
            told.clone(),
            |object| object.metadata.labels = None,
        )
        .await;
        let within = cache.within("n", |object| object.metadata.labels.is_none());
        let held = within
            .iter()
            .map(|object| (object.name_any(), cache.version("n", &object.name_any())))
            .collect();
        lock(&told.listeners).clear();
        (
            held,
            changes.map(|object| object.name_any()).collect().await,
        )
    }

    #[tokio::test]
    async fn objects_come_change_and_go() {
        let events = vec![
            Event::Init,
            Event::InitApply(object("a", "1")),
            Event::InitApply(object("b", "2")),
            Event::InitDone,
            Event::Apply(object("a", "3")),
            Event::Delete(object("b", "4")),
            Event::Apply(object("c", "5")),
        ];
        let (held, mut told) = after(events).await;
        assert_eq!(held, [("a".to_owned(), 3), ("c".to_owned(), 5)]);
        told[..2].sort();
        assert_eq!(told, ["a", "b", "a", "b", "c"]);
    }

    #[tokio::test]
    async fn all_who_wait_for_the_first_list_hear_of_it() {
        let (store, writer) = reflector::store();
        let told = Arc::new(Told::default());
        let cache = Arc::new(Cache {
            store,
            told: told.clone(),
            task: tokio::spawn(async {}),
        });
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let cache = cache.clone();
                    async move {
                        cache
                            .whole()
                            .wait_for(|whole| *whole)
                            .await
                            .map(|_| ())
                            .unwrap();
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        let events = [
            Event::Init,
            Event::InitApply(object("a", "1")),
            Event::InitDone,
        ];
        keep(
            futures::stream::iter(events.into_iter().map(Ok)),
            writer,
            told,
            |_| (),
        )
        .await;
        for waiter in waiters {
            tokio::time::timeout(std::time::Duration::from_secs(5), waiter)
                .await
                .unwrap()
                .unwrap();
        }
    }

    #[tokio::test]
    async fn what_went_while_nobody_watched_is_told_with_the_next_list() {
        let events = vec![
            Event::Init,
            Event::InitApply(object("a", "1")),
            Event::InitApply(object("b", "2")),
            Event::InitDone,
            Event::Init,
            Event::InitApply(object("b", "7")),
            Event::InitDone,
        ];
        let (held, told) = after(events).await;
        assert_eq!(held, [("b".to_owned(), 7)]);
        assert_eq!(told[2..], ["a", "b"]);
    }
}
