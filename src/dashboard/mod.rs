//! A page that the person on call keeps open: services by tier, breakers, leader, lag, queues,
//! changes, blast radius. It only shows; it can change nothing.

mod feed;
mod view;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use axum::routing::get;
use kube::Client;
use tokio::sync::Semaphore;

use feed::Feed;

/// People who may look at the same time; each costs a connection and a copy of the page's content.
const LOOKERS: usize = 100;
/// How often a silent page hears that it is still connected. The page says so when it has not heard
/// for three times as long.
const ALIVE: Duration = Duration::from_secs(5);
/// Only what this server gives is loaded, and nobody puts the page into a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'none'";

#[derive(Clone)]
struct Page {
    feed: Arc<Feed>,
    places: Arc<Semaphore>,
}

/// The page, its looks and its news.
pub fn router(client: Client) -> Router {
    let asset =
        |kind: &'static str, body: &'static str| get(move || async move { file(kind, body) });
    Router::new()
        .route(
            "/",
            asset("text/html; charset=utf-8", include_str!("page.html")),
        )
        .route(
            "/page.css",
            asset("text/css; charset=utf-8", include_str!("page.css")),
        )
        .route(
            "/page.js",
            asset("text/javascript; charset=utf-8", include_str!("page.js")),
        )
        .route(
            "/graph.js",
            asset("text/javascript; charset=utf-8", include_str!("graph.js")),
        )
        .route("/events", get(events))
        .with_state(Page {
            feed: Arc::new(Feed::new(client)),
            places: Arc::new(Semaphore::new(LOOKERS)),
        })
}

fn file(kind: &'static str, body: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 4] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, body)
}

/// The content now, and again with each change.
async fn events(State(page): State<Page>) -> Response {
    let Ok(place) = page.places.try_acquire_owned() else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{LOOKERS} people look at this page already; close one of those\n"),
        )
            .into_response();
    };
    let watching = page.feed.look();
    let content = watching.content();
    // The place and the watches are held for as long as the stream is.
    let stream = futures::stream::unfold(
        (content, watching, place, true),
        |(mut content, watching, place, first)| async move {
            if !first || content.borrow().is_none() {
                content.changed().await.ok()?;
            }
            let text = content
                .borrow_and_update()
                .clone()
                .unwrap_or_else(|| "{}".into());
            Some((
                Ok::<_, Infallible>(Event::default().data(text)),
                (content, watching, place, false),
            ))
        },
    );
    Sse::new(stream)
        .keep_alive(
            KeepAlive::new()
                .interval(ALIVE)
                .event(Event::default().event("alive").data("")),
        )
        .into_response()
}
