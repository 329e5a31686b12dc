//! What the programs in pods answer over HTTP: read so far and no further. A pod may be anybody's.

use std::time::Duration;

use serde::de::DeserializeOwned;

/// A sidecar's state with some hundred dependencies is a tenth of this; bytes.
const MOST_BYTES: usize = 1 << 20;
/// One that is there is connected to at once.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// The rest of an answer whose head is there.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// How much of an answer is repeated; characters.
const EXCERPT: usize = 500;

/// A client for programs in pods. They are where the pod is: no answer sends the operator elsewhere,
/// and no proxy of the environment stands in between.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .connect_timeout(CONNECT_WITHIN)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .unwrap_or_default()
}

/// The body as JSON; `None` if it is another, or too long.
pub(crate) async fn json<T: DeserializeOwned>(answer: reqwest::Response) -> Option<T> {
    let body = reqwest::Body::from(answer);
    let bytes = mrg_bounds::read(body, MOST_BYTES, BODY_WITHIN).await.ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The beginning of the body, on one line; what went wrong if it cannot be read.
pub(crate) async fn excerpt(answer: reqwest::Response) -> String {
    let body = reqwest::Body::from(answer);
    match mrg_bounds::read(body, MOST_BYTES, BODY_WITHIN).await {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let printable = |letter: char| if letter.is_control() { ' ' } else { letter };
            text.trim().chars().take(EXCERPT).map(printable).collect()
        }
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::response::Redirect;
    use axum::routing::get;

    use super::*;

    async fn answer(path: &str) -> reqwest::Response {
        let router = Router::new()
            .route("/state", get(|| async { r#"{"a":1}"# }))
            .route("/long", get(|| async { "1".repeat(MOST_BYTES + 1) }))
            .route("/wordy", get(|| async { "no\u{1b}[2J ".repeat(1_000) }))
            .route(
                "/elsewhere",
                get(|| async { Redirect::temporary("/state") }),
            );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let asked = client().get(format!("http://{address}{path}")).send();
        asked.await.unwrap()
    }

    #[tokio::test]
    async fn what_a_pod_answers_is_read_so_far_and_no_further() {
        let state: Option<serde_json::Value> = json(answer("/state").await).await;
        assert_eq!(state, Some(serde_json::json!({ "a": 1 })));
        let long: Option<serde_json::Value> = json(answer("/long").await).await;
        assert_eq!(long, None);
        let wordy = excerpt(answer("/wordy").await).await;
        assert!(
            wordy.starts_with("no [2J no") && wordy.len() == EXCERPT,
            "{wordy}"
        );
        assert_eq!(answer("/elsewhere").await.status(), 307);
    }
}
