//! Questions and rows that make no sense.

use std::process::Command;

use crate::DAY;
use crate::harness::{Service, World};

#[tokio::test]
async fn malformed_questions_are_the_caller_s_fault_and_malformed_rows_are_passed_over() {
    let world = World::start().await;
    let fine = world.order("ana", "completed", DAY).await;
    let odd = world.order("ana", "completed", DAY).await;
    world
        .sql(&format!("UPDATE orders SET created_at = '-infinity', updated_at = 'infinity', detail = '[1, \"x\"]' WHERE id = '{odd}'"))
        .await;
    world.sql("INSERT INTO orders (id, customer, state, created_at) VALUES (gen_random_uuid(), 'ana', 'completed', '20000-01-01'), (gen_random_uuid(), 'ana', '', now())").await;
    world.caught_up().await;
    let service = world.serve("all", &[]).await;
    malformed_questions_are_refused(&service).await;
    assert_eq!(
        service.get(&format!("/orders/{odd}/history")).await.status,
        200,
        "no date is no reason to fail"
    );
    let list = service.get("/orders/history?customer=ana").await;
    assert_eq!(list.status, 200);
    let ids: Vec<&str> = list.body["orders"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [fine.to_string()], "{list:?}");
    assert_eq!(service.get("/orders/active?customer=ana").await.status, 200);
    malformed_options_are_refused();
}

async fn malformed_questions_are_refused(service: &Service) {
    for (path, field) in [
        ("/orders/42/active", "id: `42` is no order's id"),
        ("/orders/%00/history", "id: "),
        ("/orders/019aa1c07c1e7b5a9d5e3f6f0a4c2b11", "id: "),
        ("/orders/history", "customer: "),
        ("/orders/history?customer=", "customer: "),
        ("/orders/history?customer=ana&cursor=zzz", "cursor: "),
        (
            "/orders/history?customer=ana&limit=0",
            "limit: `0` is not a number from 1 to 200",
        ),
        (
            "/orders/history?customer=ana&limit=9999999999999999999999",
            "limit: ",
        ),
        (
            "/orders/active?customer=ana&offset=5",
            "offset: there is no such parameter",
        ),
    ] {
        let answer = service.get(path).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert!(
            answer.body["detail"].as_str().unwrap().starts_with(field),
            "{path}: {answer:?}"
        );
    }
}

fn malformed_options_are_refused() {
    for (wrong, says) in [
        ("--active-ttl=5s", "not between 10s and 30s"),
        ("--history-ttl=48h", "not between 3600s and 86400s"),
        (
            "--archive-url=gs://x",
            "give file:///PATH or s3://BUCKET/PREFIX",
        ),
        (
            "--primary-dsn=nonsense",
            "ORDERS_PRIMARY_DSN is not a connection string",
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mrg-orders"));
        command.arg("serve").arg(wrong);
        if !wrong.contains("primary") {
            command.arg("--primary-dsn=host=127.0.0.1");
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(says),
            "{wrong}: {said}"
        );
    }
}
