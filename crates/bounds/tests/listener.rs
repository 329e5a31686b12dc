//! The bounds of a listener, tried by clients that break every rule.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use mrg_bounds::{Displaced, Limits, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

const SHORT: Duration = Duration::from_millis(200);

async fn start(limits: Limits) -> (SocketAddr, Displaced) {
    let router = Router::new()
        .route("/", get(|| async { "ok" }))
        .route("/panic", get(panics))
        .route("/slow", get(std::future::pending::<()>));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let displaced = Displaced::default();
    tokio::spawn(serve("test", listener, router, limits, displaced.clone()));
    (address, displaced)
}

async fn panics() -> &'static str {
    assert!(!std::hint::black_box(true), "a bug");
    "never"
}

/// Everything that comes until the connection is closed.
async fn rest(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let read = stream.read_to_end(&mut text);
    // A connection that is closed with bytes unread is reset.
    let _ = tokio::time::timeout(PATIENCE, read).await.unwrap();
    String::from_utf8_lossy(&text).into_owned()
}

async fn request(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    rest(stream).await
}

fn is_answered(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok")
}

#[tokio::test]
async fn a_handler_that_panics_answers_500_and_the_next_request_is_answered() {
    let (address, _) = start(Limits::default()).await;
    let answer = request(address, "/panic").await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert!(answer.contains("through a bug"), "{answer}");
    let answer = request(address, "/").await;
    assert!(is_answered(&answer), "{answer}");
}

#[tokio::test]
async fn a_client_that_does_not_send_a_whole_head_is_closed() {
    let limits = Limits {
        head_within: SHORT,
        ..Limits::default()
    };
    let (address, _) = start(limits).await;
    let silent = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n")
        .await
        .unwrap();
    assert_eq!(rest(silent).await, "");
    assert_eq!(rest(slow).await, "");
}

#[tokio::test]
async fn a_connection_on_which_no_request_follows_is_closed() {
    let limits = Limits {
        idle: SHORT,
        ..Limits::default()
    };
    let (address, _) = start(limits).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..2 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
    }
    let answers = rest(stream).await;
    assert_eq!(answers.matches("200 OK").count(), 2, "{answers}");
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_answered_503() {
    let limits = Limits {
        request: SHORT,
        ..Limits::default()
    };
    let (address, _) = start(limits).await;
    let answer = request(address, "/slow").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let (address, _) = start(Limits::default()).await;
    let answer = request(address, &format!("/{}", "x".repeat(20_000))).await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn silent_connections_of_the_same_address_keep_no_request_out() {
    let limits = Limits {
        per_peer: 8,
        ..Limits::default()
    };
    let (address, displaced) = start(limits).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(TcpStream::connect(address).await.unwrap());
        let answer = request(address, "/").await;
        assert!(is_answered(&answer), "{answer}");
    }
    assert!(displaced.count() >= 42, "{}", displaced.count());
    // The first of them is gone, the last is there.
    assert_eq!(rest(silent.remove(0)).await, "");
    let mut last = silent.pop().unwrap();
    last.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(is_answered(&rest(last).await));
}

#[tokio::test]
async fn an_address_has_so_many_requests_under_way_and_no_more() {
    let limits = Limits {
        per_peer: 2,
        ..Limits::default()
    };
    let (address, displaced) = start(limits).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        slow.push(stream);
    }
    tokio::time::sleep(SHORT).await;
    assert_eq!(displaced.count(), 0);
    let answer = request(address, "/").await;
    assert!(is_answered(&answer), "{answer}");
    assert_eq!(displaced.count(), 1);
    assert_eq!(rest(slow.remove(0)).await, "");
}
