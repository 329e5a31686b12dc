//! Where answers come from while every place is well.

use std::time::{Duration, Instant};

use crate::harness::{Service, World, connect, eventually};
use crate::{DAY, MINUTE};

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
        "a caller that does not know which it is asks without saying"
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

    changes_are_seen_at_once(&world, &service, active).await;
    assert_eq!(service.count("order_detail_malformed_total").await, 0);
    assert!(
        service
            .metric("order_detail_cache_hit_rate{type=\"history\"}")
            .await
            > 0.0
    );
}

/// The change is told: the very next question gets the new state, long before the copy would have
/// ended.
async fn changes_are_seen_at_once(world: &World, service: &Service, active: uuid::Uuid) {
    world
        .sql(&format!(
            "UPDATE orders SET state = 'picked_up' WHERE id = '{active}'"
        ))
        .await;
    let path = format!("/orders/{active}/active");
    let path = &path;
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
