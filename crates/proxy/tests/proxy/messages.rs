//! Messages as RFC 9110 and 9112 have them: what is passed on, and what an answer that takes its
//! time says about its provider.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::harness::{Proxy, free_port, until};

const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n7\r\n{\"a\":1}\r\n0\r\n\r\n";

/// Bytes, each so long after the ones before.
type Pieces = Vec<(Duration, Vec<u8>)>;

/// An upstream that answers every request with the same bytes, in pieces.
struct Scripted {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<Pieces>>,
}

impl Scripted {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            answer: Arc::default(),
        };
        upstream.say(&[(0, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")]);
        let (requests, answer) = (upstream.requests.clone(), upstream.answer.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, requests.clone(), answer.clone()));
            }
        });
        upstream
    }

    /// From now on: each piece so many milliseconds after the one before.
    fn say(&self, pieces: &[(u64, &str)]) {
        *self.answer.lock().unwrap() = pieces
            .iter()
            .map(|(pause, text)| (Duration::from_millis(*pause), text.as_bytes().to_vec()))
            .collect();
    }

    fn last(&self) -> String {
        self.requests
            .lock()
            .unwrap()
            .last()
            .cloned()
            .unwrap_or_default()
    }

    async fn proxy(&self, more: Value) -> Proxy {
        let (port, inbound) = (free_port(), free_port());
        let mut dependency = json!({
            "name": "bbd", "port": port,
            "providers": [{ "name": "p0", "url": format!("http://{}", self.address) }],
            "timeout": { "connect": "200ms", "attempt": "400ms", "total": "2s" },
            "breaker": { "timeout": "300ms", "minRequests": 3 },
        });
        crate::harness::merge(&mut dependency, &more);
        let config = json!({
            "workload": "tpg", "dependencies": [dependency],
            "inbound": { "port": inbound, "targetPort": self.address.port() },
        });
        Proxy::with(&config, port).await
    }
}

/// Reads one request at a time, by its length or its last chunk, and answers it.
async fn serve(
    mut stream: TcpStream,
    requests: Arc<Mutex<Vec<String>>>,
    answer: Arc<Mutex<Pieces>>,
) {
    let mut read = String::new();
    let mut buffer = [0; 4096];
    loop {
        while !is_whole(&read) {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(count) => read.push_str(&String::from_utf8_lossy(&buffer[..count])),
            }
        }
        requests.lock().unwrap().push(std::mem::take(&mut read));
        let pieces = answer.lock().unwrap().clone();
        for (pause, text) in pieces {
            sleep(pause).await;
            if stream.write_all(&text).await.is_err() {
                return;
            }
        }
    }
}

fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else {
        return false;
    };
    let head = head.to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    if head.contains("transfer-encoding: chunked") {
        body.ends_with("0\r\n\r\n")
    } else {
        body.len() >= length
    }
}

