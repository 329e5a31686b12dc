//! Orders that move to the archive.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::DAY;
use crate::harness::{Service, World, connect};

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
    assert!(
        archive(&world).success() && archive(&world).success(),
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

    pages_hold_each_order_once(&service).await;
    the_archive_alone_answers(&world, &service, &old).await;
}

fn archive(world: &World) -> ExitStatus {
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
}

/// Page by page, through both tables, each order once, newest first.
async fn pages_hold_each_order_once(service: &Service) {
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
}

/// Without any database the id itself says where to look; a damaged part is an error with a reason,
/// not a loop.
async fn the_archive_alone_answers(world: &World, service: &Service, old: &[uuid::Uuid]) {
    world.primary.signal_all("STOP");
    world.standby.signal_all("STOP");
    assert_eq!(
        service.line(&format!("/orders/{}/history", old[50])).await,
        "200 archive completed"
    );
    world.primary.signal_all("CONT");
    world.standby.signal_all("CONT");
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

fn walk(folder: &Path) -> Vec<PathBuf> {
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
