//! Calls, and upstreams that fail in every way.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::{Proxy, dependency, free_port, spawn, status, until, upstream};
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
async fn the_tenth_failure_of_ten_opens_three_probes_pass_and_three_successes_close() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(&[&bbd], json!({})).await;
    bbd.fail(status(500));
    for _ in 0..9 {
        assert_eq!(
            proxy.post("k").await.status(),
            StatusCode::INTERNAL_SERVER_ERROR
        );
        assert_eq!(proxy.breaker(0).await, "Closed");
    }
    assert_eq!(
        proxy.post("k").await.status(),
        StatusCode::INTERNAL_SERVER_ERROR
    );
    let refused = proxy.post("k").await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["x-mrg-reason"], "BreakerOpen");
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(
        refused.headers()["content-type"],
        "application/problem+json"
    );
    assert_eq!(bbd.requests(), 10);
    // Half-open: three are let through, however many come.
    bbd.fail(Faults {
        slow: 200,
        ..Faults::default()
    });
    sleep(Duration::from_millis(350)).await;
    let proxy = &proxy;
    let answers = futures::future::join_all((0..20).map(|_| proxy.post("k"))).await;
    assert_eq!(
        answers
            .iter()
            .filter(|answer| answer.status() == StatusCode::OK)
            .count(),
        3
    );
    assert_eq!(bbd.requests(), 13);
    until("the breaker closes", || async {
        proxy.breaker(0).await == "Closed"
    })
    .await;
}

#[tokio::test]
async fn every_way_to_fail_counts_and_what_the_caller_causes_does_not() {
    for (faults, counts) in [
        (
            Faults {
                refuse: true,
                ..Faults::default()
            },
            true,
        ),
        (
            Faults {
                hang: true,
                ..Faults::default()
            },
            true,
        ),
        (
            Faults {
                reset: true,
                ..Faults::default()
            },
            true,
        ),
        (
            Faults {
                half_body: true,
                ..Faults::default()
            },
            true,
        ),
        (
            Faults {
                stall_body: true,
                ..Faults::default()
            },
            false,
        ),
        (status(503), true),
        (status(501), false),
        (status(404), false),
        (status(429), false),
    ] {
        let bbd = upstream("bbd");
        let proxy = Proxy::start(&[&bbd], json!({})).await;
        bbd.fail(faults.clone());
        sleep(Duration::from_millis(20)).await;
        let calls = (0..10).map(|_| async {
            timeout(Duration::from_millis(900), proxy.post("k").await.bytes()).await
        });
        futures::future::join_all(calls).await;
        let opened = proxy.breaker(0).await == "Open";
        assert_eq!(opened, counts, "{faults:?}");
    }
}

#[tokio::test]
async fn callers_that_go_away_say_nothing_about_the_upstream_and_leave_no_permit_behind() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(
        &[&bbd],
        json!({ "timeout": { "attempt": "20s", "total": "20s" } }),
    )
    .await;
    bbd.fail(Faults {
        hang: true,
        ..Faults::default()
    });
    for _ in 0..12 {
        assert!(
            timeout(Duration::from_millis(30), proxy.post("k"))
                .await
                .is_err()
        );
    }
    until("nothing is under way", || async {
        proxy.state().await["dependencies"][0]["inFlight"] == 0
    })
    .await;
    assert_eq!(proxy.breaker(0).await, "Closed");
    let counts = &proxy.state().await["dependencies"][0]["providers"][0]["counts"];
    assert_eq!(counts["exclusions"], 12, "{counts}");
}

#[tokio::test]
async fn a_half_open_breaker_whose_probes_hang_lets_others_through_in_time() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(&[&bbd], json!({})).await;
    bbd.fail(status(500));
    for _ in 0..10 {
        proxy.post("k").await;
    }
    // Bodies that never end hold the permits.
    bbd.fail(Faults {
        stall_body: true,
        ..Faults::default()
    });
    sleep(Duration::from_millis(350)).await;
    let proxy = &proxy;
    let probes = futures::future::join_all((0..3).map(|_| proxy.post("k"))).await;
    until("their time is over", || async {
        proxy.breaker(0).await == "Closed"
    })
    .await;
    drop(probes);
}

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
async fn a_pushed_configuration_is_acknowledged_by_its_hash_and_keeps_the_breakers_state() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(&[&bbd], json!({ "breaker": { "timeout": "60s" } })).await;
    bbd.fail(status(500));
    for _ in 0..10 {
        proxy.post("k").await;
    }
    assert_eq!(proxy.breaker(0).await, "Open");
    let wanted = dependency(
        proxy.port,
        &[&bbd],
        &json!({ "breaker": { "timeout": "60s" }, "timeout": { "total": "3s" } }),
    );
    let config = json!({ "workload": "tpg", "dependencies": [wanted] });
    let answer = proxy.push(&config).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(
        proxy.state().await["configHash"],
        answer.text().await.unwrap()
    );
    assert_eq!(proxy.breaker(0).await, "Open");

    let mut wrong = config.clone();
    wrong["dependencies"][0]["timeout"]["attempt"] = json!("10ms");
    let refused = proxy.push(&wrong).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let why = refused.text().await.unwrap();
    assert!(
        why.contains(
            "dependencies[0].timeout.attempt: 10ms is shorter than timeout.connect, 200ms"
        ),
        "{why}"
    );
    assert_eq!(proxy.state().await["refused"], why);
    assert_eq!(
        proxy.post("k").await.status().as_u16(),
        503,
        "the last good one goes on"
    );

    let unauthorized = proxy
        .client
        .put(format!("http://127.0.0.1:{}/config", proxy.admin))
        .body("{}")
        .send()
        .await
        .unwrap();
    assert_eq!(unauthorized.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn pushes_under_load_lose_no_request_and_ports_come_and_go() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(&[&bbd], json!({})).await;
    let other = free_port();
    let load = async {
        let mut served = 0;
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            assert_eq!(proxy.get("/x").await.status().as_u16(), 200);
            served += 1;
        }
        served
    };
    let pushes = async {
        for number in 0..20 {
            let total = format!("{}s", 2 + number);
            let mut config = json!({ "workload": "tpg", "dependencies": [dependency(proxy.port, &[&bbd], &json!({ "timeout": { "total": total } }))] });
            if number % 2 == 0 {
                let mut second = dependency(other, &[&bbd], &json!({}));
                second["name"] = json!("second");
                config["dependencies"].as_array_mut().unwrap().push(second);
            }
            assert_eq!(proxy.push(&config).await.status(), StatusCode::OK);
            sleep(Duration::from_millis(80)).await;
        }
    };
    let (served, ()) = tokio::join!(load, pushes);
    assert!(served > 100, "{served}");
    assert!(
        proxy
            .client
            .get(format!("http://127.0.0.1:{other}/"))
            .send()
            .await
            .is_err(),
        "the second dependency is gone"
    );
}

