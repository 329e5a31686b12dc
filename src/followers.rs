//! Follows clusters' etcd, so that a change there is in the status within moments. Nothing depends
//! on that.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::Resource;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;

use mrg_base::lock;
use mrg_dcs::{Keys, Section};
use mrg_dcs_etcd::{Connection, Etcd, WatchEvent, watch};

/// The pause before an etcd that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

struct Follower {
    endpoints: Vec<String>,
    keys: Keys,
    etcd: Arc<Etcd>,
    task: tokio::task::JoinHandle<()>,
}

/// One watch for each object.
pub(crate) struct Followers<K: Resource>
where
    K::DynamicType: Hash + Eq,
{
    followers: Mutex<HashMap<ObjectRef<K>, Follower>>,
    triggers: mpsc::UnboundedSender<ObjectRef<K>>,
}

impl<K> Followers<K>
where
    K: Resource + 'static,
    K::DynamicType: Hash + Eq + Clone + Send + Sync,
{
    /// Nobody is followed yet; the stream says which object has news.
    pub(crate) fn new() -> (
        Self,
        impl futures::Stream<Item = ObjectRef<K>> + Send + 'static,
    ) {
        let (triggers, mut queue) = mpsc::unbounded_channel();
        let stream = futures::stream::poll_fn(move |context| queue.poll_recv(context));
        (
            Self {
                followers: Mutex::new(HashMap::new()),
                triggers,
            },
            stream,
        )
    }

    /// Follows a section of a cluster's keys for an object, and gives the etcd that it is in.
    /// `shape` is what the status shows of it.
    pub(crate) fn follow<S: Section, T: PartialEq + Send + 'static>(
        &self,
        object: ObjectRef<K>,
        endpoints: Vec<String>,
        keys: Keys,
        shape: fn(&S) -> T,
    ) -> Arc<Etcd> {
        let mut followers = lock(&self.followers);
        let same = |follower: &&Follower| follower.endpoints == endpoints && follower.keys == keys;
        if let Some(follower) = followers.get(&object).filter(same) {
            return follower.etcd.clone();
        }
        let etcd = Arc::new(Etcd::new(
            Connection {
                endpoints: endpoints.clone(),
                user: None,
            },
            keys.clone(),
            0,
        ));
        let task = tokio::spawn(trigger(
            etcd.clone(),
            object.clone(),
            self.triggers.clone(),
            shape,
        ));
        // Another follower that was there before ends.
        followers.insert(
            object,
            Follower {
                endpoints,
                keys,
                etcd: etcd.clone(),
                task,
            },
        );
        etcd
    }

    /// The object is gone. Its etcd goes, too, and who still asked it would look up its name for
    /// ever.
    pub(crate) fn forget(&self, namespace: &str, name: &str) {
        let mut followers = lock(&self.followers);
        followers.retain(|object, _| {
            object.name != name || object.namespace.as_deref() != Some(namespace)
        });
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tells the controller when something changed that the status shows.
async fn trigger<K, S: Section, T: PartialEq>(
    etcd: Arc<Etcd>,
    object: ObjectRef<K>,
    triggers: mpsc::UnboundedSender<ObjectRef<K>>,
    shape: fn(&S) -> T,
) where
    K: Resource,
    K::DynamicType: Clone,
{
    let (_commands, queue) = mpsc::channel(1);
    // The watch waits until its news are taken.
    let (seen, events) = mpsc::channel(1);
    // In one task, so that they end together.
    tokio::join!(
        watch(etcd, queue, seen),
        listen(events, object, triggers, shape)
    );
}

async fn listen<K, S: Section, T: PartialEq>(
    mut events: mpsc::Receiver<WatchEvent<S>>,
    object: ObjectRef<K>,
    triggers: mpsc::UnboundedSender<ObjectRef<K>>,
    shape: fn(&S) -> T,
) where
    K: Resource,
    K::DynamicType: Clone,
{
    let mut last = None;
    let mut lost = false;
    while let Some(event) = events.recv().await {
        let news = match event {
            WatchEvent::Seen { snapshot, .. } => {
                let now = shape(&snapshot);
                let changed = last.as_ref() != Some(&now) || lost;
                last = Some(now);
                lost = false;
                changed
            }
            WatchEvent::Reset => false,
            WatchEvent::Lost(_) => !std::mem::replace(&mut lost, true),
        };
        if news && triggers.send(object.clone()).is_err() {
            return;
        }
        if lost {
            // Nothing depends on this; an etcd that is not there yet, or no longer, is asked now
            // and then.
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_api::PgBouncerPool;
    use mrg_base::Scope;
    use mrg_dcs::{ClusterSnapshot, NAMESPACE};

    #[tokio::test]
    async fn who_is_forgotten_asks_nobody_any_more() {
        let (followers, _news) = Followers::<PgBouncerPool>::new();
        let object = ObjectRef::new("w").within("mrg");
        let etcd = followers.follow(
            object,
            vec!["http://127.0.0.1:9".to_owned()],
            Keys::new(NAMESPACE, &Scope::new("w").unwrap()),
            |_: &ClusterSnapshot| (),
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(Arc::strong_count(&etcd) > 2, "the watch has it, too");
        followers.forget("other", "w");
        assert!(Arc::strong_count(&etcd) > 2);
        followers.forget("mrg", "w");
        let gone = async {
            while Arc::strong_count(&etcd) > 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(5), gone)
                .await
                .is_ok(),
            "somebody still asks"
        );
    }
}
