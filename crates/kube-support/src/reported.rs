//! Statuses that are memory: one who decides by a status that he has written since decides the same
//! twice, or takes it back.

use std::collections::HashMap;
use std::sync::Mutex;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::mirror::version;
use mrg_base::lock;

/// At which version each object was when its status was last written, by namespace and name.
#[derive(Debug, Default)]
pub struct Reported(Mutex<HashMap<(String, String), u64>>);

impl Reported {
    /// A status was written; this is what the API server answered.
    pub fn written(&self, object: &ObjectMeta) {
        lock(&self.0).insert(key(object), version(object.resource_version.as_deref()));
    }

    /// Whether what was read of an object is older than what was written to it: then its reader
    /// waits for the news.
    pub fn is_ahead(&self, read: &ObjectMeta) -> bool {
        lock(&self.0)
            .get(&key(read))
            .is_some_and(|written| version(read.resource_version.as_deref()) < *written)
    }

    /// The object is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        lock(&self.0).remove(&(namespace.to_owned(), name.to_owned()));
    }
}

fn key(object: &ObjectMeta) -> (String, String) {
    (
        object.namespace.clone().unwrap_or_default(),
        object.name.clone().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_from_before_its_status_was_written_is_not_decided_about() {
        let at = |version: &str| ObjectMeta {
            namespace: Some("n".to_owned()),
            name: Some("a".to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        };
        let reported = Reported::default();
        assert!(!reported.is_ahead(&at("5")), "nothing was written");
        reported.written(&at("7"));
        assert!(reported.is_ahead(&at("6")));
        assert!(!reported.is_ahead(&at("7")) && !reported.is_ahead(&at("10")));
        reported.forget("n", "a");
        assert!(!reported.is_ahead(&at("6")));
    }
}
