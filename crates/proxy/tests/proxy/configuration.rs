//! Configurations that are pushed.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::harness::{Proxy, dependency, free_port, status, upstream};

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
