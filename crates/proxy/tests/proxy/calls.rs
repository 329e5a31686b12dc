//! One call: what passes, what is refused, what stands in for an answer, and what ends.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use crate::harness::{Proxy, status, until, upstream};
use crate::server::Faults;

#[tokio::test]
async fn a_request_and_its_answer_pass_as_they_are_but_for_the_address() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(&[&bbd], json!({})).await;
    let answer = proxy
        .send(
            Method::PUT,
            "/v1/orders/7?x=%20y",
            &[("x-mine", "1"), ("te", "gzip")],
            "hello",
        )
        .await;
    assert_eq!(answer.status(), StatusCode::OK);
    let seen: Value = answer.json().await.unwrap();
    assert_eq!(seen["path"], "/v1/orders/7?x=%20y");
    assert_eq!(
        (seen["method"].as_str(), seen["body"].as_str()),
        (Some("PUT"), Some("hello"))
    );
    assert_eq!(seen["headers"]["host"], bbd.address().to_string());
    assert_eq!(
        (
            seen["headers"]["x-mine"].as_str(),
            seen["headers"]["te"].as_str()
        ),
        (Some("1"), None)
    );
}

#[tokio::test]
async fn answers_from_better_days_and_fixed_ones_stand_in() {
    let maps = upstream("maps");
    let proxy = Proxy::start(
        &[&maps],
        json!({ "fallback": { "stale": { "maxAge": "600ms" } } }),
    )
    .await;
    let good = proxy.get("/route?a=b").await.text().await.unwrap();
    // In the place of an error; where there is no other answer, that is what the provider said.
    maps.fail(status(503));
    let stale = proxy.get("/route?a=b").await;
    assert_eq!(
        (
            stale.status().as_u16(),
            stale.headers()["x-mrg-reason"].to_str().unwrap()
        ),
        (200, "Failed")
    );
    let own = proxy.get("/route?a=c").await;
    assert_eq!(
        (own.status().as_u16(), own.headers().get("x-mrg-reason")),
        (503, None)
    );
    maps.fail(Faults {
        refuse: true,
        ..Faults::default()
    });
    sleep(Duration::from_millis(20)).await;
    let stale = proxy.get("/route?a=b").await;
    assert_eq!(
        (
            stale.status().as_u16(),
            stale.headers()["x-mrg-stale"].to_str().unwrap()
        ),
        (200, "0")
    );
    assert_eq!(stale.text().await.unwrap(), good);
    assert_eq!(proxy.get("/route?a=c").await.status().as_u16(), 502);
    sleep(Duration::from_millis(700)).await;
    assert_eq!(
        proxy.get("/route?a=b").await.status().as_u16(),
        502,
        "too old"
    );

    let fixed = json!({ "fallback": { "static": { "status": 200, "headers": { "content-type": "text/plain" }, "body": "later" } } });
    let proxy = Proxy::start(&[&maps], fixed).await;
    assert_eq!(proxy.get("/x").await.text().await.unwrap(), "later");
}

#[tokio::test]
async fn more_than_the_limit_are_refused_at_once_and_do_not_count() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(
        &[&bbd],
        json!({ "maxConcurrent": 2, "breaker": { "minRequests": 3 } }),
    )
    .await;
    bbd.fail(Faults {
        slow: 200,
        ..Faults::default()
    });
    let proxy = &proxy;
    let answers = futures::future::join_all((0..10).map(|_| proxy.post("k"))).await;
    let refused: Vec<&Response> = answers
        .iter()
        .filter(|answer| answer.status() == StatusCode::SERVICE_UNAVAILABLE)
        .collect();
    assert_eq!(refused.len(), 8);
    assert!(
        refused
            .iter()
            .all(|answer| answer.headers()["x-mrg-reason"] == "TooManyConcurrent")
    );
    assert_eq!(proxy.breaker(0).await, "Closed");
}

#[tokio::test]
async fn stopping_ends_what_is_under_way_first() {
    let bbd = upstream("bbd");
    let mut proxy = Proxy::start(
        &[&bbd],
        json!({ "timeout": { "attempt": "5s", "total": "5s" } }),
    )
    .await;
    bbd.fail(Faults {
        slow: 800,
        ..Faults::default()
    });
    let slow = proxy.post("k");
    let stop = async {
        sleep(Duration::from_millis(200)).await;
        Command::new("kill")
            .arg(proxy.child.id().to_string())
            .status()
            .unwrap();
    };
    let (answer, ()) = tokio::join!(slow, stop);
    assert_eq!(answer.status().as_u16(), 200);
    drop(answer);
    until("it has ended", || {
        let ended = proxy.child.try_wait().unwrap();
        async move { ended.is_some_and(|status| status.success()) }
    })
    .await;
}

#[tokio::test]
async fn connections_that_change_their_protocol_are_passed_on() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(&[&bbd], json!({})).await;
    let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port))
        .await
        .unwrap();
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n")
        .await
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    stream.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"hello");
}
