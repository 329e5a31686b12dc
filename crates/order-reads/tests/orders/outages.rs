//! Places that fail, hang, lag or lie.

use std::time::{Duration, Instant};

use crate::harness::{Service, World, connect, eventually};
use crate::{DAY, MINUTE};

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

    the_leader_has_two_places(&world, &service).await;
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

/// Whatever comes: the rest is turned away at once, or gets what the standby had.
async fn the_leader_has_two_places(world: &World, service: &Service) {
    let many = futures::future::join_all((0..200).map(|n: u128| {
        let path = format!(
            "/orders/{}/history",
            uuid::Uuid::from_u128(0x4000_8000_0000_0000_0000 + n)
        );
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
    world.primary.signal_all("STOP");
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
    world.primary.signal_all("CONT");
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
    let all_right = async |what: &str| answers_are_right(&service, &paths, what).await;
    all_right("well").await;
    lying_copies_are_not_believed(&world, &service, &paths, other).await;
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

type Paths = [(String, uuid::Uuid); 2];

async fn answers_are_right(service: &Service, paths: &Paths, what: &str) {
    for (path, id) in paths {
        for _ in 0..5 {
            let answer = service.get(path).await;
            assert_eq!(answer.status, 200, "{what}: {answer:?}");
            assert_eq!(answer.body["id"], id.to_string(), "{what}: {answer:?}");
            assert_eq!(answer.body["detail"]["fare"], 45000, "{what}: {answer:?}");
        }
    }
}

/// Another order's copy, garbage, the wrong type, a copy from the future.
async fn lying_copies_are_not_believed(
    world: &World,
    service: &Service,
    paths: &Paths,
    other: uuid::Uuid,
) {
    service.get(&format!("/orders/{other}/history")).await;
    let copy_of_another = world.redis_cli(&["HGET", &format!("mrg:order:{other}"), "d"]);
    assert!(copy_of_another.contains("eve"));
    let (_, ended) = &paths[1];
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
        for (_, id) in paths {
            world.redis_cli(&["HSET", &format!("mrg:order:{id}"), "v", "1", "d", lie]);
        }
        for (path, id) in paths {
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
}
