//! What proxies say of themselves. Each is asked for its news and answers when it has some, so that
//! a breaker's change is in the status within moments; and each is given the newest configuration.
//! Nothing depends on either.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kube::runtime::reflector::ObjectRef;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::inject::ADMIN_PORT;
use crate::answers;
use mrg_base::lock;
use mrg_policy::Report;

/// Longer than a proxy keeps those waiting who ask for news.
const NEWS_WITHIN: Duration = Duration::from_secs(40);
const PUSH_WITHIN: Duration = Duration::from_secs(3);
/// The pause before a proxy that does not answer is asked again: it doubles each time, up to the
/// most. A pod that becomes ready is asked at once.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_AT_MOST: Duration = Duration::from_secs(30);

/// So many that have not answered yet are asked at a time: thousands at once, as after a restart of
/// the operator, would take more memory than all it knows.
const AT_A_TIME: usize = 256;

type Reference = ObjectRef<super::Object>;

/// What is known of a proxy.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    /// What it said last; `None` if it does not answer.
    pub report: Option<Report>,
}

/// Where a proxy is, and whether its pod is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The pod's address.
    pub address: String,
    /// Whether the pod is ready.
    pub ready: bool,
}

struct Watched {
    place: Place,
    known: Arc<Mutex<Known>>,
    /// Ends the pause before the next question.
    ask: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The proxies of every object.
pub(super) struct Proxies {
    of: Mutex<HashMap<Reference, BTreeMap<String, Watched>>>,
    triggers: mpsc::UnboundedSender<Reference>,
    http: reqwest::Client,
    turns: Arc<Semaphore>,
}

impl Proxies {
    /// Nobody is asked yet; the stream says which object has news.
    pub(super) fn new() -> (
        Self,
        impl futures::Stream<Item = Reference> + Send + 'static,
    ) {
        let (triggers, mut queue) = mpsc::unbounded_channel();
        let stream = futures::stream::poll_fn(move |context| queue.poll_recv(context));
        let http = answers::client();
        (
            Self {
                of: Mutex::default(),
                triggers,
                http,
                turns: Arc::new(Semaphore::new(AT_A_TIME)),
            },
            stream,
        )
    }

    /// Asks exactly these pods from now on, by name, and says what is known of each.
    pub(super) fn ask(
        &self,
        object: &Reference,
        pods: &BTreeMap<String, Place>,
    ) -> BTreeMap<String, Known> {
        let mut all = lock(&self.of);
        let watched = all.entry(object.clone()).or_default();
        watched.retain(|name, watched| {
            pods.get(name)
                .is_some_and(|place| place.address == watched.place.address)
        });
        for (name, place) in pods {
            let watched = watched
                .entry(name.clone())
                .or_insert_with(|| self.watch(object, place));
            if place.ready && !watched.place.ready {
                watched.ask.notify_one();
            }
            watched.place.ready = place.ready;
        }
        watched
            .iter()
            .map(|(name, watched)| (name.clone(), lock(&watched.known).clone()))
            .collect()
    }

    fn watch(&self, object: &Reference, place: &Place) -> Watched {
        let (known, ask) = (
            Arc::new(Mutex::new(Known::default())),
            Arc::new(Notify::new()),
        );
        let url = format!("http://{}:{ADMIN_PORT}/state", bracketed(&place.address));
        let asking = Asking {
            http: self.http.clone(),
            turns: self.turns.clone(),
            url,
            known: known.clone(),
            ask: ask.clone(),
        };
        let asked = keep_asking(asking, self.triggers.clone(), object.clone());
        Watched {
            place: place.clone(),
            known,
            ask,
            task: tokio::spawn(asked),
        }
    }

    /// The object is gone.
    pub(super) fn forget(&self, namespace: &str, name: &str) {
        lock(&self.of).retain(|object, _| {
            object.name != name || object.namespace.as_deref() != Some(namespace)
        });
    }

    /// Gives a proxy a configuration. Its answer comes as news, too.
    pub(super) async fn push(&self, address: &str, token: &str, file: &str) -> Result<(), String> {
        let url = format!("http://{}:{ADMIN_PORT}/config", bracketed(address));
        let sent = self
            .http
            .put(url)
            .bearer_auth(token)
            .body(file.to_owned())
            .timeout(PUSH_WITHIN)
            .send()
            .await;
        let answer = sent.map_err(|error| mrg_telemetry::chain(&error))?;
        if answer.status().is_success() {
            return Ok(());
        }
        let status = answer.status();
        Err(format!("{status}: {}", answers::excerpt(answer).await))
    }
}

fn bracketed(address: &str) -> String {
    if address.contains(':') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

/// One proxy that is asked.
struct Asking {
    http: reqwest::Client,
    turns: Arc<Semaphore>,
    url: String,
    known: Arc<Mutex<Known>>,
    ask: Arc<Notify>,
}

impl Asking {
    /// Its report, once it is another than the one of this version.
    async fn report(&self, after: Option<u64>) -> Option<Report> {
        let (asked, turn) = match after {
            Some(version) => (self.http.get(format!("{}?after={version}", self.url)), None),
            None => (self.http.get(&self.url), self.turns.acquire().await.ok()),
        };
        let answer = async {
            let answer = asked.timeout(NEWS_WITHIN).send().await.ok()?;
            answers::json(answer.error_for_status().ok()?).await
        }
        .await;
        drop(turn);
        answer
    }
}

async fn keep_asking(
    asking: Asking,
    triggers: mpsc::UnboundedSender<Reference>,
    object: Reference,
) {
    let mut after = None;
    let mut pause = ASK_AGAIN;
    loop {
        let report = asking.report(after).await;
        after = report.as_ref().map(|report| report.version);
        let is_news = {
            let mut known = lock(&asking.known);
            let is_news = shown(known.report.as_ref()) != shown(report.as_ref());
            known.report = report;
            is_news
        };
        if is_news && triggers.send(object.clone()).is_err() {
            return;
        }
        if after.is_some() {
            pause = ASK_AGAIN;
            continue;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(ASK_AGAIN_AT_MOST),
            () = asking.ask.notified() => pause = ASK_AGAIN,
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
            provider.counts = mrg_breaker::Counts::default();
        }
    }
    Some(report)
}
