//! Good responses, cached for the time when no provider answers.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Response, StatusCode};

use super::kept::{Kept, ResponseCache};
use super::rules::{key, storable};
use crate::head::Head;
use crate::headers::{REASON, STALE};
use mrg_base::lock;
use mrg_policy::{Reason, Stale};

/// A cache as the requests under way share it.
pub(crate) type SharedCache = Arc<Mutex<ResponseCache>>;

/// Records one response while it passes.
pub(crate) struct Recorder {
    cache: SharedCache,
    limits: Stale,
    key: String,
    /// The fields that the answer depends on, and the request's.
    names: Vec<HeaderName>,
    request: HeaderMap,
    status: StatusCode,
    headers: HeaderMap,
    parts: Vec<Bytes>,
    length: usize,
}

impl Recorder {
    /// A recorder of the response with this head to a request with that one; `None` if it may not
    /// stand in for another.
    pub(crate) fn new(
        cache: &SharedCache,
        limits: &Stale,
        request: &Head,
        response: &Response<()>,
    ) -> Option<Self> {
        let names = storable(&request.headers, response.headers())?;
        let mut depends = HeaderMap::new();
        for name in &names {
            for value in request.headers.get_all(name) {
                depends.append(name.clone(), value.clone());
            }
        }
        Some(Self {
            cache: cache.clone(),
            limits: limits.clone(),
            key: key(request.path.as_str(), &request.headers),
            names,
            request: depends,
            status: response.status(),
            headers: response.headers().clone(),
            parts: Vec::new(),
            length: 0,
        })
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
        let answer = Kept {
            status: self.status,
            headers: self.headers,
            body,
            at: mrg_clock::now(),
        };
        lock(&self.cache).insert(self.key, self.names, &self.request, answer, capacity);
    }
}

/// Forgets what was kept for a request: its caller may not see it any more.
pub(crate) fn forget(cache: &SharedCache, request: &Head) {
    lock(cache).remove(&key(request.path.as_str(), &request.headers));
}

/// The cached response, if it is not too old.
pub(crate) fn lookup(
    cache: &SharedCache,
    limits: &Stale,
    request: &Head,
    reason: Reason,
) -> Option<Response<Bytes>> {
    let key = key(request.path.as_str(), &request.headers);
    let cached = lock(cache).get(&key, &request.headers)?;
    let age = mrg_clock::now().since(cached.at);
    if age > limits.max_age.0 {
        return None;
    }
    let mut response = Response::new(cached.body);
    *response.status_mut() = cached.status;
    *response.headers_mut() = cached.headers;
    response.headers_mut().insert(STALE, (age.0 / 1000).into());
    response
        .headers_mut()
        .insert(REASON, http::HeaderValue::from_static(reason.name()));
    Some(response)
}
