//! A newer version beside the workload: its share of the requests, and what happens when it is bad
//! or not there.

use std::net::Ipv4Addr;

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Proxy, free_port, status, upstream};
use crate::server::{Faults, StandIn};

fn config(inbound: u16, workload: &StandIn, canary: Option<Value>) -> Value {
    let mut config = json!({ "workload": "fds", "inbound": { "port": inbound, "targetPort": workload.address().port() } });
    if let Some(canary) = canary {
        config["inbound"]["canary"] = canary;
    }
    config
}

fn share(at: &str, share: u8) -> Value {
    json!({ "url": format!("http://{at}"), "share": share, "trial": format!("new-{share}") })
}

#[tokio::test]
async fn a_canary_gets_exactly_its_share_and_what_it_does_is_counted_beside_the_other() {
    let (old, new, inbound) = (upstream("old"), upstream("new"), free_port());
    let proxy = Proxy::with(&config(inbound, &old, None), inbound).await;
    assert_eq!(proxy.state().await["canary"], Value::Null);
    for percent in [10, 25, 50] {
        let (before_old, before_new) = (old.requests(), new.requests());
        let pushed = config(
            inbound,
            &old,
            Some(share(&new.address().to_string(), percent)),
        );
        assert_eq!(proxy.push(&pushed).await.status(), StatusCode::OK);
        for number in 0..200 {
            let answer = if number % 2 == 0 {
                proxy.get("/x").await
            } else {
                proxy.post(&format!("{percent}-{number}")).await
            };
            assert_eq!(answer.status(), StatusCode::OK);
        }
        let expected = u64::from(percent) * 2;
        assert_eq!(
            (new.requests() - before_new, old.requests() - before_old),
            (expected, 200 - expected)
        );
        let report = proxy.state().await["canary"].clone();
        assert_eq!(report["share"], percent);
        assert_eq!(report["trial"], format!("new-{percent}"));
        assert_eq!(
            report["canary"]["requests"], expected,
            "counted from zero in each step"
        );
        assert_eq!(report["stable"]["requests"], 200 - expected);
        assert_eq!(report["canary"]["failed"], 0);
        let counted: u64 = report["canary"]["latencies"]
            .as_array()
            .unwrap()
            .iter()
            .map(|count| count.as_u64().unwrap())
            .sum();
        assert_eq!(counted, expected);
    }
    let before = new.requests();
    assert_eq!(
        proxy.push(&config(inbound, &old, None)).await.status(),
        StatusCode::OK
    );
    for _ in 0..50 {
        assert_eq!(proxy.get("/x").await.status(), StatusCode::OK);
    }
    assert_eq!(new.requests(), before, "one field to go back");
}

