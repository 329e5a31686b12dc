//! HTTP/2 on either side, and gRPC.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Client;
use serde_json::{Value, json};

use crate::harness::{Proxy, upstream};
use crate::server::Faults;

fn http2() -> Client {
    Client::builder().http2_prior_knowledge().build().unwrap()
}

/// A connection of its own.
pub(crate) async fn connect(port: u16) -> SendRequest<Full<Bytes>> {
    let stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

struct Called {
    head: Response<()>,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl Called {
    /// gRPC's status, wherever it stands.
    fn status(&self) -> &str {
        self.trailers
            .as_ref()
            .unwrap_or(self.head.headers())
            .get("grpc-status")
            .map_or("none", |value| value.to_str().unwrap())
    }
}

async fn call(port: u16) -> Called {
    let request = Request::post(format!("http://127.0.0.1:{port}/mrg.Dispatch/Send"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi")))
        .unwrap();
    let (head, body) = connect(port)
        .await
        .send_request(request)
        .await
        .unwrap()
        .into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    Called {
        head: Response::from_parts(head, ()),
        body: body.to_bytes(),
        trailers,
    }
}

#[tokio::test]
async fn callers_and_upstreams_of_either_version_meet() {
    for upstream_http2 in [false, true] {
        let bbd = upstream("bbd");
        let proxy = Proxy::start(&[&bbd], json!({ "http2": upstream_http2 })).await;
        for client in [Client::new(), http2()] {
            let url = format!("http://127.0.0.1:{}/v1/orders?x=1", proxy.port);
            let ask = || async {
                client
                    .post(&url)
                    .body("hello")
                    .send()
                    .await
                    .unwrap()
                    .json::<Value>()
                    .await
                    .unwrap()
            };
            for seen in futures::future::join_all((0..50).map(|_| ask())).await {
                assert_eq!(
                    seen["version"],
                    format!(
                        "{:?}",
                        if upstream_http2 {
                            Version::HTTP_2
                        } else {
                            Version::HTTP_11
                        }
                    )
                );
                assert_eq!(seen["body"], "hello");
                assert!(
                    seen["path"].as_str().unwrap().ends_with("/v1/orders?x=1"),
                    "{seen}"
                );
            }
        }
        assert_eq!(bbd.requests(), 100);
    }
}

#[tokio::test]
async fn the_trailers_of_grpc_calls_pass_and_are_what_the_breaker_counts() {
    let bbd = upstream("bbd");
    let proxy = Proxy::start(
        &[&bbd],
        json!({ "http2": true, "breaker": { "timeout": "30s" } }),
    )
    .await;
    let answer = |status: &str| {
        bbd.fail(Faults {
            headers: BTreeMap::from([("content-type".to_owned(), "application/grpc".to_owned())]),
            trailers: BTreeMap::from([("grpc-status".to_owned(), status.to_owned())]),
            ..Faults::default()
        });
    };
    answer("0");
    let called = call(proxy.port).await;
    assert_eq!((called.status(), called.trailers.is_some()), ("0", true));
    assert!(
        std::str::from_utf8(&called.body)
            .unwrap()
            .contains("\"te\":\"trailers\""),
        "{:?}",
        called.body
    );
    // NOT_FOUND is an answer; UNAVAILABLE is none.
    answer("5");
    for _ in 0..9 {
        assert_eq!(call(proxy.port).await.status(), "5");
    }
    assert_eq!(proxy.breaker(0).await, "Closed");
    answer("14");
    for _ in 0..10 {
        assert_eq!(call(proxy.port).await.status(), "14");
    }
    assert_eq!(proxy.breaker(0).await, "Open");
    let asked = bbd.requests();
    let refused = call(proxy.port).await;
    assert_eq!(
        (refused.head.status(), refused.status()),
        (StatusCode::OK, "14")
    );
    assert_eq!(refused.head.headers()["x-mrg-reason"], "BreakerOpen");
    assert_eq!(bbd.requests(), asked);
}

#[tokio::test]
async fn an_upstream_that_takes_no_more_requests_on_a_connection_loses_none() {
    for upstream_http2 in [false, true] {
        let bbd = upstream("bbd");
        let proxy = Proxy::start(&[&bbd], json!({ "http2": upstream_http2 })).await;
        let client = http2();
        bbd.fail(Faults {
            goaway: true,
            ..Faults::default()
        });
        for _ in 0..20 {
            let url = format!("http://127.0.0.1:{}/x", proxy.port);
            let answers = futures::future::join_all((0..20).map(|_| client.get(&url).send())).await;
            let statuses: Vec<u16> = answers
                .into_iter()
                .map(|answer| answer.unwrap().status().as_u16())
                .collect();
            assert!(
                statuses.iter().all(|status| *status == 200),
                "{statuses:?}, HTTP/2: {upstream_http2}"
            );
        }
    }
}
