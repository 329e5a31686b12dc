//! `mrg-orders` against real PostgreSQL and real Redis: where answers come from, and what happens
//! when those places fail, lag or lie.
//!
//! Needs root (PostgreSQL runs as the user `postgres`), PostgreSQL 15 and Redis from Debian; `./dev
//! test` brings both.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends with the first surprise"
)]

mod harness;

use std::process::Command;
use std::time::{Duration, Instant};

use harness::{World, connect, eventually};

const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn orders_under_way_come_from_the_leader_and_the_rest_does_not() {
    let world = World::start().await;
    let active = world.order("ana", "ongoing", MINUTE).await;
    let ended = world.order("ana", "completed", DAY).await;
    world.caught_up().await;
    let service = world.serve("all", &[]).await;

    assert_eq!(
        service.line(&format!("/orders/{active}/active")).await,
        "200 primary ongoing"
    );
    assert_eq!(
        service.line(&format!("/orders/{active}/active")).await,
        "200 cache ongoing"
    );
    assert_eq!(
        service.line(&format!("/orders/{ended}/history")).await,
        "200 replica completed"
    );
    assert_eq!(
        service.line(&format!("/orders/{ended}/history")).await,
        "200 cache completed"
    );
    assert_eq!(
        service.line(&format!("/orders/{ended}")).await,
        "200 cache completed",
        "whoever does not know which it is, asks without saying"
    );
    let wrong = service.get(&format!("/orders/{ended}/active")).await;
    assert_eq!(wrong.status, 404);
    assert!(
        wrong.body["detail"]
            .as_str()
            .unwrap()
            .contains(&format!("GET /orders/{ended}/history")),
        "{wrong:?}"
    );
    assert_eq!(
        service
            .line(&format!("/orders/{}/history", uuid::Uuid::from_u128(5)))
            .await,
        "404  "
    );

    // The change is told: the very next question gets the new state, long before the copy would
    // have ended.
    world
        .sql(&format!(
            "UPDATE orders SET state = 'picked_up' WHERE id = '{active}'"
        ))
        .await;
    let path = format!("/orders/{active}/active");
    let (service, path) = (&service, &path);
    let changed = Instant::now();
    eventually("the change is seen", || async move {
        service.line(path).await.ends_with("picked_up")
    })
    .await;
    assert!(
        changed.elapsed() < Duration::from_secs(5),
        "told, not timed out: {:?}",
        changed.elapsed()
    );
    world
        .sql(&format!(
            "UPDATE orders SET state = 'completed' WHERE id = '{active}'"
        ))
        .await;
    eventually("and the end", || async move {
        service.get(path).await.status == 404
    })
    .await;
    assert!(
        service
            .line(&format!("/orders/{active}/history"))
            .await
            .ends_with("completed")
    );
    let refused = connect("postgres", world.primary_port)
        .await
        .batch_execute(&format!(
            "UPDATE orders SET state = 'ongoing' WHERE id = '{active}'"
        ))
        .await;
    assert!(
        refused.is_err(),
        "a final state is final, in the database itself"
    );
    assert_eq!(service.count("order_detail_malformed_total").await, 0);
    assert!(
        service
            .metric("order_detail_cache_hit_rate{type=\"history\"}")
            .await
            > 0.0
    );
}

#[tokio::test]
async fn five_hundred_who_ask_the_same_cost_the_leader_one_question() {
    let world = World::start().await;
    let id = world.order("ana", "ongoing", MINUTE).await;
    let service = world.serve("active", &[]).await;
    let before = service
        .metric("order_detail_answers_total{type=\"active\",source=\"primary\"}")
        .await;
    world.redis_cli(&["CLIENT", "PAUSE", "30"]);
    let path = format!("/orders/{id}/active");
    let answers = futures::future::join_all((0..500).map(|_| service.line(&path))).await;
    assert!(
        answers.iter().all(|line| line.starts_with("200 ")),
        "{:?}",
        answers.iter().find(|line| !line.starts_with("200 "))
    );
    let shared = service.metric("order_detail_shared_total").await;
    let asked = service
        .metric("order_detail_answers_total{type=\"active\",source=\"primary\"}")
        .await
        - before
        - shared;
    assert!(
        shared > 100.0 && asked < 20.0,
        "{shared} shared an answer, {asked} asked the leader"
    );
}

