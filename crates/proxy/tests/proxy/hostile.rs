//! Callers with bad manners, upstreams with worse ones, configurations that are none.

use std::net::Ipv4Addr;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::harness::{Proxy, free_port, upstream};
use crate::server::Faults;

async fn raw(port: u16, text: &[u8]) -> String {
    let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    // It may hang up before it has read everything.
    let _ = stream.write_all(text).await;
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn callers_with_bad_manners_leave_the_proxy_standing() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(&[&bbd], json!({})).await;
    let long = format!(
        "GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n",
        "y".repeat(200_000)
    );
    assert!(
        raw(proxy.port, long.as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
    let many = format!(
        "GET / HTTP/1.1\r\nhost: x\r\n{}\r\n",
        "a: b\r\n".repeat(500)
    );
    assert!(
        raw(proxy.port, many.as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
    // Two lengths (RFC 9112, 6.3): whatever the proxy makes of them, the upstream never sees a
    // second request.
    for both in [
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ncontent-length: 40\r\n\r\nabcdGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n",
        "POST /a HTTP/1.1\r\nhost: x\r\ncontent-length: 48\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: y\r\nconnection: close\r\n\r\n",
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    ] {
        let before = bbd.requests();
        let answer = raw(proxy.port, both.as_bytes()).await;
        let answered = answer.matches("HTTP/1.1 ").count();
        assert!(answered <= 2, "{both:?}: {answer}");
        // Each request that the upstream got was one that the proxy had understood, and answered.
        assert!(
            bbd.requests() - before <= answered as u64,
            "{both:?}: {answer}"
        );
    }
    assert!(
        raw(proxy.port, b"\x00\x01\x02 nonsense\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 400")
    );
    assert_eq!(proxy.get("/x").await.status().as_u16(), 200);
}

#[tokio::test]
async fn configurations_that_are_none_are_refused_with_words() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(&[&bbd], json!({})).await;
    for (text, expected) in [
        ("", "unexpected end"),
        ("[]", "expected mapping"),
        ("{\"workload\": 7", "line"),
        (
            "{\"workload\": \"x\", \"dependencies\": [{}]}",
            "missing field",
        ),
        (
            "{\"workload\": \"x\", \"surprise\": true}",
            "unknown field `surprise`",
        ),
        ("\u{0}\u{1}", "control"),
    ] {
        let url = format!("http://127.0.0.1:{}/config", proxy.admin);
        let answer = proxy
            .client
            .put(url)
            .bearer_auth("secret")
            .body(text)
            .send()
            .await
            .unwrap();
        assert_eq!(
            answer.status(),
            StatusCode::UNPROCESSABLE_ENTITY,
            "{text:?}"
        );
        let why = answer.text().await.unwrap();
        assert!(
            why.contains(expected) || text.contains('\u{0}'),
            "{text:?}: {why}"
        );
    }
    assert_eq!(proxy.get("/x").await.status().as_u16(), 200);
}

/// What the proxy takes; MiB.
fn memory(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.child.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

#[tokio::test]
async fn callers_who_never_end_their_request_keep_nobody_else_out() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(&[&bbd], json!({})).await;
    let mut slow = Vec::new();
    for number in 0..1000 {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port))
            .await
            .unwrap();
        let text: &[u8] = if number % 2 == 0 {
            b"GET / HTTP/1.1\r\nhost: x\r\nx-slow: "
        } else {
            b"PRI * HTTP/2.0\r\n"
        };
        stream.write_all(text).await.unwrap();
        slow.push(stream);
    }
    assert_eq!(proxy.get("/x").await.status().as_u16(), 200);
    assert!(memory(&proxy) < 64, "{} MiB", memory(&proxy));
    assert_eq!(bbd.requests(), 1);
    // Ten seconds for a head are enough.
    let mut rest = Vec::new();
    let closed = timeout(Duration::from_secs(30), slow[0].read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "a caller of half a head is still connected");
    assert_eq!(proxy.get("/x").await.status().as_u16(), 200);
}

#[tokio::test]
async fn callers_who_reset_what_they_have_just_opened_are_sent_away() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(&[&bbd], json!({})).await;
    bbd.fail(Faults {
        slow: 50,
        ..Faults::default()
    });
    let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port))
        .await
        .unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let ended = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut opened = 0;
    for _ in 0..20_000 {
        let request = http::Request::get("http://x/").body(()).unwrap();
        let Ok((answer, mut stream)) = client.send_request(request, true) else {
            break;
        };
        stream.send_reset(h2::Reason::CANCEL);
        drop(answer);
        opened += 1;
        if opened % 50 == 0 {
            tokio::task::yield_now().await;
        }
        match client.ready().await {
            Ok(ready) => client = ready,
            Err(_) => break,
        }
    }
    let ended = timeout(Duration::from_secs(10), ended)
        .await
        .expect("the connection goes on")
        .unwrap();
    // Whoever goes on sending may meet the closed connection before it has read why.
    let why = ended.expect_err("the connection ended well");
    assert!(
        why.reason()
            .is_none_or(|reason| reason == h2::Reason::ENHANCE_YOUR_CALM),
        "{why}"
    );
    assert!(
        opened < 20_000 && bbd.requests() < 1000,
        "{opened} opened, {} reached the upstream",
        bbd.requests()
    );
    assert!(memory(&proxy) < 64, "{} MiB", memory(&proxy));
    bbd.fail(Faults::default());
    assert_eq!(proxy.get("/x").await.status().as_u16(), 200);
}

#[tokio::test]
async fn an_upstream_with_a_head_of_a_mebibyte_is_refused() {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let (port, address) = (free_port(), listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx-long: ").await;
                for _ in 0..1024 {
                    if stream.write_all(&[b'y'; 1024]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let config = json!({ "workload": "tpg", "dependencies": [{
        "name": "bbd", "port": port, "retry": { "attempts": 1 }, "providers": [{ "name": "bbd", "url": format!("http://{address}") }] }] });
    let proxy = Proxy::with(&config, port).await;
    for _ in 0..5 {
        let answer = proxy.get("/x").await;
        let reason = answer.headers()["x-mrg-reason"].to_str().unwrap();
        let seen = (answer.status().as_u16(), reason);
        // What the client meets first: the head's end that does not come, or the broken connection.
        assert!(
            [(502, "InvalidAnswer"), (504, "Ambiguous")].contains(&seen),
            "{seen:?}"
        );
    }
    assert!(memory(&proxy) < 64, "{} MiB", memory(&proxy));
}
