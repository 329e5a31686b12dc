//! The durable queue.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::harness::{Proxy, free_port, spawn, status, until, upstream};
use crate::server::Faults;

#[tokio::test]
async fn a_queue_keeps_what_nobody_took_and_sends_it_once_when_the_dependency_is_back() {
    let bbd = upstream("bbd");
    let queue = json!({ "fallback": { "queue": { "idempotencyHeader": "Idempotency-Key", "retryAfter": "200ms", "perSecond": 100 } } });
    let mut proxy = Proxy::start(&[&bbd], queue).await;
    bbd.fail(Faults {
        refuse: true,
        ..Faults::default()
    });
    sleep(Duration::from_millis(20)).await;
    let mut tickets = Vec::new();
    for number in 0..20 {
        let answer = proxy.post(&format!("order-{number}")).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
        tickets.push(
            answer.json::<Value>().await.unwrap()["ticket"]
                .as_str()
                .unwrap()
                .to_owned(),
        );
    }
    let again = proxy.post("order-0").await.json::<Value>().await.unwrap();
    assert_eq!(again["ticket"], tickets[0], "the same key, the same ticket");
    let keyless = proxy.send(Method::POST, "/orders", &[], "{}").await;
    assert_eq!(
        (
            keyless.status().as_u16(),
            keyless.headers()["x-mrg-reason"].to_str().unwrap()
        ),
        (503, "NotQueueable")
    );
    assert_eq!(proxy.queue().await["waiting"], 20);
    // What was answered with 202 survives a crash.
    proxy.child.kill().unwrap();
    proxy.child.wait().unwrap();
    proxy.child = spawn(&proxy.directory, proxy.admin);
    proxy.ready().await;
    assert_eq!(proxy.queue().await["onDisk"], 20);
    bbd.fail(Faults::default());
    until("all are sent", || async {
        proxy.queue().await["waiting"] == 0
    })
    .await;
    let keys = bbd.by_key();
    assert_eq!(keys.len(), 20);
    assert!(keys.values().all(|count| *count == 1), "{keys:?}");
    assert_eq!(bbd.last()["body"], "{}");
}

#[tokio::test]
async fn what_may_have_been_processed_is_left_to_people() {
    let bbd = upstream("bbd");
    let queue = json!({ "onAmbiguous": "Queue", "fallback": { "queue": { "idempotencyHeader": "Idempotency-Key", "retryAfter": "100ms" } } });
    let proxy = Proxy::start(&[&bbd], queue).await;
    bbd.fail(Faults {
        hang: true,
        ..Faults::default()
    });
    let answer: Value = proxy.post("order-1").await.json().await.unwrap();
    assert_eq!(answer["standing"], "Inquiry");
    bbd.fail(Faults::default());
    sleep(Duration::from_millis(500)).await;
    assert_eq!(proxy.queue().await["inquiry"], 1);
    assert_eq!(bbd.by_key()["order-1"], 1);
    let base = format!("http://127.0.0.1:{}/queue", proxy.admin);
    assert_eq!(
        proxy.client.get(&base).send().await.unwrap().status(),
        StatusCode::UNAUTHORIZED
    );
    let ticket = answer["ticket"].as_str().unwrap();
    let replay = proxy
        .client
        .post(format!("{base}/{ticket}/replay"))
        .bearer_auth("secret")
        .send()
        .await
        .unwrap();
    assert_eq!(replay.status(), StatusCode::OK);
    until("people had it sent", || async {
        bbd.by_key()["order-1"] == 2
    })
    .await;
    until("nothing waits", || async {
        proxy.queue().await["inquiry"] == 0 && proxy.queue().await["waiting"] == 0
    })
    .await;
    let list: Value = proxy
        .client
        .get(&base)
        .bearer_auth("secret")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(list[0]["standing"], "Done");
    assert_eq!(
        proxy
            .client
            .post(format!("{base}/{ticket}/discard"))
            .bearer_auth("secret")
            .send()
            .await
            .unwrap()
            .status(),
        StatusCode::CONFLICT
    );
}

