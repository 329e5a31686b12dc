//! Events: what people should hear of, told once.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};

/// Something that people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct News {
    /// Whether somebody should look.
    pub warning: bool,
    /// In one word.
    pub reason: &'static str,
    /// What it is about, as a path in the spec. Events of the same word about different things
    /// would else be counted as one.
    pub about: String,
    /// In a sentence.
    pub note: String,
}

/// News.
pub(crate) fn news(
    warning: bool,
    reason: &'static str,
    about: impl Into<String>,
    note: impl Into<String>,
) -> News {
    News {
        warning,
        reason,
        about: about.into(),
        note: note.into(),
    }
}

/// Writes events about an object. One that cannot be written is logged: nothing depends on it.
pub(crate) async fn publish(recorder: &Recorder, object: &ObjectReference, all: Vec<News>) {
    for news in all {
        let type_ = if news.warning {
            EventType::Warning
        } else {
            EventType::Normal
        };
        let event = Event {
            type_,
            reason: news.reason.to_owned(),
            note: Some(news.note.chars().take(1000).collect()),
            action: "Reconcile".to_owned(),
            secondary: Some(ObjectReference {
                field_path: Some(news.about),
                ..object.clone()
            }),
        };
        if let Err(error) = recorder.publish(&event, object).await {
            tracing::warn!(
                error = mrg_telemetry::chain(&error),
                "an event could not be written"
            );
        }
    }
}
