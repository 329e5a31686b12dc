//! What proxies say of themselves. Each is asked for its news and answers when it has some, so that a breaker's change is in the status within
//! moments; and each is given the newest configuration. Nothing depends on either.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use tokio::sync::mpsc;

use super::inject::ADMIN_PORT;
use crate::policy::Report;

/// Longer than a proxy keeps those waiting who ask for news.
const NEWS_WITHIN: Duration = Duration::from_secs(40);
const PUSH_WITHIN: Duration = Duration::from_secs(3);
/// The pause before a proxy that does not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(2);

type Reference = ObjectRef<super::Object>;

/// What is known of a proxy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// What it said last; `None` if it does not answer.
    pub report: Option<Report>,
}

struct Watched {
    address: String,
    known: Arc<Mutex<Known>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The proxies of every object.
pub struct Proxies {
    of: Mutex<HashMap<Reference, BTreeMap<String, Watched>>>,
    triggers: mpsc::UnboundedSender<Reference>,
    http: reqwest::Client,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxies {
    /// Nobody is asked yet; the stream says which object has news.
    pub fn new() -> (Self, impl futures::Stream<Item = Reference> + Send + 'static) {
        let (triggers, mut queue) = mpsc::unbounded_channel();
        let stream = futures::stream::poll_fn(move |context| queue.poll_recv(context));
        (Self { of: Mutex::default(), triggers, http: reqwest::Client::new() }, stream)
    }

    /// Asks exactly these pods from now on, by name and address, and says what is known of each.
    pub fn ask(&self, object: &Reference, pods: &BTreeMap<String, String>) -> BTreeMap<String, Known> {
        let mut all = lock(&self.of);
        let watched = all.entry(object.clone()).or_default();
        watched.retain(|name, watched| pods.get(name) == Some(&watched.address));
        for (name, address) in pods {
            if !watched.contains_key(name) {
                let known = Arc::new(Mutex::new(Known::default()));
                let url = format!("http://{}:{ADMIN_PORT}/state", bracketed(address));
                let task = tokio::spawn(keep_asking(self.http.clone(), url, known.clone(), self.triggers.clone(), object.clone()));
                watched.insert(name.clone(), Watched { address: address.clone(), known, task });
            }
        }
        watched.iter().map(|(name, watched)| (name.clone(), lock(&watched.known).clone())).collect()
    }

    /// The object is gone.
    pub fn forget(&self, namespace: Option<&str>, name: &str) {
        lock(&self.of).retain(|object, _| object.name != name || object.namespace.as_deref() != namespace);
    }

    /// Gives a proxy a configuration. Its answer comes as news, too.
    pub async fn push(&self, address: &str, token: &str, file: &str) -> Result<(), String> {
        let url = format!("http://{}:{ADMIN_PORT}/config", bracketed(address));
        let sent = self.http.put(url).bearer_auth(token).body(file.to_owned()).timeout(PUSH_WITHIN).send().await;
        let answer = sent.map_err(|error| crate::telemetry::chain(&error))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status();
        Err(format!("{status}: {}", answer.text().await.unwrap_or_default().trim()))
    }
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

async fn keep_asking(
    http: reqwest::Client,
    url: String,
    known: Arc<Mutex<Known>>,
    triggers: mpsc::UnboundedSender<Reference>,
    object: Reference,
) {
    let mut after = None;
    loop {
        let asked = match after {
            Some(version) => http.get(format!("{url}?after={version}")),
            None => http.get(&url),
        };
        let answer = async { asked.timeout(NEWS_WITHIN).send().await?.error_for_status()?.json::<Report>().await }.await;
        let report = answer.ok();
        after = report.as_ref().map(|report| report.version);
        let is_news = {
            let mut known = lock(&known);
            let is_news = shown(known.report.as_ref()) != shown(report.as_ref());
            known.report = report;
            is_news
        };
        if is_news && triggers.send(object.clone()).is_err() {
            return;
        }
        if after.is_none() {
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }
}

/// A report without what changes with every request and is no news.
fn shown(report: Option<&Report>) -> Option<Report> {
    let mut report = report?.clone();
    report.version = 0;
    for canary in report.canary.iter_mut().chain(&mut report.routes) {
        (canary.canary, canary.stable) = Default::default();
    }
    for dependency in &mut report.dependencies {
        dependency.in_flight = 0;
        for provider in &mut dependency.providers {
            provider.counts = crate::breaker::Counts::default();
        }
    }
    Some(report)
}
