//! What a watch has told so far. Pure: events in, objects out.

use std::collections::{BTreeMap, HashMap};

/// A resource version, as it grows. The API server compares them as integers, and so may clients:
/// KEP-5504, in Kubernetes since 1.35. One that is no number counts as the oldest, so that whatever
/// comes after it is taken.
pub(crate) fn version(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// An object as it was at a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held<T> {
    pub version: u64,
    pub value: T,
}

type Objects<T> = HashMap<String, BTreeMap<String, Held<T>>>;

/// The objects of a kind, by namespace and name. What was written by ourselves is in it at once,
/// and no news from before that replaces it.
#[derive(Debug)]
pub(crate) struct Mirror<T> {
    objects: Objects<T>,
    /// A list that is not complete yet.
    listing: Option<Objects<T>>,
}

impl<T> Default for Mirror<T> {
    fn default() -> Self {
        Self {
            objects: HashMap::new(),
            listing: None,
        }
    }
}

fn put<T>(objects: &mut Objects<T>, namespace: &str, name: &str, held: Held<T>) {
    let names = match objects.get_mut(namespace) {
        Some(names) => names,
        None => objects.entry(namespace.to_owned()).or_default(),
    };
    if names
        .get(name)
        .is_none_or(|there| there.version <= held.version)
    {
        names.insert(name.to_owned(), held);
    }
}

impl<T: Clone> Mirror<T> {
    /// A list begins: what it does not hold is gone when it ends.
    pub(crate) fn begin(&mut self) {
        self.listing = Some(HashMap::new());
    }

    /// An object of the list.
    pub(crate) fn listed(&mut self, namespace: &str, name: &str, held: Held<T>) {
        put(self.listing.get_or_insert_default(), namespace, name, held);
    }

    /// The list is complete. Gives what is gone.
    pub(crate) fn complete(&mut self) -> Vec<(String, String, T)> {
        let Some(listed) = self.listing.take() else {
            return Vec::new();
        };
        let old = std::mem::replace(&mut self.objects, listed);
        let all = old.into_iter().flat_map(|(namespace, names)| {
            names
                .into_iter()
                .map(move |(name, held)| (namespace.clone(), name, held.value))
        });
        all.filter(|(namespace, name, _)| self.get(namespace, name).is_none())
            .collect()
    }

    /// An object is there, or is another.
    pub(crate) fn put(&mut self, namespace: &str, name: &str, held: Held<T>) {
        if let Some(listing) = &mut self.listing {
            put(listing, namespace, name, held.clone());
        }
        put(&mut self.objects, namespace, name, held);
    }

    /// An object was deleted, at this version. One that was written later stays.
    pub(crate) fn remove(&mut self, namespace: &str, name: &str, version: u64) {
        let lists = [Some(&mut self.objects), self.listing.as_mut()];
        for objects in lists.into_iter().flatten() {
            let Some(names) = objects.get_mut(namespace) else {
                continue;
            };
            if names
                .get(name)
                .is_some_and(|there| there.version <= version)
            {
                names.remove(name);
            }
            if names.is_empty() {
                objects.remove(namespace);
            }
        }
    }

    /// The object, if it is there.
    pub(crate) fn get(&self, namespace: &str, name: &str) -> Option<&Held<T>> {
        self.objects.get(namespace)?.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(version: u64) -> Held<u64> {
        Held {
            version,
            value: version,
        }
    }

    fn with(name: &str, version: u64) -> Mirror<u64> {
        let mut mirror = Mirror::default();
        mirror.put("n", name, held(version));
        mirror
    }

    #[test]
    fn news_from_before_our_own_write_does_not_replace_it() {
        let mut mirror = with("a", 7);
        mirror.put("n", "a", held(5));
        assert_eq!(mirror.get("n", "a"), Some(&held(7)));
        mirror.remove("n", "a", 6);
        assert_eq!(
            mirror.get("n", "a"),
            Some(&held(7)),
            "an earlier object of the same name was deleted"
        );
        mirror.remove("n", "a", 8);
        assert_eq!(mirror.get("n", "a"), None);
        assert!(mirror.objects.is_empty());
    }

    #[test]
    fn what_a_new_list_does_not_hold_is_gone() {
        let mut mirror = with("a", 1);
        mirror.put("m", "b", held(2));
        mirror.begin();
        mirror.listed("n", "a", held(3));
        assert_eq!(
            mirror.get("n", "a"),
            Some(&held(1)),
            "half a list says nothing"
        );
        assert_eq!(mirror.complete(), [("m".to_owned(), "b".to_owned(), 2)]);
        assert_eq!(mirror.get("n", "a"), Some(&held(3)));
        assert!(mirror.complete().is_empty(), "there was no list");
    }

    #[test]
    fn what_was_written_while_a_list_came_in_stays() {
        let mut mirror = with("a", 1);
        mirror.begin();
        mirror.put("n", "new", held(9));
        mirror.put("n", "a", held(8));
        mirror.listed("n", "a", held(3));
        assert!(mirror.complete().is_empty());
        assert_eq!(
            (mirror.get("n", "new"), mirror.get("n", "a")),
            (Some(&held(9)), Some(&held(8)))
        );
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version(Some("1000")) > version(Some("999")));
        assert_eq!((version(None), version(Some("a"))), (0, 0));
    }
}
