//! Redis and RabbitMQ, as they answer: others run them, and whether they do is asked every few
//! seconds, each address in a task of its own.

use mrg_base::lock;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const EVERY: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(2);
/// So many times in a row it must not answer before it is away: one lost packet is no outage.
const MISSES: u32 = 2;

type Reference = ObjectRef<super::Object>;

/// What is known of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Why it does not answer; `None`: it does.
    pub trouble: Option<String>,
    /// Since when that is so.
    pub since: Timestamp,
}

/// A store, by any of its names.
#[derive(Default)]
struct Store {
    known: Option<Known>,
    /// Whose it is.
    of: HashSet<Reference>,
}

struct Asked {
    store: Arc<Mutex<Store>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The stores of every platform, by address: one that many share is asked once.
pub(super) struct Stores {
    asked: Mutex<HashMap<String, Asked>>,
    triggers: mpsc::UnboundedSender<Reference>,
}

impl Stores {
    /// Nobody is asked yet; the stream says which platform has news.
    pub(super) fn new() -> (
        Self,
        impl futures::Stream<Item = Reference> + Send + 'static,
    ) {
        let (triggers, mut queue) = mpsc::unbounded_channel();
        (
            Self {
                asked: Mutex::default(),
                triggers,
            },
            futures::stream::poll_fn(move |context| queue.poll_recv(context)),
        )
    }

    /// Asks exactly these for this platform from now on, by name and address, and says what is
    /// known of each.
    pub(super) fn ask(
        &self,
        set: &Reference,
        stores: &BTreeMap<&'static str, String>,
    ) -> BTreeMap<&'static str, Known> {
        let mut asked = lock(&self.asked);
        leave(&mut asked, |url, of| {
            of == set && !stores.values().any(|wanted| wanted == url)
        });
        let mut known = BTreeMap::new();
        for (name, url) in stores {
            let store = if let Some(asked) = asked.get(url) {
                asked.store.clone()
            } else {
                let store = Arc::new(Mutex::new(Store::default()));
                let triggers = self.triggers.clone();
                let task = tokio::spawn(keep_asking(url.clone(), store.clone(), triggers));
                let new = Asked {
                    store: store.clone(),
                    task,
                };
                asked.insert(url.clone(), new);
                store
            };
            let mut store = lock(&store);
            store.of.insert(set.clone());
            known.extend(store.known.clone().map(|known| (*name, known)));
        }
        known
    }

    /// The platform is gone.
    pub(super) fn forget(&self, namespace: &str, name: &str) {
        leave(&mut lock(&self.asked), |_, set| {
            set.name == name && set.namespace.as_deref() == Some(namespace)
        });
    }
}

/// Takes platforms from stores; one that is nobody's is not asked any more.
fn leave(asked: &mut HashMap<String, Asked>, goes: impl Fn(&str, &Reference) -> bool) {
    asked.retain(|url, asked| {
        let mut store = lock(&asked.store);
        store.of.retain(|set| !goes(url, set));
        !store.of.is_empty()
    });
}

