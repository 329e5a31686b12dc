use super::*;
use crate::head::Head;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};

fn item(key: &str) -> Item {
    let head = Head {
        method: Method::POST,
        path: PathAndQuery::from_static("/orders"),
        headers: HeaderMap::new(),
        grpc: false,
    };
    Item::new(
        "tpg",
        "bbd",
        key,
        &head,
        Bytes::from_static(b"{}"),
        Status::Waiting,
    )
}

fn limits() -> Limits {
    serde_json::from_str(r#"{"idempotencyHeader": "idempotency-key"}"#).unwrap()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_crash_and_a_torn_line_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path()).await.unwrap();
    for key in ["a", "b", "c"] {
        log.put(&item(key), 10).await.unwrap();
    }
    log.settle(&item("a").ticket, Status::Done, None, "200")
        .await
        .unwrap();
    let claimed = log.claim("bbd", &limits()).await.unwrap().unwrap();
    assert_eq!(claimed.key, "b");
    drop(log);
    let path = directory.path().join("queue.log");
    let mut text = std::fs::read(&path).unwrap();
    text.extend(br#"{"Put": {"ticket": "torn"#);
    std::fs::write(&path, text).unwrap();
    let log = Log::open(directory.path()).await.unwrap();
    let statuses: Vec<(String, Status)> = log
        .list()
        .into_iter()
        .map(|item| (item.key, item.status))
        .collect();
    assert!(statuses.contains(&("a".to_owned(), Status::Done)));
    assert!(
        statuses.contains(&("b".to_owned(), Status::NeedsReview)),
        "it was being sent: {statuses:?}"
    );
    assert!(statuses.contains(&("c".to_owned(), Status::Waiting)));
    assert_eq!(statuses.len(), 3);
}

#[tokio::test]
async fn the_same_key_has_the_same_ticket_and_a_full_queue_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path()).await.unwrap();
    let first = log.put(&item("a"), 1).await.unwrap();
    assert_eq!(log.put(&item("a"), 1).await.unwrap(), first);
    assert_eq!(log.put(&item("b"), 1).await.unwrap(), Enqueued::Full);
}

#[tokio::test]
async fn lines_that_cannot_be_read_are_kept_aside() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(
        directory.path().join("queue.log"),
        "what is this\nand this\n",
    )
    .unwrap();
    let log = Log::open(directory.path()).await.unwrap();
    assert!(log.list().is_empty());
    assert_eq!(
        std::fs::read_to_string(directory.path().join("queue.log.unreadable")).unwrap(),
        "what is this\nand this\n"
    );
}

#[tokio::test]
async fn a_log_of_much_that_is_over_is_written_anew() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = Log::open(directory.path()).await.unwrap();
    log.put(&item("a"), 10).await.unwrap();
    log.lines = SLACK + 1;
    log.put(&item("b"), 10).await.unwrap();
    log.put(&item("c"), 10).await.unwrap();
    drop(log);
    assert_eq!(Log::open(directory.path()).await.unwrap().list().len(), 3);
}