#[tokio::test]
async fn a_full_queue_says_so() {
    let bbd = upstream("bbd");
    let queue = json!({ "fallback": { "queue": { "idempotencyHeader": "Idempotency-Key", "capacity": 2 } } });
    let proxy = Proxy::start(&[&bbd], queue).await;
    bbd.fail(Faults {
        refuse: true,
        ..Faults::default()
    });
    sleep(Duration::from_millis(20)).await;
    for key in ["a", "b"] {
        assert_eq!(proxy.post(key).await.status(), StatusCode::ACCEPTED);
    }
    let full = proxy.post("c").await;
    assert_eq!(
        (
            full.status().as_u16(),
            full.headers()["x-mrg-reason"].to_str().unwrap()
        ),
        (503, "QueueFull")
    );
}

#[tokio::test]
async fn what_the_sidecar_before_a_dead_workload_refuses_is_kept_or_answered_from_better_days() {
    let workload = upstream("userservice");
    let inbound = free_port();
    let config = json!({ "workload": "userservice", "inbound": { "port": inbound, "targetPort": workload.address().port() } });
    let _sidecar = Proxy::with(&config, inbound).await;
    let at = json!([{ "name": "p0", "url": format!("http://127.0.0.1:{inbound}") }]);
    let queue = json!({ "providers": at, "fallback": { "queue": { "idempotencyHeader": "Idempotency-Key", "retryAfter": "1s" } } });
    let (keeps, plain) = (
        Proxy::start(&[], queue).await,
        Proxy::start(&[], json!({ "providers": at })).await,
    );
    assert_eq!(keeps.post("a").await.status().as_u16(), 200);
    workload.fail(Faults {
        refuse: true,
        ..Faults::default()
    });
    sleep(Duration::from_millis(20)).await;
    // The first may go down with a connection that was kept open; that one may have been heard.
    let _ = keeps.post("b").await;
    assert_eq!(
        keeps.post("c").await.status().as_u16(),
        202,
        "the workload did not get it, and its sidecar says so"
    );
    let answer = plain.post("d").await;
    assert_eq!(answer.status().as_u16(), 502);
    assert!(
        !answer.headers().contains_key("x-mrg-not-processed"),
        "that is between the sidecars"
    );
    workload.fail(Faults::default());
    until("it is sent", || async {
        workload.by_key().get("c") == Some(&1)
    })
    .await;
}

#[tokio::test]
async fn what_failed_before_the_breaker_opened_is_what_it_lets_through_first() {
    let bbd = upstream("bbd");
    let queue = json!({ "idempotencyHeader": "Idempotency-Key", "retryAfter": "300s" });
    let proxy = Proxy::start(&[&bbd], json!({ "breaker": { "minRequests": 5, "maxRequests": 3 }, "fallback": { "queue": queue } })).await;
    bbd.fail(Faults {
        refuse: true,
        ..Faults::default()
    });
    sleep(Duration::from_millis(20)).await;
    // Each is tried once, kept, and tried once more at once; the breaker opens on the way.
    for key in ["a", "b", "c", "d", "e"] {
        assert_eq!(proxy.post(key).await.status().as_u16(), 202);
    }
    until("the breaker is open", || async {
        proxy.breaker(0).await == "Open"
    })
    .await;
    bbd.fail(Faults::default());
    until("everything is sent", || async { bbd.by_key().len() == 5 }).await;
    assert!(
        bbd.by_key().values().all(|times| *times == 1),
        "{:?}",
        bbd.by_key()
    );
    until("the breaker is closed", || async {
        proxy.breaker(0).await == "Closed"
    })
    .await;
}

/// The status and the note of a request in the queue.
async fn item(proxy: &Proxy, key: &str) -> (String, String) {
    let list = proxy
        .client
        .get(format!("http://127.0.0.1:{}/queue", proxy.admin))
        .bearer_auth("secret");
    let list: Value = list.send().await.unwrap().json().await.unwrap();
    let items = list.as_array().unwrap();
    let found = items.iter().find(|item| item["key"] == key).unwrap();
    let text = |field: &str| found[field].as_str().unwrap().to_owned();
    (text("standing"), text("note"))
}

