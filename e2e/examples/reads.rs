//! Reads orders over HTTP at a steady rate, and says how long each kind took: `reads --base URL
//! --ids FILE --rate N --seconds S`. The file has a line a question, `history ID` or `active ID`.
//! Latencies count from when a question was due, so that a server that stalls does not hide it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

#[derive(Parser)]
struct Arguments {
    /// Where `/orders/...` is answered.
    #[arg(long)]
    base: String,
    /// What is asked, `history ID` or `active ID` a line.
    #[arg(long, required_unless_present = "ask")]
    ids: Option<std::path::PathBuf>,
    /// The same, one by one.
    #[arg(long)]
    ask: Vec<String>,
    /// With which question to begin.
    #[arg(long, default_value_t = 0)]
    from: usize,
    /// Questions in a second; 0: as fast as they are answered.
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// For how long.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many are asked at once, at most.
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// One path for both kinds, as before the split: `/orders/ID`.
    #[arg(long)]
    one_endpoint: bool,
}

#[derive(Default)]
struct Kind {
    micros: Vec<u64>,
    wrong: u64,
    sources: BTreeMap<String, u64>,
}

/// Whether an order, or that there is none, was answered whole, and which store answered.
async fn read_one(client: &Client<HttpConnector, Empty<Bytes>>, url: &str) -> (bool, String) {
    let url = url.parse().unwrap_or_else(|error| panic!("{url}: {error}"));
    let Ok(answer) = client.get(url).await else {
        return (false, "-".to_owned());
    };
    let source = answer
        .headers()
        .get("order-source")
        .and_then(|value| value.to_str().ok())
        .unwrap_or("-")
        .to_owned();
    let status = answer.status();
    let whole = answer.into_body().collect().await.is_ok();
    let good = whole && (status.is_success() || status == http::StatusCode::NOT_FOUND);
    (good, source)
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments = Arc::new(Arguments::parse());
    let read = |file: &std::path::PathBuf| {
        std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    let text = arguments
        .ids
        .as_ref()
        .map_or_else(|| arguments.ask.join("\n"), read);
    let questions: Arc<Vec<(String, String)>> = Arc::new(
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(kind, id)| (kind.to_owned(), id.to_owned()))
            .collect(),
    );
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(arguments.clients)
        .build(connector);
    let (next, kinds, began) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Mutex::new(BTreeMap::<String, Kind>::new())),
        Instant::now(),
    );
    let end = began + Duration::from_secs(arguments.seconds);
    let worker = |_| {
        let (arguments, questions, client, next, kinds) = (
            arguments.clone(),
            questions.clone(),
            client.clone(),
            next.clone(),
            kinds.clone(),
        );
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let due = if arguments.rate == 0 {
                    Instant::now()
                } else {
                    began + Duration::from_secs_f64(number as f64 / f64::from(arguments.rate))
                };
                if due >= end {
                    return;
                }
                tokio::time::sleep_until(due.into()).await;
                let (kind, id) = &questions[(arguments.from + number) % questions.len()];
                let path = if arguments.one_endpoint {
                    format!("/orders/{id}")
                } else {
                    format!("/orders/{id}/{kind}")
                };
                let (good, source) = read_one(&client, &format!("{}{path}", arguments.base)).await;
                let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
                let mut kinds = kinds
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let kind = kinds.entry(kind.clone()).or_default();
                kind.micros.push(micros);
                kind.wrong += u64::from(!good);
                *kind.sources.entry(source).or_default() += 1;
            }
        })
    };
    futures::future::join_all((0..arguments.clients).map(worker)).await;
    let seconds = began.elapsed().as_secs_f64();
    let kinds = std::mem::take(
        &mut *kinds
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    );
    let mut said = serde_json::Map::new();
    for (name, mut kind) in kinds {
        kind.micros.sort_unstable();
        let percentile =
            |share: usize| kind.micros[(kind.micros.len() - 1) * share / 100] as f64 / 1e3;
        said.insert(
            name,
            serde_json::json!({
                "count": kind.micros.len(), "per_second": (kind.micros.len() as f64 / seconds).round(), "wrong": kind.wrong,
                "p50_ms": percentile(50), "p95_ms": percentile(95), "p99_ms": percentile(99), "sources": kind.sources,
            }),
        );
    }
    println!("{}", serde_json::Value::Object(said));
}