#[tokio::test]
async fn a_standby_that_lags_is_not_believed_and_the_leader_has_few_places() {
    let world = World::start().await;
    let service = world.serve("history", &["--maximum-lag", "1s"]).await;
    let standby = connect("postgres", world.standby_port).await;
    standby
        .batch_execute("SELECT pg_wal_replay_pause()")
        .await
        .unwrap();
    let id = world.order("ana", "ongoing", MINUTE).await;
    world
        .sql(&format!(
            "UPDATE orders SET state = 'completed' WHERE id = '{id}'"
        ))
        .await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let answer = service.get(&format!("/orders/{id}/history")).await;
    assert_eq!(
        (answer.status, answer.source.as_str()),
        (200, "primary"),
        "{answer:?}"
    );
    let list = service.get("/orders/history?customer=ana").await;
    assert_eq!(
        (list.status, list.source.as_str()),
        (200, "primary"),
        "{list:?}"
    );
    assert!(service.metric("order_detail_replica_lag_seconds").await > 1.0);

    // Two places at the leader, whatever comes: the rest is turned away at once, or gets what the
    // standby had.
    let many = futures::future::join_all((0..200).map(|n: u128| {
        let path = format!(
            "/orders/{}/history",
            uuid::Uuid::from_u128(0x4000_8000_0000_0000_0000 + n)
        );
        let service = &service;
        async move { service.get(&path).await.status }
    }))
    .await;
    assert!(
        many.iter().all(|status| [404, 503].contains(status)) && many.contains(&503),
        "{many:?}"
    );
    let connections: i64 = connect("postgres", world.primary_port)
        .await
        .query_one("SELECT count(*) FROM pg_stat_activity WHERE usename = 'mrg_orders_history' AND backend_type = 'client backend'", &[])
        .await
        .unwrap()
        .get(0);
    assert!(
        connections <= 4,
        "two places, the sampler, and the one that hears changes; not {connections}"
    );
    standby
        .batch_execute("SELECT pg_wal_replay_resume()")
        .await
        .unwrap();
    world.caught_up().await;
    let service = &service;
    let older = world.order("ana", "failed", DAY).await;
    world.caught_up().await;
    eventually("the standby is believed again", || async move {
        service.line(&format!("/orders/{older}/history")).await != "200 primary failed"
    })
    .await;
}

#[tokio::test]
async fn the_leader_hangs_and_no_reader_notices() {
    let world = World::start().await;
    let (seen, unseen) = (
        world.order("ana", "ongoing", MINUTE).await,
        world.order("ana", "assigned", MINUTE).await,
    );
    world.caught_up().await;
    let service = world.serve("active", &[]).await;
    assert_eq!(
        service.line(&format!("/orders/{seen}/active")).await,
        "200 primary ongoing"
    );
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let hung = Command::new("pkill")
        .args(["-STOP", "-P", &world.primary.0.id().to_string()])
        .status()
        .unwrap();
    assert!(hung.success());
    world.primary.signal("STOP");
    let began = Instant::now();
    assert_eq!(
        service.line(&format!("/orders/{unseen}/active")).await,
        "200 replica assigned"
    );
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "{:?}",
        began.elapsed()
    );
    // Copies are not trusted while nothing is heard, and still better than nothing.
    tokio::time::sleep(Duration::from_secs(7)).await;
    let answer = service.get(&format!("/orders/{seen}/active")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_ne!(answer.staleness, "0.000", "{answer:?}");
    assert_eq!(service.count("order_detail_changes_heard").await, 0);
    Command::new("pkill")
        .args(["-CONT", "-P", &world.primary.0.id().to_string()])
        .status()
        .unwrap();
    world.primary.signal("CONT");
    let service = &service;
    eventually("changes are heard again", || async move {
        service.count("order_detail_changes_heard").await == 1
    })
    .await;
    eventually("and the leader answers", || async move {
        service.line(&format!("/orders/{unseen}/active")).await == "200 primary assigned"
    })
    .await;
}

