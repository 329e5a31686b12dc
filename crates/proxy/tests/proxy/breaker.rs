//! Breakers: what counts against an upstream, when it is refused, and how it comes back.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::harness::{Proxy, dependency, status, until, upstream};
use crate::server::Faults;

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