/// Queues a request whose provider comes back with this status, and is well after that.
async fn comes_back_with(code: u16, standing: &str) {
    let bbd = upstream("bbd");
    bbd.fail(Faults {
        refuse: true,
        ..Faults::default()
    });
    let queue = json!({ "fallback": { "queue": { "idempotencyHeader": "Idempotency-Key", "retryAfter": "200ms" } } });
    let proxy = Proxy::start(&[&bbd], queue).await;
    assert_eq!(proxy.post("a").await.status(), StatusCode::ACCEPTED);
    bbd.fail(status(code));
    let answered = format!("answered {code}");
    until("it was answered", async || {
        item(&proxy, "a").await.1.contains(&answered)
    })
    .await;
    assert_eq!(item(&proxy, "a").await.0, standing, "{code}");
    bbd.fail(Faults::default());
    if code == 429 {
        until("it is sent again", async || {
            item(&proxy, "a").await.0 == "Done"
        })
        .await;
    }
}

#[tokio::test]
async fn only_what_was_processed_is_done() {
    tokio::join!(
        comes_back_with(429, "Waiting"),
        comes_back_with(401, "Waiting"),
        comes_back_with(422, "Inquiry"),
        comes_back_with(500, "Inquiry"),
    );
}

#[tokio::test]
async fn a_key_that_waits_answers_with_its_ticket_and_is_not_sent_beside_it() {
    let bbd = upstream("bbd");
    bbd.fail(Faults {
        refuse: true,
        ..Faults::default()
    });
    let queue = json!({ "breaker": { "minRequests": 1000 }, "fallback": { "queue": { "idempotencyHeader": "Idempotency-Key", "retryAfter": "3s" } } });
    let proxy = Proxy::start(&[&bbd], queue).await;
    let kept: Value = proxy.post("a").await.json().await.unwrap();
    let ticket = kept["ticket"].as_str().unwrap();
    until("it was tried once", async || {
        item(&proxy, "a").await.1.contains("not sent")
    })
    .await;
    bbd.fail(Faults::default());
    until("it listens again", async || {
        TcpStream::connect(bbd.address()).await.is_ok()
    })
    .await;
    let again = proxy.post("a").await;
    let reason = again.headers()["x-mrg-reason"].to_str().unwrap().to_owned();
    assert_eq!(
        (again.status().as_u16(), reason.as_str()),
        (202, "AlreadyQueued")
    );
    let again: Value = again.json().await.unwrap();
    assert_eq!(again["ticket"], ticket);
    assert_eq!(proxy.post("b").await.status(), 200, "another key is sent");
    until("it is sent", async || item(&proxy, "a").await.0 == "Done").await;
    assert_eq!(bbd.by_key()["a"], 1);
    assert_eq!(
        proxy.post("a").await.status(),
        200,
        "what is settled is the dependency's"
    );
}

#[tokio::test]
async fn a_body_without_a_length_is_kept_like_any_other() {
    let bbd = upstream("bbd");
    let queue = json!({ "fallback": { "queue": { "idempotencyHeader": "Idempotency-Key", "retryAfter": "200ms", "perSecond": 100, "maxBodyBytes": 1000 } } });
    let proxy = Proxy::start(&[&bbd], queue).await;
    bbd.fail(Faults {
        refuse: true,
        ..Faults::default()
    });
    sleep(Duration::from_millis(20)).await;
    let post = async |key: &str, body: String| {
        let frame = http_body::Frame::data(bytes::Bytes::from(body));
        let frames = futures::stream::iter([Ok::<_, std::io::Error>(frame)]);
        proxy
            .client
            .post(format!("http://127.0.0.1:{}/orders", proxy.port))
            .header("idempotency-key", key)
            .body(reqwest::Body::wrap(http_body_util::StreamBody::new(frames)))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(post("short", "{\"n\":7}".to_owned()).await, 202);
    assert_eq!(post("long", "x".repeat(1001)).await, 503);
    bbd.fail(Faults::default());
    until("it is sent", async || {
        bbd.requests() > 0 && bbd.last()["body"] == "{\"n\":7}"
    })
    .await;
    // One that is too long to be kept is passed on whole.
    assert_eq!(post("long", "x".repeat(100_000)).await, 200);
    assert_eq!(bbd.last()["body"].as_str().unwrap().len(), 100_000);
}
