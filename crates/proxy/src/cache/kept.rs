//! Good answers of one dependency, kept for the time when no provider answers. Least recently used
//! ones go first.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};

use super::rules::variant;
use mrg_base::Moment;

/// Bytes that the bodies and heads of one dependency's answers may take together.
const BYTES_MOST: usize = 8 << 20;
/// What an entry takes besides its body and its fields; bytes.
const OVERHEAD: usize = 512;

/// An answer.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub at: Moment,
}

impl Kept {
    fn bytes(&self) -> usize {
        let fields = self.headers.iter();
        let fields: usize = fields
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        OVERHEAD + fields + self.body.len()
    }
}

/// The variants of the answer to one key.
#[derive(Debug, Default)]
struct Variants {
    /// The fields by which they differ.
    names: Vec<HeaderName>,
    /// By the digest of these, with when they were used last.
    answers: HashMap<String, (Kept, u64)>,
}

/// The answers of one dependency.
#[derive(Debug, Default)]
pub(crate) struct ResponseCache {
    by_key: HashMap<String, Variants>,
    /// From the least to the most recently used: key and variant.
    by_use: BTreeMap<u64, (String, String)>,
    uses: u64,
    bytes: usize,
}

impl ResponseCache {
    /// Keeps an answer to a request with these headers, which depends on the fields of these names;
    /// `entries_most` are kept.
    pub(super) fn insert(
        &mut self,
        key: String,
        names: Vec<HeaderName>,
        request: &HeaderMap,
        answer: Kept,
        entries_most: usize,
    ) {
        // The newest answer says by which fields all of them differ.
        if self
            .by_key
            .get(&key)
            .is_some_and(|known| known.names != names)
        {
            self.remove(&key);
        }
        let variant = variant(&names, request);
        self.uses += 1;
        self.bytes += answer.bytes();
        let known = self.by_key.entry(key.clone()).or_default();
        known.names = names;
        if let Some((old, used)) = known.answers.insert(variant.clone(), (answer, self.uses)) {
            self.bytes -= old.bytes();
            self.by_use.remove(&used);
        }
        self.by_use.insert(self.uses, (key, variant));
        while self.by_use.len() > entries_most || self.bytes > BYTES_MOST {
            let Some((_, (key, variant))) = self.by_use.pop_first() else {
                break;
            };
            self.forget(&key, &variant);
        }
    }

    /// Takes an answer out that is not in the order of use any more.
    fn forget(&mut self, key: &str, variant: &str) {
        let Some(known) = self.by_key.get_mut(key) else {
            return;
        };
        if let Some((answer, _)) = known.answers.remove(variant) {
            self.bytes -= answer.bytes();
        }
        if known.answers.is_empty() {
            self.by_key.remove(key);
        }
    }

    /// Drops all answers to a key.
    pub(super) fn remove(&mut self, key: &str) {
        if let Some(known) = self.by_key.remove(key) {
            for (answer, used) in known.answers.into_values() {
                self.bytes -= answer.bytes();
                self.by_use.remove(&used);
            }
        }
    }

    /// The answer to a request with these headers.
    pub(super) fn get(&mut self, key: &str, request: &HeaderMap) -> Option<Kept> {
        let known = self.by_key.get_mut(key)?;
        let (answer, used) = known.answers.get_mut(&variant(&known.names, request))?;
        self.uses += 1;
        if let Some(entry) = self.by_use.remove(used) {
            self.by_use.insert(self.uses, entry);
        }
        *used = self.uses;
        Some(answer.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(length: usize) -> Kept {
        Kept {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from(vec![b'x'; length]),
            at: Moment(0),
        }
    }

    fn language(value: &str) -> HeaderMap {
        let name = http::header::ACCEPT_LANGUAGE;
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn the_least_recently_used_go_first_by_number_and_by_bytes() {
        let mut cache = ResponseCache::default();
        let none = HeaderMap::new();
        let put = |cache: &mut ResponseCache, key: &str, length| {
            cache.insert(key.to_owned(), vec![], &none, answer(length), 3);
        };
        for key in ["a", "b", "c"] {
            put(&mut cache, key, 1);
        }
        assert!(cache.get("a", &HeaderMap::new()).is_some());
        put(&mut cache, "d", 1);
        assert!(cache.get("b", &HeaderMap::new()).is_none());
        assert!(cache.get("a", &HeaderMap::new()).is_some());
        put(&mut cache, "e", BYTES_MOST - OVERHEAD);
        assert_eq!(cache.by_key.len(), 1);
        put(&mut cache, "f", BYTES_MOST);
        assert!(cache.by_key.is_empty() && cache.by_use.is_empty());
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn variants_are_kept_apart_and_forgotten_when_others_decide() {
        let mut cache = ResponseCache::default();
        let names = || vec![http::header::ACCEPT_LANGUAGE];
        let put = |cache: &mut ResponseCache, names, value, length| {
            cache.insert("a".to_owned(), names, &language(value), answer(length), 9);
        };
        put(&mut cache, names(), "id", 1);
        put(&mut cache, names(), "en", 2);
        put(&mut cache, names(), "en", 3);
        let length = |cache: &mut ResponseCache, value| {
            let found = cache.get("a", &language(value));
            found.map(|answer| answer.body.len())
        };
        assert_eq!(length(&mut cache, "id"), Some(1));
        assert_eq!(length(&mut cache, "en"), Some(3));
        assert_eq!(length(&mut cache, "de"), None);
        put(&mut cache, vec![], "id", 4);
        assert_eq!(length(&mut cache, "en"), Some(4));
        assert_eq!(cache.by_use.len(), 1);
        cache.remove("a");
        assert_eq!((cache.bytes, cache.by_use.len()), (0, 0));
    }
}