#[tokio::test]
async fn a_cache_that_is_gone_hangs_is_full_or_lies_costs_no_right_answer() {
    let mut world = World::start().await;
    let (active, ended) = (
        world.order("ana", "ongoing", MINUTE).await,
        world.order("ana", "completed", DAY).await,
    );
    let other = world.order("eve", "completed", DAY).await;
    world.caught_up().await;
    let service = world.serve("all", &[]).await;
    let paths = [
        (format!("/orders/{active}/active"), active),
        (format!("/orders/{ended}/history"), ended),
    ];
    let all_right = async |what: &str| {
        for (path, id) in &paths {
            for _ in 0..5 {
                let answer = service.get(path).await;
                assert_eq!(answer.status, 200, "{what}: {answer:?}");
                assert_eq!(answer.body["id"], id.to_string(), "{what}: {answer:?}");
                assert_eq!(answer.body["detail"]["fare"], 45000, "{what}: {answer:?}");
            }
        }
    };
    all_right("well").await;

    // Lying: another order's copy, garbage, the wrong type, a copy from the future.
    service.get(&format!("/orders/{other}/history")).await;
    let copy_of_another = world.redis_cli(&["HGET", &format!("mrg:order:{other}"), "d"]);
    assert!(copy_of_another.contains("eve"));
    let future = world
        .redis_cli(&["HGET", &format!("mrg:order:{ended}"), "d"])
        .replacen("\"at\":1", "\"at\":9", 1);
    for lie in [
        copy_of_another.as_str(),
        "",
        "null",
        "{\"at\":1}",
        "\u{1}\u{2}",
        &future,
    ] {
        for (_, id) in &paths {
            world.redis_cli(&["HSET", &format!("mrg:order:{id}"), "v", "1", "d", lie]);
        }
        for (path, id) in &paths {
            let answer = service.get(path).await;
            assert_eq!(
                (answer.status, answer.body["id"].as_str().unwrap()),
                (200, id.to_string().as_str()),
                "{lie}: {answer:?}"
            );
        }
    }
    assert!(
        service.metric("order_detail_malformed_total").await >= 8.0,
        "lies are counted"
    );
    for (_, id) in &paths {
        world.redis_cli(&["DEL", &format!("mrg:order:{id}")]);
        world.redis_cli(&["LPUSH", &format!("mrg:order:{id}"), "a list"]);
    }
    all_right("a key of another type").await;
    for (_, id) in &paths {
        world.redis_cli(&["DEL", &format!("mrg:order:{id}")]);
    }

    world.redis_cli(&["CONFIG", "SET", "maxmemory", "1"]);
    all_right("full").await;
    world.redis_cli(&["CONFIG", "SET", "maxmemory", "0"]);

    world.redis().signal("STOP");
    let began = Instant::now();
    all_right("hanging").await;
    assert!(
        began.elapsed() < Duration::from_millis(1_500),
        "ten answers waited for a cache that hangs: {:?}",
        began.elapsed()
    );
    world.redis().signal("CONT");
    world.redis = None;
    all_right("gone").await;
    world.start_redis(&[]).await;
    let (service, path) = (&service, &paths[1].0);
    eventually("the cache is used again", || async move {
        service.line(path).await == "200 cache completed"
    })
    .await;
}

