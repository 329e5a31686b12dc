//! Dependencies with several providers.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::time::sleep;

use crate::harness::{Proxy, dependency, free_port, status, until, upstream};
use crate::server::Faults;

#[tokio::test]
async fn providers_are_tried_in_order_until_one_serves_and_the_first_is_returned_to() {
    let (first, second, third) = (upstream("first"), upstream("second"), upstream("third"));
    let proxy = Proxy::start(
        &[&first, &second, &third],
        json!({ "failback": { "minHold": "700ms" }, "notAccepted": [503] }),
    )
    .await;
    first.fail(Faults {
        refuse: true,
        ..Faults::default()
    });
    second.fail(status(503));
    sleep(Duration::from_millis(20)).await;
    for _ in 0..10 {
        let answer = proxy.post("k").await;
        assert_eq!(
            (
                answer.status().as_u16(),
                answer.headers()["x-mrg-provider"].to_str().unwrap()
            ),
            (200, "p2")
        );
    }
    assert_eq!(proxy.breaker(0).await, "Open");
    assert_eq!(proxy.state().await["dependencies"][0]["active"], "p2");
    for upstream in [&first, &second] {
        upstream.fail(Faults::default());
    }
    // Its breaker would let it in after 300 ms, its hold after 700.
    sleep(Duration::from_millis(400)).await;
    assert_eq!(proxy.post("k").await.headers()["x-mrg-provider"], "p2");
    until("the first one serves", || async {
        proxy.post("k").await.headers()["x-mrg-provider"] == "p0"
    })
    .await;
}

#[tokio::test]
async fn an_ambiguous_payment_goes_to_no_other_provider() {
    let (first, second) = (upstream("first"), upstream("second"));
    let proxy = Proxy::start(&[&first, &second], json!({})).await;
    first.fail(Faults {
        hang: true,
        ..Faults::default()
    });
    for _ in 0..10 {
        assert_eq!(proxy.post("k").await.status().as_u16(), 504);
    }
    assert_eq!((first.requests(), second.requests()), (10, 0));
    assert_eq!(
        proxy.post("k").await.status().as_u16(),
        200,
        "an open breaker is another matter: nothing was sent"
    );
    assert_eq!(second.requests(), 1);
}

#[tokio::test]
async fn requests_go_only_to_providers_that_take_them_and_a_thing_keeps_its_provider() {
    let (first, second) = (upstream("first"), upstream("second"));
    let port = free_port();
    let mut bbd = dependency(
        port,
        &[&first, &second],
        &json!({ "pin": { "header": "X-Order-Id" } }),
    );
    bbd["providers"][0]["accepts"] = json!({ "header": "X-Payment-Method", "values": ["card"] });
    bbd["providers"][0]["credentials"] =
        json!({ "secretName": "midtrans", "key": "key", "prefix": "Bearer " });
    bbd["providers"][0]["headers"] = json!({ "x-tenant": "mrg" });
    let proxy = Proxy::with(
        &json!({ "workload": "payment", "dependencies": [bbd] }),
        port,
    )
    .await;
    let pay = async |method: &str, order: &str| {
        let answer = proxy
            .send(
                Method::POST,
                "/pay",
                &[("x-payment-method", method), ("x-order-id", order)],
                "{}",
            )
            .await;
        (
            answer.status().as_u16(),
            answer
                .headers()
                .get("x-mrg-provider")
                .map(|name| name.to_str().unwrap().to_owned()),
        )
    };
    assert_eq!(pay("card", "1").await, (200, Some("p0".to_owned())));
    assert_eq!(first.last()["headers"]["authorization"], "Bearer s3cr3t");
    assert_eq!(first.last()["headers"]["x-tenant"], "mrg");
    assert_eq!(pay("wallet", "2").await, (200, Some("p1".to_owned())));
    first.fail(status(500));
    for _ in 0..10 {
        pay("card", "1").await;
    }
    assert_eq!(
        pay("card", "3").await,
        (200, Some("p1".to_owned())),
        "a new order goes to the second"
    );
    assert_eq!(
        pay("card", "1").await.0,
        503,
        "the first order is known to the first provider alone"
    );
    assert_eq!(pay("card", "3").await, (200, Some("p1".to_owned())));
}

#[tokio::test]
async fn a_provider_whose_health_check_fails_is_tried_last() {
    let (first, second) = (upstream("first"), upstream("second"));
    let port = free_port();
    let mut bbd = dependency(port, &[&first, &second], &json!({}));
    bbd["providers"][0]["healthCheck"] =
        json!({ "path": "/status", "interval": "100ms", "timeout": "100ms", "threshold": 2 });
    let proxy = Proxy::with(
        &json!({ "workload": "payment", "dependencies": [bbd] }),
        port,
    )
    .await;
    assert_eq!(proxy.post("k").await.headers()["x-mrg-provider"], "p0");
    first.fail(status(500));
    until("it is known to be unwell", || async {
        proxy.state().await["dependencies"][0]["providers"][0]["unhealthy"] == true
    })
    .await;
    assert_eq!(proxy.post("k").await.headers()["x-mrg-provider"], "p1");
    first.fail(Faults::default());
    until("it is well again", || async {
        proxy.post("k").await.headers()["x-mrg-provider"] == "p0"
    })
    .await;
}
