//! Secrets by name. They are not watched: the operator may read those that it is told of, and list
//! none. One that is asked for again within moments is not read again.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};

use mrg_base::lock;

/// A Secret's content, by key.
pub(crate) type Content = Arc<BTreeMap<String, Vec<u8>>>;

/// How old an answer may be: a burst of reconciliations reads a Secret once.
const FRESH: Duration = Duration::from_secs(5);
/// So many are remembered before those that are too old are let go.
const MANY: usize = 256;

/// Reads Secrets.
pub struct Secrets {
    client: Client,
    read: Mutex<HashMap<(String, String), (Instant, Content)>>,
}

impl Secrets {
    /// Nothing was read yet.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            read: Mutex::default(),
        }
    }

    /// For one reconciliation.
    pub fn reader(&self) -> Reader<'_> {
        Reader {
            secrets: self,
            remembered: AtomicBool::new(false),
        }
    }

    fn remembered(&self, key: &(String, String)) -> Option<Content> {
        let read = lock(&self.read);
        read.get(key)
            .filter(|(at, _)| at.elapsed() < FRESH)
            .map(|(_, content)| content.clone())
    }

    /// None is never remembered: somebody is about to create it.
    async fn read(&self, namespace: &str, name: &str) -> Result<Option<Content>, kube::Error> {
        let key = (namespace.to_owned(), name.to_owned());
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let found = api.get_opt(name).await?.map(content);
        let mut read = lock(&self.read);
        if read.len() >= MANY {
            read.retain(|_, (at, _)| at.elapsed() < FRESH);
        }
        match &found {
            Some(content) => drop(read.insert(key, (Instant::now(), content.clone()))),
            None => drop(read.remove(&key)),
        }
        Ok(found)
    }

    /// Creates a Secret; if somebody was faster, theirs counts. Gives what is there.
    ///
    /// # Errors
    /// If the API server does not do it.
    pub async fn create(&self, secret: &Secret) -> Result<Content, kube::Error> {
        let namespace = secret.namespace().unwrap_or_default();
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        match api.create(&PostParams::default(), secret).await {
            Ok(made) => Ok(content(made)),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Ok(content(api.get(&secret.name_any()).await?))
            }
            Err(error) => Err(error),
        }
    }

    /// What is known of a Secret is no longer so.
    pub fn forget(&self, namespace: &str, name: &str) {
        lock(&self.read).remove(&(namespace.to_owned(), name.to_owned()));
    }
}

/// Reads Secrets for one reconciliation, and knows whether all that it said is of now.
pub struct Reader<'a> {
    secrets: &'a Secrets,
    remembered: AtomicBool,
}

impl Reader<'_> {
    /// A Secret's content; `None` if there is none.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn get(&self, namespace: &str, name: &str) -> Result<Option<Content>, kube::Error> {
        if let Some(content) = self
            .secrets
            .remembered(&(namespace.to_owned(), name.to_owned()))
        {
            self.remembered.store(true, Ordering::Relaxed);
            return Ok(Some(content));
        }
        self.secrets.read(namespace, name).await
    }

    /// One value of a Secret, as text; `None` if it is not there, empty or no text.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn text(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
    ) -> Result<Option<String>, kube::Error> {
        let content = self.get(namespace, name).await?;
        let bytes = content.and_then(|content| content.get(key).cloned());
        Ok(bytes
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .filter(|text| !text.is_empty()))
    }

    /// When to look again, since something was said from memory and may have changed since.
    pub fn look_again(&self) -> Option<Duration> {
        self.remembered.load(Ordering::Relaxed).then_some(FRESH)
    }
}

fn content(secret: Secret) -> Content {
    Arc::new(
        secret
            .data
            .unwrap_or_default()
            .into_iter()
            .map(|(key, value)| (key, value.0))
            .collect(),
    )
}