#[tokio::test]
async fn old_orders_move_to_the_archive_and_are_found_there() {
    let world = World::start().await;
    let mut old = Vec::new();
    for day in 31..36 {
        for _ in 0..20 {
            old.push(world.order("ana", "completed", DAY * day).await);
        }
    }
    let running = world.order("ana", "ongoing", DAY * 40).await;
    let recent = world.order("ana", "completed", DAY * 29).await;
    let archive = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mrg-orders"));
        command.args([
            "archive",
            "--dsn",
            &World::dsn("mrg_orders_archiver", world.primary_port),
            "--batch",
            "30",
        ]);
        command
            .args([
                "--archive-url",
                &format!("file://{}", world.archive().display()),
            ])
            .status()
            .unwrap()
    };
    assert!(
        archive().success() && archive().success(),
        "a second run has nothing to do"
    );
    let client = connect("postgres", world.primary_port).await;
    let left: i64 = client
        .query_one("SELECT count(*) FROM orders", &[])
        .await
        .unwrap()
        .get(0);
    let kept: i64 = client
        .query_one("SELECT count(*) FROM orders_archived", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(
        (left, kept),
        (2, 100),
        "old ones moved; the running one and the recent one stay"
    );
    world.caught_up().await;

    let service = world.serve("history", &[]).await;
    for id in [old[0], old[99]] {
        let answer = service.get(&format!("/orders/{id}/history")).await;
        assert_eq!(
            (answer.status, answer.source.as_str()),
            (200, "archive"),
            "{answer:?}"
        );
        assert_eq!(answer.body["detail"]["fare"], 45000);
        assert_eq!(
            service.line(&format!("/orders/{id}/history")).await,
            "200 cache completed"
        );
    }
    assert!(
        service
            .line(&format!("/orders/{recent}/history"))
            .await
            .ends_with("replica completed")
    );
    assert_eq!(service.get(&format!("/orders/{running}")).await.status, 200);

    // Page by page, through both tables, each order once, newest first.
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = service
            .get(&format!("/orders/history?customer=ana&limit=17{cursor}"))
            .await;
        assert_eq!(page.status, 200, "{page:?}");
        seen.extend(page.body["orders"].as_array().unwrap().iter().map(|row| {
            (
                row["createdAt"].as_str().unwrap().to_owned(),
                row["id"].as_str().unwrap().to_owned(),
            )
        }));
        let Some(next) = page.body["next"].as_str() else {
            break;
        };
        cursor = format!("&cursor={next}");
    }
    let unique: std::collections::BTreeSet<_> = seen.iter().map(|(_, id)| id).collect();
    assert_eq!((seen.len(), unique.len()), (101, 101));
    assert!(
        seen.windows(2).all(|pair| pair[0].0 >= pair[1].0),
        "newest first"
    );

    // Without any database the id itself says where to look; a damaged part is an error with a
    // reason, not a loop.
    world.primary.signal("STOP");
    world.standby.signal("STOP");
    Command::new("pkill")
        .args(["-STOP", "-P", &world.standby.0.id().to_string()])
        .status()
        .unwrap();
    Command::new("pkill")
        .args(["-STOP", "-P", &world.primary.0.id().to_string()])
        .status()
        .unwrap();
    assert_eq!(
        service.line(&format!("/orders/{}/history", old[50])).await,
        "200 archive completed"
    );
    for id in [&world.primary, &world.standby] {
        id.signal("CONT");
        Command::new("pkill")
            .args(["-CONT", "-P", &id.0.id().to_string()])
            .status()
            .unwrap();
    }
    for entry in walk(&world.archive()) {
        std::fs::write(entry, "not parquet").unwrap();
    }
    let damaged = service.get(&format!("/orders/{}/history", old[70])).await;
    assert_eq!(damaged.status, 503, "{damaged:?}");
    assert!(
        damaged.body["detail"].as_str().unwrap().contains("part"),
        "{damaged:?}"
    );
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .flatten()
        .map(|entry| entry.path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                walk(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

#[tokio::test]
async fn an_archive_that_cannot_be_written_costs_no_order() {
    let world = World::start().await;
    world.order("ana", "completed", DAY * 31).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_mrg-orders"));
    command.args([
        "archive",
        "--dsn",
        &World::dsn("mrg_orders_archiver", world.primary_port),
    ]);
    assert!(
        !command
            .args(["--archive-url", "file:///dev/full"])
            .status()
            .unwrap()
            .success()
    );
    let left: i64 = connect("postgres", world.primary_port)
        .await
        .query_one("SELECT count(*) FROM orders", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(left, 1);
}

#[tokio::test]
async fn the_deployment_for_history_can_neither_write_nor_serve_what_is_under_way() {
    let world = World::start().await;
    let id = world.order("ana", "ongoing", MINUTE).await;
    world.caught_up().await;
    let service = world.serve("history", &[]).await;
    assert_eq!(
        service.get(&format!("/orders/{id}/active")).await.status,
        421
    );
    assert_eq!(service.get("/orders/active?customer=ana").await.status, 421);
    assert_eq!(
        service.line(&format!("/orders/{id}/history")).await,
        "404  "
    );
    for user in ["mrg_orders_history", "mrg_orders_active"] {
        let client = connect(user, world.primary_port).await;
        client
            .batch_execute("SET default_transaction_read_only = off")
            .await
            .unwrap();
        let refused = client
            .batch_execute("UPDATE orders SET state = 'failed'")
            .await
            .unwrap_err();
        assert!(
            refused
                .as_db_error()
                .unwrap()
                .message()
                .contains("permission denied"),
            "{refused:?}"
        );
    }
}

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
