//! Answers that were good once, cached for the time when nobody answers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use crate::body::Answer;
use crate::headers::{REASON, STALE};
use mrg_base::{Moment, lock};
use mrg_policy::{Reason, Stale};

#[derive(Debug)]
struct CachedResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    at: Moment,
}

/// The answers of one dependency, by path and query.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    cached: HashMap<String, CachedResponse>,
    order: VecDeque<String>,
}

/// Shared by those who answer.
pub(crate) type Shared = Arc<Mutex<Answers>>;

/// Collects one answer while it passes.
pub(crate) struct Recorder {
    answers: Shared,
    limits: Stale,
    key: String,
    status: StatusCode,
    headers: HeaderMap,
    parts: Vec<Bytes>,
    length: usize,
}

impl Recorder {
    /// For this answer.
    pub(crate) fn new(answers: &Shared, limits: &Stale, key: String, head: &Response<()>) -> Self {
        let (status, headers) = (head.status(), head.headers().clone());
        Self {
            answers: answers.clone(),
            limits: limits.clone(),
            key,
            status,
            headers,
            parts: Vec::new(),
            length: 0,
        }
    }

    fn limit(&self) -> usize {
        usize::try_from(self.limits.max_body_bytes).unwrap_or(usize::MAX)
    }

    /// A part of it. The bytes are shared, not copied.
    pub(crate) fn read(&mut self, part: &Bytes) {
        self.length += part.len();
        if self.length <= self.limit() {
            self.parts.push(part.clone());
        } else {
            self.parts.clear();
        }
    }

    /// It is whole.
    pub(crate) fn store(self) {
        if self.length > self.limit() {
            return;
        }
        let capacity = usize::try_from(self.limits.max_entries).unwrap_or(usize::MAX);
        // One allocation: parts of network buffers would keep those alive.
        let body = Bytes::from(self.parts.concat());
        let cached = CachedResponse {
            status: self.status,
            headers: self.headers,
            body,
            at: mrg_clock::now(),
        };
        let mut answers = lock(&self.answers);
        if answers.cached.insert(self.key.clone(), cached).is_none() {
            answers.order.push_back(self.key);
        }
        while answers.order.len() > capacity {
            if let Some(oldest) = answers.order.pop_front() {
                answers.cached.remove(&oldest);
            }
        }
    }
}

/// The last good answer, if it is not too old.
pub(crate) fn answer(
    answers: &Shared,
    limits: &Stale,
    key: &str,
    reason: Reason,
) -> Option<Response<Answer>> {
    let answers = lock(answers);
    let cached = answers.cached.get(key)?;
    let age = mrg_clock::now().since(cached.at);
    if age > limits.max_age.0 {
        return None;
    }
    let mut response = Response::new(Answer::own(cached.body.clone()));
    *response.status_mut() = cached.status;
    *response.headers_mut() = cached.headers.clone();
    response.headers_mut().insert(STALE, (age.0 / 1000).into());
    response
        .headers_mut()
        .insert(REASON, http::HeaderValue::from_static(reason.name()));
    Some(response)
}
