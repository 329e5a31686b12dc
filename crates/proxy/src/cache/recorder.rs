//! Good responses, cached for the time when no provider answers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

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

/// The responses of one dependency, by path and query.
#[derive(Debug, Default)]
pub(crate) struct ResponseCache {
    cached: HashMap<String, CachedResponse>,
    order: VecDeque<String>,
}

/// A cache as the requests under way share it.
pub(crate) type SharedCache = Arc<Mutex<ResponseCache>>;

/// Records one response while it passes.
pub(crate) struct Recorder {
    cache: SharedCache,
    limits: Stale,
    key: String,
    status: StatusCode,
    headers: HeaderMap,
    parts: Vec<Bytes>,
    length: usize,
}

impl Recorder {
    /// A recorder of the response with this head.
    pub(crate) fn new(
        cache: &SharedCache,
        limits: &Stale,
        key: String,
        head: &Response<()>,
    ) -> Self {
        let (status, headers) = (head.status(), head.headers().clone());
        Self {
            cache: cache.clone(),
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

    /// Takes a part of the body. The bytes are shared, not copied.
    pub(crate) fn read(&mut self, part: &Bytes) {
        self.length += part.len();
        if self.length <= self.limit() {
            self.parts.push(part.clone());
        } else {
            self.parts.clear();
        }
    }

    /// Caches the response, now that its body is complete. One that is too long is not cached.
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
        let mut cache = lock(&self.cache);
        if cache.cached.insert(self.key.clone(), cached).is_none() {
            cache.order.push_back(self.key);
        }
        while cache.order.len() > capacity {
            if let Some(oldest) = cache.order.pop_front() {
                cache.cached.remove(&oldest);
            }
        }
    }
}

/// The cached response, if it is not too old.
pub(crate) fn lookup(
    cache: &SharedCache,
    limits: &Stale,
    key: &str,
    reason: Reason,
) -> Option<Response<Bytes>> {
    let cache = lock(cache);
    let cached = cache.cached.get(key)?;
    let age = mrg_clock::now().since(cached.at);
    if age > limits.max_age.0 {
        return None;
    }
    let mut response = Response::new(cached.body.clone());
    *response.status_mut() = cached.status;
    *response.headers_mut() = cached.headers.clone();
    response.headers_mut().insert(STALE, (age.0 / 1000).into());
    response
        .headers_mut()
        .insert(REASON, http::HeaderValue::from_static(reason.name()));
    Some(response)
}
