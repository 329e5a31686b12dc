//! What stands before every handler: the credentials, then the body, and a deadline for all of it.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::credentials::OwnCredentials;
use crate::rest::restart;
use mrg_bounds::with_body;
use mrg_postgres::Credentials;

/// No request may take longer.
pub(super) const LONGEST: Duration = restart::WITHIN_MOST.saturating_add(Duration::from_secs(60));
/// A request that only reads.
const READ_WITHIN: Duration = Duration::from_secs(15);
/// A switchover is followed for a minute after it was asked for.
const CHANGE_WITHIN: Duration = Duration::from_secs(90);

const BODY_WITHIN: Duration = Duration::from_secs(5);
/// Names, numbers, a handful of conditions.
const BODY_BYTES: usize = 64 << 10;
/// A dynamic configuration with every line of `pg_hba` that people write.
const CONFIG_BYTES: usize = 256 << 10;

/// The credentials that are asked for, if any.
#[derive(Clone)]
struct Gate(Arc<OwnCredentials>);

/// Puts the guards before a router's handlers.
pub(super) fn guarded(router: Router, credentials: Arc<OwnCredentials>) -> Router {
    let gate = Gate(credentials);
    router
        .layer(middleware::from_fn(whole))
        .layer(middleware::from_fn_with_state(gate, authorize))
        .layer(middleware::from_fn(no_web_page))
        .layer(middleware::from_fn(in_time))
}