#[tokio::test]
async fn a_forced_breaker_refuses_until_its_moment() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(&[&bbd], json!({})).await;
    let until_then = jiff::Timestamp::now() + Duration::from_millis(1500);
    let config = json!({
        "workload": "tpg", "dependencies": [dependency(proxy.port, &[&bbd], &json!({}))],
        "overrides": [{ "dependency": "bbd", "state": "Open", "reason": "INC-42", "until": until_then.to_string() }],
    });
    assert_eq!(proxy.push(&config).await.status(), StatusCode::OK);
    assert_eq!(
        proxy.post("k").await.headers()["x-mrg-reason"],
        "BreakerOpen"
    );
    assert_eq!(
        proxy.state().await["dependencies"][0]["providers"][0]["forced"],
        "Open"
    );
    until("it is over", || async {
        proxy.post("k").await.status().as_u16() == 200
    })
    .await;
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

#[tokio::test]
async fn the_workload_gets_no_more_than_it_can_take() {
    let workload = upstream("workload");
    let inbound = free_port();
    let config = json!({
        "workload": "tpg",
        "inbound": { "port": inbound, "targetPort": workload.address().port(), "maxConcurrent": 3, "timeout": "300ms" },
    });
    let proxy = Proxy::with(&config, inbound).await;
    let seen: Value = proxy.get("/x").await.json().await.unwrap();
    assert_eq!(
        seen["headers"]["host"],
        format!("127.0.0.1:{inbound}"),
        "the name by which it was called"
    );
    workload.fail(Faults {
        slow: 100,
        ..Faults::default()
    });
    let all = &proxy;
    let answers = futures::future::join_all((0..10).map(|_| all.get("/x"))).await;
    assert_eq!(
        answers
            .iter()
            .filter(|answer| answer.status() == StatusCode::OK)
            .count(),
        3
    );
    workload.fail(Faults {
        hang: true,
        ..Faults::default()
    });
    assert_eq!(proxy.get("/x").await.status().as_u16(), 504);
}

#[tokio::test]
async fn before_the_pod_stops_callers_are_served_and_sent_elsewhere_for_their_next_request() {
    let workload = upstream("workload");
    let (inbound, outbound) = (free_port(), free_port());
    let mut config = json!({ "workload": "tpg", "dependencies": [dependency(outbound, &[&workload], &json!({}))] });
    config["inbound"] = json!({ "port": inbound, "targetPort": workload.address().port() });
    let proxy = Proxy::with(&config, inbound).await;
    let closes = |answer: &Response| {
        answer
            .headers()
            .get("connection")
            .is_some_and(|value| value == "close")
    };
    let h2 = Client::builder().http2_prior_knowledge().build().unwrap();
    let by_h2 = async || {
        h2.get(format!("http://127.0.0.1:{inbound}/x"))
            .send()
            .await
            .unwrap()
            .status()
    };
    assert!(!closes(&proxy.get("/x").await));
    assert_eq!(by_h2().await, StatusCode::OK);
    let drain = |token: std::path::PathBuf| {
        let admin = format!("http://127.0.0.1:{}", proxy.admin);
        Command::new(env!("CARGO_BIN_EXE_mrg-proxy"))
            .args(["drain", "--admin", &admin, "--token-file"])
            .arg(token)
            .stderr(Stdio::null())
            .status()
            .unwrap()
    };
    let wrong = proxy.directory.path().join("wrong");
    std::fs::write(&wrong, "guess").unwrap();
    assert!(!drain(wrong).success());
    assert!(
        !closes(&proxy.get("/x").await),
        "whoever has no token sends nobody away"
    );
    assert!(drain(proxy.directory.path().join("token")).success());
    for _ in 0..2 {
        let answer = proxy.get("/x").await;
        assert!(answer.status() == StatusCode::OK && closes(&answer));
        assert_eq!(by_h2().await, StatusCode::OK);
    }
    let own = proxy
        .client
        .get(format!("http://127.0.0.1:{outbound}/x"))
        .send()
        .await
        .unwrap();
    assert!(
        own.status() == StatusCode::OK && !closes(&own),
        "the workload's own calls go on"
    );
    assert_eq!(proxy.state().await["draining"], true);
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