#[tokio::test]
async fn a_bad_canary_harms_no_more_than_its_share_and_soon_nobody() {
    let (old, new, inbound) = (upstream("old"), upstream("new"), free_port());
    new.fail(status(500));
    let proxy = Proxy::with(
        &config(inbound, &old, Some(share(&new.address().to_string(), 50))),
        inbound,
    )
    .await;
    let mut failed = 0;
    for _ in 0..400 {
        failed += u32::from(proxy.get("/x").await.status() == StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(failed, 10, "until its breaker opened");
    let report = proxy.state().await["canary"].clone();
    assert_eq!(
        (
            report["opened"].as_u64(),
            report["canary"]["failed"].as_u64()
        ),
        (Some(1), Some(10)),
        "{report}"
    );
    assert_eq!(report["stable"]["failed"], 0);
}

#[tokio::test]
async fn a_canary_that_is_not_there_costs_nobody_an_error() {
    let (old, inbound, port) = (upstream("old"), free_port(), free_port());
    let proxy = Proxy::with(
        &config(inbound, &old, Some(share(&format!("127.0.0.1:{port}"), 50))),
        inbound,
    )
    .await;
    let sixty = async || {
        for number in 0..60 {
            let answer = if number % 2 == 0 {
                proxy.get("/x").await
            } else {
                proxy.post(&format!("{number}")).await
            };
            assert_eq!(answer.status(), StatusCode::OK);
        }
    };
    sixty().await;
    assert_eq!(old.requests(), 60);
    let report = proxy.state().await["canary"].clone();
    assert_eq!(
        (&report["opened"], &report["canary"]["requests"]),
        (&json!(0), &json!(0)),
        "it is not known on every node yet: {report}"
    );
    let new = StandIn::start("new", (Ipv4Addr::LOCALHOST, port).into()).unwrap();
    sixty().await;
    assert_eq!((old.requests(), new.requests()), (90, 30));
    new.fail(Faults {
        refuse: true,
        ..Faults::default()
    });
    for _ in 0..60 {
        proxy.get("/x").await;
    }
    assert!(
        old.requests() >= 140,
        "what was under way on a connection that breaks is not sent again: {}",
        old.requests()
    );
    assert_eq!(
        proxy.state().await["canary"]["opened"],
        1,
        "it has been there: it is no longer asked"
    );
}

#[tokio::test]
async fn a_canary_that_makes_no_sense_is_refused_and_the_last_configuration_kept() {
    let (old, inbound) = (upstream("old"), free_port());
    let proxy = Proxy::with(&config(inbound, &old, None), inbound).await;
    for (wrong, says) in [
        (
            json!({ "url": "http://x:1", "share": 101, "trial": "t" }),
            "is more than 100 percent",
        ),
        (
            json!({ "url": "https://x:1", "share": 10, "trial": "t" }),
            "is not of the form http://HOST:PORT",
        ),
        (
            json!({ "url": "http://x:1/base", "share": 10, "trial": "t" }),
            "is not of the form http://HOST:PORT",
        ),
        (json!({ "url": "x", "share": 10, "trial": "t" }), "url"),
    ] {
        let refused = proxy.push(&config(inbound, &old, Some(wrong))).await;
        assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
        let said = refused.text().await.unwrap();
        assert!(said.contains(says), "{said}");
    }
    assert_eq!(proxy.get("/x").await.status(), StatusCode::OK);
}

/// Two routes of reads, and the share of each that goes elsewhere.
fn routed(
    inbound: u16,
    old: &StandIn,
    (active, history): (&StandIn, &StandIn),
    share: u8,
) -> Value {
    let to = |server: &StandIn| json!({ "url": format!("http://{}", server.address()), "share": share, "trial": "split" });
    let mut config = config(inbound, old, None);
    config["inbound"]["routes"] = json!([
        { "paths": ["/orders/active", "/orders/{id}/active"], "to": to(active) },
        { "paths": ["/orders/history", "/orders/{id}/history"], "to": to(history) },
    ]);
    config
}

async fn who(proxy: &Proxy, path: &str) -> String {
    let answer: Value = proxy.get(path).await.json().await.unwrap();
    answer["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn reads_of_a_route_are_answered_elsewhere_and_counted_there() {
    let (old, active, history) = (upstream("old"), upstream("active"), upstream("history"));
    let inbound = free_port();
    let routed = |share| routed(inbound, &old, (&active, &history), share);
    let proxy = Proxy::with(&routed(100), inbound).await;
    for (path, expected) in [
        ("/orders/active", "active"),
        ("/orders/7/active", "active"),
        ("/orders/history?customer=ana", "history"),
        ("/orders/7/history", "history"),
        ("/orders/7", "old"),
        ("/carts/7", "old"),
    ] {
        assert_eq!(who(&proxy, path).await, expected, "{path}");
    }
    let written: Value = proxy
        .send(reqwest::Method::POST, "/orders/active", &[], "{}")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(
        written["name"], "old",
        "what is written goes where it always went"
    );
    let report = proxy.state().await["routes"].clone();
    assert_eq!(
        (
            &report[0]["canary"]["requests"],
            &report[1]["canary"]["requests"]
        ),
        (&json!(2), &json!(2)),
        "{report}"
    );

    assert_eq!(proxy.push(&routed(25)).await.status(), StatusCode::OK);
    let mut elsewhere = 0;
    for _ in 0..100 {
        elsewhere += u32::from(who(&proxy, "/orders/7/history").await == "history");
    }
    assert_eq!(elsewhere, 25);
    assert_eq!(
        proxy.state().await["routes"][1]["stable"]["requests"],
        75,
        "both are counted at the same place"
    );
}

#[tokio::test]
async fn reads_of_a_route_that_leads_nowhere_are_answered_by_the_workload() {
    let (old, active, history) = (upstream("old"), upstream("active"), upstream("history"));
    let (inbound, gone) = (free_port(), free_port());
    let mut config = routed(inbound, &old, (&active, &history), 100);
    let proxy = Proxy::with(&config, inbound).await;
    assert_eq!(who(&proxy, "/orders/7/history").await, "history");
    config["inbound"]["routes"][1]["to"]["url"] = json!(format!("http://127.0.0.1:{gone}"));
    assert_eq!(proxy.push(&config).await.status(), StatusCode::OK);
    for _ in 0..30 {
        assert_eq!(who(&proxy, "/orders/7/history").await, "old", "as before");
    }
    config["inbound"]["routes"][0]["paths"] = json!(["orders"]);
    let refused = proxy.push(&config).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        refused
            .text()
            .await
            .unwrap()
            .contains("does not begin with /")
    );
}