/// The answer, read until the connection ends or `patience` is over.
async fn raw(port: u16, text: &str, patience: Duration) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(patience, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn inbound_port(proxy: &Proxy) -> u16 {
    let config = std::fs::read_to_string(proxy.directory.path().join("proxy.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    u16::try_from(config["inbound"]["port"].as_u64().unwrap()).unwrap()
}

#[tokio::test]
async fn the_body_of_a_get_reaches_the_provider_and_the_workload() {
    let upstream = Scripted::start().await;
    let proxy = upstream.proxy(json!({})).await;
    for port in [proxy.port, inbound_port(&proxy)] {
        for method in ["GET", "DELETE", "POST"] {
            let request =
                format!("{method} /_search HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{CHUNKED}");
            let answer = raw(port, &request, Duration::from_secs(2)).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{method}: {answer}");
            let seen = upstream.last();
            assert!(seen.contains("{\"a\":1}"), "{method} at {port}: {seen}");
        }
    }
}

#[tokio::test]
async fn an_offer_of_another_protocol_is_ignored_where_it_would_cost_the_body() {
    let upstream = Scripted::start().await;
    let proxy = upstream.proxy(json!({})).await;
    for protocol in ["h2c", "websocket"] {
        let request = format!(
            "POST /orders HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: {protocol}\r\nhttp2-settings: AAEAAEAA\r\ncontent-length: 7\r\n\r\n{{\"a\":1}}"
        );
        let answer = raw(proxy.port, &request, Duration::from_millis(500)).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{protocol}: {answer}");
        let seen = upstream.last().to_ascii_lowercase();
        assert!(seen.ends_with("{\"a\":1}"), "{protocol}: {seen}");
        assert!(!seen.contains("upgrade"), "{protocol}: {seen}");
        assert!(!seen.contains("http2-settings"), "{protocol}: {seen}");
    }
}

#[tokio::test]
async fn a_caller_cannot_have_a_field_removed_that_the_workload_decides_by() {
    let upstream = Scripted::start().await;
    let proxy = upstream.proxy(json!({})).await;
    let request = "GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer a\r\nx-forwarded-for: 10.0.0.1\r\nx-mine: 1\r\nconnection: close, authorization, x-forwarded-for, x-mine\r\n\r\n";
    let port = inbound_port(&proxy);
    raw(port, request, Duration::from_secs(2)).await;
    let seen = upstream.last().to_ascii_lowercase();
    assert!(seen.contains("authorization: bearer a"), "{seen}");
    assert!(seen.contains("x-forwarded-for: 10.0.0.1"), "{seen}");
    assert!(!seen.contains("x-mine"), "{seen}");
}

#[tokio::test]
async fn quiet_event_streams_and_grpc_web_say_nothing_against_their_provider() {
    let upstream = Scripted::start().await;
    let proxy = upstream.proxy(json!({})).await;
    upstream.say(&[
        (0, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"),
        (1_200, "9\r\ndata: hi\n\r\n0\r\n\r\n"),
    ]);
    let subscriptions = (0..6).map(|_| async { proxy.get("/events").await.text().await.unwrap() });
    let events = futures::future::join_all(subscriptions).await;
    assert!(events.iter().all(|event| event.contains("data: hi")));
    assert_eq!(proxy.breaker(0).await, "Closed");

    upstream.say(&[(0, "HTTP/1.1 200 OK\r\ncontent-type: application/grpc-web+proto\r\ncontent-length: 5\r\n\r\n\0\0\0\0\0")]);
    for _ in 0..6 {
        let headers = [("content-type", "application/grpc-web+proto")];
        let answer = proxy
            .send(reqwest::Method::POST, "/o.O/Get", &headers, "x")
            .await;
        assert_eq!(answer.bytes().await.unwrap().len(), 5);
    }
    assert_eq!(proxy.breaker(0).await, "Closed");
}

#[tokio::test]
async fn an_answer_of_known_length_that_stalls_is_its_providers_failure() {
    let upstream = Scripted::start().await;
    let proxy = upstream.proxy(json!({})).await;
    upstream.say(&[
        (0, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        (900, "hello"),
    ]);
    let stalled = futures::future::join_all((0..4).map(|_| proxy.get("/x"))).await;
    until("the breaker is open", async || {
        proxy.breaker(0).await == "Open"
    })
    .await;
    drop(stalled);
}

#[tokio::test]
async fn slow_readers_do_not_keep_a_half_open_breaker_from_closing() {
    let upstream = Scripted::start().await;
    let proxy = upstream.proxy(json!({})).await;
    upstream.say(&[(0, "HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n")]);
    for _ in 0..4 {
        proxy.get("/x").await;
    }
    assert_eq!(proxy.breaker(0).await, "Open");
    let large = "x".repeat(8 << 20);
    upstream.say(&[
        (
            0,
            &format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", large.len()),
        ),
        (0, &large),
    ]);
    sleep(Duration::from_millis(400)).await;
    let mut readers = Vec::new();
    for _ in 0..3 {
        let mut reader = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port))
            .await
            .unwrap();
        reader
            .write_all(b"GET /export HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut head = [0; 12];
        reader.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        readers.push(reader);
    }
    upstream.say(&[(0, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")]);
    until("others are served", async || {
        proxy.get("/x").await.status() == 200
    })
    .await;
    drop(readers);
}

#[tokio::test]
async fn what_is_no_request_is_refused_and_says_nothing_against_the_provider() {
    let upstream = Scripted::start().await;
    let proxy = upstream.proxy(json!({})).await;
    let rows = [
        (
            "CONNECT a.example:443 HTTP/1.1\r\nhost: a.example:443\r\n\r\n",
            "501",
        ),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400"),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
            "501",
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n",
            "400",
        ),
    ];
    for port in [proxy.port, inbound_port(&proxy)] {
        for (request, status) in rows {
            for _ in 0..4 {
                let answer = raw(port, request, Duration::from_millis(300)).await;
                assert_eq!(
                    answer.get(9..12),
                    Some(status),
                    "{request:?} at {port}: {answer}"
                );
            }
        }
    }
    assert_eq!(proxy.breaker(0).await, "Closed");
}

#[tokio::test]
async fn an_answer_that_is_too_much_is_said_to_be() {
    let upstream = Scripted::start().await;
    let proxy = upstream.proxy(json!({})).await;
    let fields = (0..150).map(|number| format!("x-{number}: 1\r\n"));
    let fields = fields.collect::<Vec<_>>().concat();
    upstream.say(&[(
        0,
        &format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n"),
    )]);
    for port in [proxy.port, inbound_port(&proxy)] {
        let answer = raw(
            port,
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            Duration::from_millis(500),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
        assert!(answer.contains("header fields"), "{answer}");
    }
}

#[tokio::test]
async fn the_host_of_the_target_counts_for_the_workload() {
    let upstream = Scripted::start().await;
    let proxy = upstream.proxy(json!({})).await;
    let request =
        "GET http://other.example/a HTTP/1.1\r\nhost: w.example\r\nconnection: close\r\n\r\n";
    raw(inbound_port(&proxy), request, Duration::from_secs(2)).await;
    let seen = upstream.last().to_ascii_lowercase();
    assert!(seen.contains("host: other.example"), "{seen}");
    assert!(!seen.contains("w.example"), "{seen}");
}

#[tokio::test]
async fn no_answer_of_one_principal_ever_reaches_another() {
    let upstream = Scripted::start().await;
    let proxy = upstream
        .proxy(json!({ "retry": { "attempts": 1 }, "breaker": { "minRequests": 1000 }, "fallback": { "stale": { "maxAge": "1h" } } }))
        .await;
    let ask = async |path: &str, fields: &[(&str, &str)]| {
        let answer = proxy.send(reqwest::Method::GET, path, fields, "").await;
        let status = answer.status().as_u16();
        (status, answer.text().await.unwrap())
    };
    let alice: &[(&str, &str)] = &[("authorization", "Bearer alice")];
    let others: [&[(&str, &str)]; 4] = [
        &[],
        &[("authorization", "Bearer bob")],
        &[("cookie", "session=bob")],
        &[("x-user-id", "bob")],
    ];
    let answers = [
        ("/kept", "", true),
        ("/vary", "vary: accept-language\r\n", true),
        ("/private", "cache-control: private\r\n", false),
        ("/no-store", "cache-control: no-store\r\n", false),
        ("/cookie", "set-cookie: session=alice\r\n", false),
        ("/star", "vary: *\r\n", false),
    ];
    for (path, fields, _) in answers {
        let text = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 5\r\n\r\nalice");
        upstream.say(&[(0, &text)]);
        assert_eq!(ask(path, alice).await, (200, "alice".to_owned()));
    }
    upstream.say(&[(0, "HTTP/1.1 503 down\r\ncontent-length: 4\r\n\r\ndown")]);
    for (path, _, kept) in answers {
        let (status, text) = ask(path, alice).await;
        assert_eq!(
            (status, text == "alice"),
            if kept { (200, true) } else { (503, false) },
            "{path}"
        );
        for other in others {
            let (status, text) = ask(path, other).await;
            assert_eq!((status, text.as_str()), (503, "down"), "{path} {other:?}");
        }
    }
    upstream.say(&[(0, "HTTP/1.1 403 no\r\ncontent-length: 2\r\n\r\nno")]);
    assert_eq!(ask("/kept", alice).await.0, 403);
    upstream.say(&[(0, "HTTP/1.1 503 down\r\ncontent-length: 4\r\n\r\ndown")]);
    assert_eq!(
        ask("/kept", alice).await.0,
        503,
        "what she may not see any more"
    );
}
