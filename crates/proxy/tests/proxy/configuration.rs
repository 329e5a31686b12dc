//! Configurations that are pushed.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::harness::{Proxy, dependency, free_port, status, until, upstream};

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
async fn a_rotated_secret_is_taken_up_and_one_that_comes_late_too() {
    let bbd = upstream("bbd");
    let mut wanted = dependency(free_port(), &[&bbd], &json!({}));
    let port = u16::try_from(wanted["port"].as_u64().unwrap()).unwrap();
    wanted["providers"][0]["credentials"] =
        json!({ "secretName": "midtrans", "key": "key", "prefix": "Bearer " });
    let config = json!({ "workload": "tpg", "dependencies": [wanted] });
    let proxy = Proxy::with(&config, port).await;
    let secret = proxy.directory.path().join("secrets/midtrans");
    let sent = async || {
        proxy.get("/x").await;
        bbd.last()["headers"]["authorization"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(sent().await, "Bearer s3cr3t");
    std::fs::write(secret.join("key"), "second\n").unwrap();
    until("the new key is sent", async || {
        sent().await == "Bearer second"
    })
    .await;

    let mut later = config.clone();
    later["dependencies"][0]["providers"][0]["credentials"]["key"] = json!("later");
    let refused = proxy.push(&later).await;
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(sent().await, "Bearer second", "the last good one goes on");
    std::fs::write(secret.join("later"), "third\n").unwrap();
    until("what was refused is tried again", async || {
        sent().await == "Bearer third"
    })
    .await;
    assert!(proxy.state().await["refused"].is_null());
}

#[tokio::test]
async fn a_file_from_before_a_push_does_not_come_back() {
    let bbd = upstream("bbd");
    let port = free_port();
    let config = |most: u32| {
        let more = json!({ "maxConcurrent": most });
        json!({ "workload": "tpg", "dependencies": [dependency(port, &[&bbd], &more)] })
    };
    let proxy = Proxy::with(&config(1), port).await;
    let runs = async || {
        let url = format!("http://127.0.0.1:{}/config", proxy.admin);
        let answer = proxy.client.get(url).send().await.unwrap();
        let config: serde_json::Value = answer.json().await.unwrap();
        config["dependencies"][0]["maxConcurrent"].as_u64().unwrap()
    };
    for most in [2, 3] {
        assert_eq!(proxy.push(&config(most)).await.status(), StatusCode::OK);
    }
    let file = proxy.directory.path().join("proxy.json");
    std::fs::write(&file, config(2).to_string()).unwrap();
    sleep(Duration::from_secs(7)).await;
    assert_eq!(runs().await, 3, "the kubelet was late");
    std::fs::write(&file, config(4).to_string()).unwrap();
    until("a new file is taken", async || runs().await == 4).await;
}