fn is_read(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a request is for those who have the credentials: it changes something, or is the members'
/// own business and costs more than memory.
fn is_restricted(method: &Method, uri: &Uri) -> bool {
    !is_read(method) || uri.path().starts_with("/mrg/")
}

/// Refuses what a page in a browser asks for, which sends credentials that were typed in before along
/// without being asked. There is no page of ours, and no other client says where it comes from.
async fn no_web_page(request: Request, next: Next) -> Response {
    let headers = request.headers();
    let of_page = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    if of_page && !is_read(request.method()) {
        let text =
            "requests of web pages that change something are refused; use patronictl or curl";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

/// Refuses before a byte of the body is read.
async fn authorize(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match gate.0.rest(mrg_clock::now()) {
        Some((current, former))
            if is_restricted(request.method(), request.uri())
                && !is_known(request.headers(), &current, former.as_ref()) =>
        {
            let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"mrg-agent\"")];
            (
                StatusCode::UNAUTHORIZED,
                challenge,
                "no auth header received, or the wrong one",
            )
                .into_response()
        }
        _ => next.run(request).await,
    }
}

/// Whether the request carries the credentials.
fn is_authorized(headers: &HeaderMap, expected: &Credentials) -> bool {
    let given = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Basic "));
    let expected = BASE64.encode(format!("{}:{}", expected.username, expected.password));
    // Every byte is compared, so that the time does not reveal how many agree.
    given.is_some_and(|given| {
        given.len() == expected.len()
            && given
                .bytes()
                .zip(expected.bytes())
                .fold(0, |all, (a, b)| all | (a ^ b))
                == 0
    })
}

/// Whether the request carries the credentials, or those before them. Both are compared, so that the
/// time does not reveal which ones agree.
fn is_known(headers: &HeaderMap, current: &Credentials, former: Option<&Credentials>) -> bool {
    let by_former = former.is_some_and(|former| is_authorized(headers, former));
    is_authorized(headers, current) | by_former
}

/// Gives handlers a body that is there.
async fn whole(request: Request, next: Next) -> Response {
    let limit = match request.uri().path() {
        "/config" => CONFIG_BYTES,
        _ => BODY_BYTES,
    };
    match with_body(request, limit, BODY_WITHIN).await {
        Ok(request) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

async fn in_time(request: Request, next: Next) -> Response {
    let within = match request.uri().path() {
        _ if is_read(request.method()) => READ_WITHIN,
        "/restart" => LONGEST,
        _ => CHANGE_WITHIN,
    };
    let answered = tokio::time::timeout(within, next.run(request)).await;
    answered.unwrap_or_else(|_| {
        let text = format!("no answer within {} s", within.as_secs());
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::body::Bytes;
    use axum::routing::{get, post};
    use mrg_bounds::{Displaced, Limits, serve};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    fn credentials() -> Credentials {
        Credentials {
            username: "mrg".to_owned(),
            password: "secret".to_owned(),
        }
    }

    fn guarded_router() -> Router {
        let length = |body: Bytes| async move { body.len().to_string() };
        let router = Router::new()
            .route("/restart", post(length))
            .route("/config", get(|| async { "{}" }).patch(length))
            .route("/mrg/received", get(|| async { "received" }));
        guarded(router, OwnCredentials::of_rest(Some(credentials())))
    }

    /// Sends this much of a request and reads the answer's first line.
    async fn answer(head: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (limits, displaced) = (Limits::default(), Displaced::default());
        tokio::spawn(serve("test", listener, guarded_router(), limits, displaced));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut bytes = vec![0; 4096];
        let read = stream.read(&mut bytes);
        let read = tokio::time::timeout(Duration::from_secs(60), read).await;
        let text = String::from_utf8_lossy(&bytes[..read.unwrap().unwrap()]).into_owned();
        text.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn credentials_are_asked_for_before_the_body_is_read() {
        for body in ["content-length: 20", "transfer-encoding: chunked"] {
            for method in [
                "POST /restart",
                "PATCH /config",
                "DELETE /switchover",
                "PUT /x",
            ] {
                let head = format!("{method} HTTP/1.1\r\nhost: a\r\n{body}\r\n\r\n");
                assert_eq!(answer(&head).await, "HTTP/1.1 401 Unauthorized", "{head}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_for_members_alone_needs_credentials_to_be_read_as_well() {
        let head = "GET /mrg/received?lsn=1&within_ms=1 HTTP/1.1\r\nhost: a\r\n";
        let refused = answer(&format!("{head}\r\n")).await;
        assert_eq!(refused, "HTTP/1.1 401 Unauthorized");
        let authorization = BASE64.encode("mrg:secret");
        let head = format!("{head}authorization: Basic {authorization}\r\n\r\n");
        assert_eq!(answer(&head).await, "HTTP/1.1 200 OK");
        let open = answer("GET /config HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert_eq!(open, "HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn a_web_page_changes_nothing_though_the_browser_has_the_credentials() {
        let authorization = BASE64.encode("mrg:secret");
        for header in ["origin: http://evil.example", "sec-fetch-site: cross-site"] {
            let head = |method: &str| {
                format!(
                    "{method} /config HTTP/1.1\r\nhost: a\r\nauthorization: Basic {authorization}\r\n{header}\r\n\r\n"
                )
            };
            assert_eq!(answer(&head("PATCH")).await, "HTTP/1.1 403 Forbidden");
            assert_eq!(answer(&head("GET")).await, "HTTP/1.1 200 OK");
        }
    }

    #[tokio::test]
    async fn a_body_that_announces_more_than_its_route_takes_is_not_read() {
        let authorization = BASE64.encode("mrg:secret");
        for (method, length) in [
            ("POST /restart", BODY_BYTES + 1),
            ("PATCH /config", CONFIG_BYTES + 1),
        ] {
            let head = format!(
                "{method} HTTP/1.1\r\nhost: a\r\nauthorization: Basic {authorization}\r\ncontent-length: {length}\r\n\r\n"
            );
            assert_eq!(answer(&head).await, "HTTP/1.1 413 Payload Too Large");
        }
    }

    #[test]
    fn only_the_right_credentials_are_accepted() {
        let given = |value: &str| {
            let request = Request::builder().header(header::AUTHORIZATION, value);
            let request = request.body(Body::empty()).unwrap();
            is_authorized(request.headers(), &credentials())
        };
        assert!(given(&format!("Basic {}", BASE64.encode("mrg:secret"))));
        for wrong in ["mrg:secrets", "mrg:secreT", "mrg", ""] {
            assert!(
                !given(&format!("Basic {}", BASE64.encode(wrong))),
                "{wrong}"
            );
        }
        assert!(!given("Bearer bXJnOnNlY3JldA=="));
    }
}
