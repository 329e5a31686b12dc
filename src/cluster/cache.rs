//! A kind of object as its watch tells it: read without asking the API server, and a stream of what changed.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

use super::mirror::{Held, Mirror, version};

struct Shared<K> {
    mirror: Mutex<Mirror<Arc<K>>>,
    listeners: Mutex<Vec<mpsc::UnboundedSender<Arc<K>>>>,
    /// Whether the first list is complete.
    whole: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All objects of a kind. The watch ends when this is dropped.
pub struct Cache<K> {
    shared: Arc<Shared<K>>,
    task: tokio::task::JoinHandle<()>,
}

impl<K> Drop for Cache<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> Cache<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Watches; `prune` takes away what nobody reads, since every object stays in memory.
    pub fn new(api: Api<K>, config: watcher::Config, prune: fn(&mut K)) -> Self {
        let shared = Arc::new(Shared { mirror: Mutex::default(), listeners: Mutex::default(), whole: watch::Sender::new(false) });
        let task = tokio::spawn(keep(shared.clone(), api, config, prune));
        Self { shared, task }
    }

    /// Waits until everything was read once.
    pub async fn whole(&self) {
        let _ = self.shared.whole.subscribe().wait_for(|whole| *whole).await;
    }

    /// An object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        lock(&self.shared.mirror).get(namespace, name).map(|held| held.value.clone())
    }

    /// At which version an object was read; 0 if it is not there.
    pub fn version(&self, namespace: &str, name: &str) -> u64 {
        lock(&self.shared.mirror).get(namespace, name).map_or(0, |held| held.version)
    }

    /// Those of a namespace that are meant, by name.
    pub fn within(&self, namespace: &str, meant: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        lock(&self.shared.mirror).within(namespace).map(|(_, held)| &held.value).filter(|object| meant(object)).cloned().collect()
    }

    /// Every object that comes, changes or goes from now on.
    pub fn changes(&self) -> impl Stream<Item = Arc<K>> + Send + 'static {
        let (sender, mut queue) = mpsc::unbounded_channel();
        lock(&self.shared.listeners).push(sender);
        futures::stream::poll_fn(move |context| queue.poll_recv(context))
    }
}

async fn keep<K>(shared: Arc<Shared<K>>, api: Api<K>, config: watcher::Config, prune: fn(&mut K))
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let stream = watcher(api, config).default_backoff();
    tokio::pin!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(event) => shared.on(event, prune),
            Err(error) => tracing::warn!(%error, kind = std::any::type_name::<K>(), "the watch broke; it is tried again"),
        }
    }
}

impl<K: Resource> Shared<K> {
    fn on(&self, event: watcher::Event<K>, prune: fn(&mut K)) {
        let hold = |mut object: K| {
            let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
            let version = version(object.meta().resource_version.as_deref());
            prune(&mut object);
            (namespace, name, Held { version, value: Arc::new(object) })
        };
        let news = match event {
            watcher::Event::Init => {
                lock(&self.mirror).begin();
                Vec::new()
            }
            watcher::Event::InitApply(object) => {
                let (namespace, name, held) = hold(object);
                lock(&self.mirror).listed(&namespace, &name, held);
                Vec::new()
            }
            watcher::Event::InitDone => {
                let mut mirror = lock(&self.mirror);
                let gone = mirror.complete().into_iter().map(|(_, _, object)| object);
                let news = gone.chain(mirror.all().map(|held| held.value.clone())).collect();
                self.whole.send_replace(true);
                news
            }
            watcher::Event::Apply(object) => {
                let (namespace, name, held) = hold(object);
                lock(&self.mirror).put(&namespace, &name, held.clone());
                vec![held.value]
            }
            watcher::Event::Delete(object) => {
                let (namespace, name, held) = hold(object);
                lock(&self.mirror).remove(&namespace, &name, held.version);
                vec![held.value]
            }
        };
        let mut listeners = lock(&self.listeners);
        for object in news {
            listeners.retain(|listener| listener.send(object.clone()).is_ok());
        }
    }
}
