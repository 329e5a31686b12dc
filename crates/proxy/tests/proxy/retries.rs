//! Requests that are sent again, and those that must not be.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Proxy, status, upstream};
use crate::server::Faults;

#[tokio::test]
async fn a_write_is_sent_once_and_a_read_again() {
    let bbd = upstream("bbd");
    let retry = json!({ "retry": { "attempts": 3, "on": ["ConnectFailure", "Reset", "Timeout", "Status"], "backoff": { "initial": "1ms" } } });
    let proxy = Proxy::start(&[&bbd], retry).await;
    bbd.fail(Faults {
        reset: true,
        ..Faults::default()
    });
    let answer = proxy.post("k").await;
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["x-mrg-reason"].to_str().unwrap()
        ),
        (504, "Ambiguous")
    );
    assert_eq!(bbd.requests(), 1);
    assert_eq!(proxy.get("/orders/1").await.status().as_u16(), 504);
    assert_eq!(bbd.requests(), 4, "three attempts");
    bbd.fail(Faults {
        hang: true,
        ..Faults::default()
    });
    assert_eq!(proxy.post("k").await.headers()["x-mrg-reason"], "TimedOut");
    assert_eq!(bbd.requests(), 5);
}

#[tokio::test]
async fn a_key_that_the_spec_declares_lets_a_write_be_sent_again_to_the_same_provider() {
    let (first, second) = (upstream("first"), upstream("second"));
    let retry = json!({ "attempts": 3, "on": ["Reset"], "backoff": { "initial": "1ms" }, "idempotencyHeader": "Idempotency-Key" });
    let proxy = Proxy::start(&[&first, &second], json!({ "retry": retry })).await;
    first.fail(Faults {
        reset: true,
        ..Faults::default()
    });
    assert_eq!(proxy.post("k").await.status().as_u16(), 504);
    assert_eq!((first.requests(), second.requests()), (3, 0));
    assert_eq!(
        proxy
            .send(Method::POST, "/orders", &[], "{}")
            .await
            .status()
            .as_u16(),
        504
    );
    assert_eq!(
        (first.requests(), second.requests()),
        (4, 0),
        "without the key it is sent once"
    );
}

#[tokio::test]
async fn retries_stay_within_their_budget() {
    let bbd = upstream("bbd");
    let retry = json!({ "attempts": 5, "budgetPercent": 10, "minPerSecond": 0, "backoff": { "initial": "0ms", "max": "0ms" } });
    let proxy = Proxy::start(
        &[&bbd],
        json!({ "retry": retry, "breaker": { "mode": "Off" } }),
    )
    .await;
    bbd.fail(status(503));
    for _ in 0..100 {
        proxy.get("/x").await;
    }
    assert_eq!(bbd.requests(), 110);
}
