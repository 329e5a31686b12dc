//! A request that waits, and how it is written down.

#![deny(clippy::indexing_slicing, clippy::panic)]

use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::digest::short_digest;
use crate::head::Head;
use crate::headers::is_grpc;

/// The status of a request. What is stored and what the API answers call it its *standing*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Status {
    /// It was not sent, or certainly not processed.
    Waiting,
    /// It is being sent.
    Sending,
    /// It was sent and may have been processed: a person must find out. Stored as `Inquiry`.
    #[serde(rename = "Inquiry")]
    NeedsReview,
    /// It was answered.
    Done,
    /// It waited too long. People decide.
    Expired,
    /// People decided against it.
    Discarded,
}

impl Status {
    /// Whether a request with the same key must not be sent beside it.
    pub(crate) fn is_pending(self) -> bool {
        matches!(self, Self::Waiting | Self::Sending | Self::NeedsReview)
    }

    /// The name in the table and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "Waiting",
            Self::Sending => "Sending",
            Self::NeedsReview => "Inquiry",
            Self::Done => "Done",
            Self::Expired => "Expired",
            Self::Discarded => "Discarded",
        }
    }

    /// The status of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [
            Self::Waiting,
            Self::Sending,
            Self::NeedsReview,
            Self::Done,
            Self::Expired,
            Self::Discarded,
        ]
        .into_iter()
        .find(|each| each.name() == name)
    }
}

/// A request in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Its name here: by workload, dependency and key, so that the same request has the same one
    /// wherever it is kept.
    pub ticket: String,
    /// The workload that made it.
    pub workload: String,
    /// The dependency that it is for.
    pub dependency: String,
    /// What it is about.
    pub key: String,
    /// Its method.
    pub method: String,
    /// Its path and query.
    pub path: String,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    #[serde(with = "as_base64")]
    pub body: Bytes,
    /// When it came.
    pub created: Timestamp,
    /// Its status. Stored as `standing`.
    #[serde(rename = "standing")]
    pub status: Status,
    /// Not before then is it sent.
    pub retry_at: Timestamp,
    /// How often it was sent.
    pub attempts: u32,
    /// What happened last.
    pub note: String,
}

impl Item {
    /// A request as it came.
    pub(crate) fn new(
        workload: &str,
        dependency: &str,
        key: &str,
        head: &Head,
        body: Bytes,
        status: Status,
    ) -> Self {
        let now = Timestamp::now();
        Self {
            ticket: ticket(workload, dependency, key),
            workload: workload.to_owned(),
            dependency: dependency.to_owned(),
            key: key.to_owned(),
            method: head.method.to_string(),
            path: head.path.to_string(),
            headers: kept_headers(&head.headers),
            body,
            created: now,
            status,
            retry_at: now,
            attempts: 0,
            note: String::new(),
        }
    }

    /// Whether it has waited for longer than `age`. One from the future, by a clock that was wrong,
    /// has not.
    pub fn is_older_than(&self, age: std::time::Duration, now: Timestamp) -> bool {
        std::time::Duration::try_from(now.duration_since(self.created))
            .is_ok_and(|waited| waited > age)
    }

    /// The head that is sent; `None` if what was stored is no request.
    pub(crate) fn head(&self) -> Option<Head> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(
                name.parse::<HeaderName>().ok()?,
                value.parse::<HeaderValue>().ok()?,
            );
        }
        let path: PathAndQuery = self.path.parse().ok()?;
        let method: Method = self.method.parse().ok()?;
        Some(Head {
            method,
            path,
            grpc: is_grpc(&headers),
            headers,
        })
    }
}

/// Headers that are kept: not those of the connection, which the caller's head has lost already,
/// and no body's length.
fn kept_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
    };
    headers
        .iter()
        .filter(|(name, _)| *name != http::header::CONTENT_LENGTH)
        .filter_map(text)
        .collect()
}

/// The ticket of a request about this key.
pub(super) fn ticket(workload: &str, dependency: &str, key: &str) -> String {
    short_digest([workload, dependency, key].join("\0"), 16)
}

/// What became of a request that was to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Enqueued {
    /// It is, under this ticket; or was before, by its key.
    Ticket(String, Status),
    /// So many wait already.
    Full,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Line {
    /// A request came.
    Put(Box<Item>),
    /// A request's status changed. Stored as `Stands`.
    #[serde(rename = "Stands")]
    StatusChanged {
        /// Which.
        ticket: String,
        /// Its status from now on.
        #[serde(rename = "standing")]
        status: Status,
        /// Not before then is it sent.
        retry_at: Timestamp,
        /// What happened.
        note: String,
    },
    /// It is kept elsewhere, or no longer.
    Forget {
        /// Which.
        ticket: String,
    },
}

mod as_base64 {
    use super::{Bytes, Deserialize, STANDARD};
    use base64::Engine as _;
    use serde::{Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(
        bytes: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_keeps_its_words() {
        let line = r#"{"Stands":{"ticket":"t","standing":"Inquiry","retry_at":"2026-11-22T18:00:00Z","note":""}}"#;
        let parsed: Line = serde_json::from_str(line).unwrap();
        assert!(matches!(
            &parsed,
            Line::StatusChanged {
                status: Status::NeedsReview,
                ..
            }
        ));
        assert_eq!(serde_json::to_string(&parsed).unwrap(), line);
        let path = PathAndQuery::from_static("/");
        let (method, headers) = (Method::GET, HeaderMap::new());
        let head = Head {
            method,
            path,
            headers,
            grpc: false,
        };
        let item = Item::new("w", "d", "k", &head, Bytes::new(), Status::NeedsReview);
        let json = serde_json::to_value(&item).unwrap();
        assert_eq!(json["standing"], "Inquiry");
        assert_eq!(Status::from_name("Inquiry"), Some(Status::NeedsReview));
        assert_eq!(Status::NeedsReview.name(), "Inquiry");
    }
}