async fn keep_asking(
    url: String,
    store: Arc<Mutex<Store>>,
    triggers: mpsc::UnboundedSender<Reference>,
) {
    let mut misses = 0;
    let mut first_miss = None;
    loop {
        let answer = tokio::time::timeout(PATIENCE, ask(&url))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())));
        let trouble = answer.err();
        if trouble.is_some() {
            misses += 1;
            first_miss.get_or_insert_with(Timestamp::now);
        } else {
            (misses, first_miss) = (0, None);
        }
        let news: Vec<Reference> = {
            let mut store = lock(&store);
            let certain = trouble.is_none() || misses >= MISSES;
            let same = store
                .known
                .as_ref()
                .is_some_and(|known| known.trouble.is_some() == trouble.is_some());
            if certain && !same {
                store.known = Some(Known {
                    trouble,
                    since: first_miss.unwrap_or_else(Timestamp::now),
                });
                store.of.iter().cloned().collect()
            } else {
                Vec::new()
            }
        };
        for set in news {
            if triggers.send(set).is_err() {
                return;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Asks once, in the store's own words.
async fn ask(url: &str) -> Result<(), String> {
    if url.starts_with("redis") {
        let client = redis::Client::open(url)
            .map_err(|error| format!("its address cannot be read: {error}"))?;
        let mut connection = client
            .get_multiplexed_async_connection()
            .await
            .map_err(|error| error.to_string())?;
        return redis::cmd("PING")
            .query_async::<String>(&mut connection)
            .await
            .map(|_| ())
            .map_err(|error| error.to_string());
    }
    let address = broker_address(url)?;
    let mut stream = TcpStream::connect(&address)
        .await
        .map_err(|error| format!("{address}: {error}"))?;
    // AMQP 0-9-1, §4.2.2: the broker answers the protocol's header with the method
    // Connection.Start, a frame of type 1 on channel 0.
    stream
        .write_all(b"AMQP\x00\x00\x09\x01")
        .await
        .map_err(|error| error.to_string())?;
    let mut head = [0; 3];
    stream
        .read_exact(&mut head)
        .await
        .map_err(|error| format!("{address} closes the connection: {error}"))?;
    if head == [1, 0, 0] {
        Ok(())
    } else {
        Err(format!("{address} does not speak AMQP 0-9-1"))
    }
}

fn broker_address(url: &str) -> Result<String, String> {
    let parsed: http::Uri = url
        .parse()
        .map_err(|error| format!("its address cannot be read: {error}"))?;
    let host = parsed.host().ok_or("its address names no host")?;
    Ok(format!("{host}:{}", parsed.port_u16().unwrap_or(5672)))
}

/// The address as this operator reaches it: names without a dot are of the platform's namespace.
pub(super) fn from_here(url: &str, namespace: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (login, rest) = rest
        .rsplit_once('@')
        .map_or((None, rest), |(login, rest)| (Some(login), rest));
    let end = rest.find([':', '/', '?']).unwrap_or(rest.len());
    let (host, tail) = rest.split_at(end);
    let short =
        !host.is_empty() && !host.contains('.') && host != "localhost" && !host.starts_with('[');
    let host = if short {
        format!("{host}.{namespace}.svc")
    } else {
        host.to_owned()
    };
    let login = login.map(|login| format!("{login}@")).unwrap_or_default();
    format!("{scheme}://{login}{host}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_of_the_platform_s_namespace() {
        for (given, reached) in [
            ("redis://redis:6379/0", "redis://redis.mrg.svc:6379/0"),
            ("redis://:p@ss@redis/0", "redis://:p@ss@redis.mrg.svc/0"),
            ("amqp://u:p@rabbitmq", "amqp://u:p@rabbitmq.mrg.svc"),
            (
                "redis://redis.cache.svc:6379",
                "redis://redis.cache.svc:6379",
            ),
            ("redis://10.0.0.1:6379", "redis://10.0.0.1:6379"),
            ("amqp://localhost:5672/", "amqp://localhost:5672/"),
        ] {
            assert_eq!(from_here(given, "mrg"), reached);
        }
    }

    #[tokio::test]
    async fn a_broker_is_one_that_answers_like_one() {
        let answers = |bytes: &'static [u8]| async move {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
                .await
                .unwrap_or_else(|error| panic!("{error}"));
            let url = format!(
                "amqp://u:p@{}/",
                listener
                    .local_addr()
                    .unwrap_or_else(|error| panic!("{error}"))
            );
            tokio::spawn(async move {
                if let Ok((mut stream, _)) = listener.accept().await {
                    let mut asked = [0; 8];
                    let _ = stream.read_exact(&mut asked).await;
                    let _ = stream.write_all(bytes).await;
                }
            });
            ask(&url).await
        };
        assert_eq!(answers(&[1, 0, 0, 0, 0, 1]).await, Ok(()));
        assert!(
            answers(b"HTTP/1.1 400")
                .await
                .is_err_and(|why| why.contains("does not speak AMQP"))
        );
        assert!(
            answers(b"")
                .await
                .is_err_and(|why| why.contains("closes the connection"))
        );
        assert!(ask("amqp://127.0.0.1:1/").await.is_err());
        assert!(ask("redis://127.0.0.1:1/").await.is_err());
    }

    #[tokio::test]
    async fn a_store_that_many_share_is_asked_once_and_no_more_when_the_last_is_gone() {
        let (stores, _news) = Stores::new();
        let set = |namespace: &str| Reference::new("mrg").within(namespace);
        let at = |url: &str| BTreeMap::from([("redis", url.to_owned())]);
        let asked = || lock(&stores.asked).keys().cloned().collect::<Vec<_>>();
        stores.ask(&set("a"), &at("redis://shared:1/"));
        stores.ask(&set("b"), &at("redis://shared:1/"));
        assert_eq!(asked(), ["redis://shared:1/"]);
        stores.ask(&set("a"), &at("redis://own:1/"));
        assert_eq!(asked().len(), 2);
        stores.forget("b", "mrg");
        assert_eq!(asked(), ["redis://own:1/"]);
    }
}
