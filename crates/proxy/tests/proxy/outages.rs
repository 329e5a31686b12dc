//! A bad day, made by chance: the upstream fails in every way, and the proxy is killed.
//! `MRG_OUTAGES` makes it longer, `MRG_SEED` another.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::{Proxy, spawn, until, upstream};
use crate::server::{Faults, StandIn};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

fn misfortune(chance: &mut SmallRng) -> Faults {
    let faults = Faults {
        percent: if chance.random() { 50 } else { 0 },
        ..Faults::default()
    };
    match chance.random_range(0..5) {
        0 => Faults {
            refuse: true,
            ..Faults::default()
        },
        1 => Faults {
            hang: true,
            ..faults
        },
        2 => Faults {
            reset: true,
            ..faults
        },
        3 => Faults {
            status: Some(503),
            ..faults
        },
        _ => Faults {
            slow: chance.random_range(50..600),
            ..faults
        },
    }
}

/// Orders, one after another, and what was answered.
async fn orders(
    port: u16,
    who: usize,
    stop: &AtomicBool,
) -> BTreeMap<String, Option<(u16, Value)>> {
    let (client, mut answers) = (
        Client::builder()
            .timeout(Duration::from_secs(5))
            .build()
            .unwrap(),
        BTreeMap::new(),
    );
    for count in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("order-{who}-{count}");
        let request = client
            .post(format!("http://127.0.0.1:{port}/orders"))
            .header("idempotency-key", &key)
            .body("{}");
        let answer = async {
            let answer = request.send().await.ok()?;
            let status = answer.status().as_u16();
            Some((status, answer.json::<Value>().await.unwrap_or(Value::Null)))
        };
        answers.insert(key, answer.await);
        sleep(Duration::from_millis(5)).await;
    }
    answers
}

async fn bad_day(proxy: &mut Proxy, bbd: &StandIn, stop: &AtomicBool) {
    let mut chance = SmallRng::seed_from_u64(number("MRG_SEED", 1));
    for outage in 0..number("MRG_OUTAGES", 12) {
        bbd.fail(misfortune(&mut chance));
        sleep(Duration::from_millis(chance.random_range(100..600))).await;
        if outage % 3 == 2 {
            proxy.child.kill().unwrap();
            proxy.child.wait().unwrap();
            proxy.child = spawn(&proxy.directory, proxy.admin);
            proxy.ready().await;
        }
        bbd.fail(Faults::default());
        sleep(Duration::from_millis(chance.random_range(0..500))).await;
    }
    stop.store(true, Ordering::Relaxed);
}

#[tokio::test]
async fn whatever_happens_an_order_that_was_taken_is_sent_once_or_people_are_told() {
    let bbd = upstream("bbd");
    let mut proxy = Proxy::start(
        &[&bbd],
        json!({
            "onAmbiguous": "Queue", "breaker": { "timeout": "150ms", "minRequests": 5 }, "timeout": { "attempt": "300ms" },
            "fallback": { "queue": { "idempotencyHeader": "Idempotency-Key", "retryAfter": "1s", "perSecond": 1000, "capacity": 100_000 } },
        }),
    )
    .await;
    let (port, stop) = (proxy.port, AtomicBool::new(false));
    let callers = futures::future::join_all((0..4).map(|who| orders(port, who, &stop)));
    let (all, ()) = tokio::join!(callers, bad_day(&mut proxy, &bbd, &stop));
    let state = &proxy;
    until("everything is sent", || async {
        state.queue().await["waiting"] == 0
    })
    .await;
    // What is being sent just now is not waiting.
    sleep(Duration::from_secs(1)).await;
    let url = format!("http://127.0.0.1:{}/queue", proxy.admin);
    let list: Vec<Value> = proxy
        .client
        .get(url)
        .bearer_auth("secret")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let seen = tally(&bbd, &list, &all);
    println!("{seen:?}");
    for what in ["answered", "taken, sent later"] {
        assert!(
            seen.get(what).is_some_and(|count| *count > 10),
            "the day was not bad enough: {seen:?}"
        );
    }
}

/// How often each thing happened to an order, after a look at whether it may.
fn tally(
    bbd: &StandIn,
    list: &[Value],
    orders: &[BTreeMap<String, Option<(u16, Value)>>],
) -> BTreeMap<&'static str, u64> {
    let text = |item: &Value, name: &str| item[name].as_str().unwrap().to_owned();
    let statuses: BTreeMap<String, String> = list
        .iter()
        .map(|item| (text(item, "key"), text(item, "standing")))
        .collect();
    let reached = bbd.by_key();
    let mut seen = BTreeMap::new();
    for (key, answer) in orders.iter().flatten() {
        let times = reached.get(key).copied().unwrap_or(0);
        let status = statuses.get(key).map(String::as_str);
        assert!(
            times <= 1,
            "{key} reached the dispatch {times} times; {answer:?}, {status:?}"
        );
        let what = match answer {
            Some((200, _)) => {
                assert_eq!(times, 1, "{key} was answered, and never arrived");
                "answered"
            }
            Some((202, body)) => {
                assert!(
                    times == 1 || status == Some("Inquiry"),
                    "{key} was taken ({body}), did not arrive, and its status is {status:?}"
                );
                if status == Some("Inquiry") {
                    "taken, left to people"
                } else {
                    "taken, sent later"
                }
            }
            Some(_) => "refused",
            None => "no answer: the proxy was killed",
        };
        *seen.entry(what).or_default() += 1;
    }
    seen
}
