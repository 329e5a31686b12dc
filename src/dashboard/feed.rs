//! What the page shows, as it changes. Nothing is watched while nobody looks.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::view::{self, View};
use mrg_api::{OrderServiceSet, PgBouncerPool, PostgresCluster, ServiceResilience};
use mrg_base::lock;

/// Changes within this time are shown at once: a failover writes several objects.
const TOGETHER: Duration = Duration::from_millis(100);

/// The page's content as JSON; `None` until everything was read once.
pub(super) type Content = Option<Arc<str>>;

/// Watches for as long as somebody looks.
pub(super) struct Feed {
    client: Client,
    watching: Mutex<Weak<Watching>>,
}

/// Somebody looks. The watches end when the last of these is dropped.
pub(super) struct Watching {
    content: watch::Receiver<Content>,
    _tasks: JoinSet<()>,
}

impl Watching {
    /// What is shown, and what will be.
    pub(super) fn content(&self) -> watch::Receiver<Content> {
        self.content.clone()
    }
}

impl Feed {
    /// Nobody looks yet.
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            watching: Mutex::new(Weak::new()),
        }
    }

    /// Somebody looks: joins those who do, or is the first.
    pub(super) fn look(&self) -> Arc<Watching> {
        let mut watching = lock(&self.watching);
        watching.upgrade().unwrap_or_else(|| {
            let new = Arc::new(start(&self.client));
            *watching = Arc::downgrade(&new);
            new
        })
    }
}

/// Something is different.
struct News {
    /// Which kind of object.
    kind: &'static str,
    /// Why it cannot be told what.
    trouble: Option<String>,
}

type Guarded<K> = Store<DeserializeGuard<K>>;

fn follow<K>(client: &Client, tasks: &mut JoinSet<()>, news: &mpsc::Sender<News>) -> Guarded<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let api = Api::<DeserializeGuard<K>>::all(client.clone());
    let news = news.clone();
    tasks.spawn(async move {
        let stream = watcher(api, watcher::Config::default())
            .default_backoff()
            .reflect(writer);
        tokio::pin!(stream);
        while let Some(event) = stream.next().await {
            let trouble = match event {
                // Objects of the first list are not shown one by one.
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => continue,
                Ok(_) => None,
                Err(error) => Some(mrg_telemetry::chain(&error)),
            };
            if news
                .send(News {
                    kind: std::any::type_name::<K>(),
                    trouble,
                })
                .await
                .is_err()
            {
                return;
            }
        }
    });
    store
}

fn start(client: &Client) -> Watching {
    let (news, mut heard) = mpsc::channel(64);
    let mut tasks = JoinSet::new();
    let sets: Guarded<OrderServiceSet> = follow(client, &mut tasks, &news);
    let clusters: Guarded<PostgresCluster> = follow(client, &mut tasks, &news);
    let pools: Guarded<PgBouncerPool> = follow(client, &mut tasks, &news);
    let resilience: Guarded<ServiceResilience> = follow(client, &mut tasks, &news);
    let (shown, content) = watch::channel(None);
    tasks.spawn(async move {
        let mut troubles = BTreeMap::new();
        while let Some(first) = heard.recv().await {
            troubles.insert(first.kind, first.trouble);
            tokio::time::sleep(TOGETHER).await;
            while let Ok(next) = heard.try_recv() {
                troubles.insert(next.kind, next.trouble);
            }
            let trouble = troubles.values().flatten().next();
            let trouble = trouble.map(|why| {
                format!("the Kubernetes API does not tell the operator of changes: {why}")
            });
            let ready = futures::future::join4(
                sets.wait_until_ready(),
                clusters.wait_until_ready(),
                pools.wait_until_ready(),
                resilience.wait_until_ready(),
            );
            // Half a platform would look like a broken one.
            if trouble.is_none() && tokio::time::timeout(Duration::ZERO, ready).await.is_err() {
                continue;
            }
            let view = View {
                trouble,
                platforms: each(&sets, |set| view::platform(set, Timestamp::now())),
                databases: each(&clusters, view::database),
                pools: each(&pools, view::pool),
                calls: each(&resilience, view::calls),
            };
            match serde_json::to_string(&view) {
                Ok(text) => drop(shown.send_replace(Some(text.into()))),
                Err(error) => {
                    tracing::error!(%error, "the page's content cannot be written as JSON");
                }
            }
        }
    });
    Watching {
        content,
        _tasks: tasks,
    }
}

/// Of each object that can be read, in the order of their names.
fn each<K, T>(store: &Guarded<K>, of: impl Fn(&K) -> view::Shown<T>) -> Vec<view::Shown<T>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut all: Vec<_> = store
        .state()
        .iter()
        .filter_map(|object| object.0.as_ref().ok().map(&of))
        .collect();
    all.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    all
}
