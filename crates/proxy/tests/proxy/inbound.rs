//! The inbound side: what the workload is given, and how it is left.

use std::process::{Command, Stdio};

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use crate::harness::{Proxy, dependency, free_port, upstream};
use crate::server::Faults;

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
        "a caller without a token displaces no other"
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
