//! Names and values of headers.

use std::collections::BTreeMap;

use crate::check::{Found, Rejected};
use crate::values::{HeaderName, HeaderValue};

/// Headers that the proxy makes itself.
const RESERVED_HEADERS: [&str; 8] = [
    "host",
    "connection",
    "transfer-encoding",
    "content-length",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
];

pub(super) fn header(found: &mut Found, field: String, name: &str) -> Result<HeaderName, Rejected> {
    let parsed = HeaderName::new(name);
    if parsed.is_none() {
        found.add(
            field,
            format!("`{name}` is no name of a header: use letters, digits and -"),
        );
    } else if RESERVED_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
        found.add(
            field,
            format!("`{name}` is made by the proxy itself; take it out"),
        );
    }
    parsed.ok_or(Rejected)
}

pub(super) fn value(found: &mut Found, field: String, text: &str) -> Result<HeaderValue, Rejected> {
    let parsed = HeaderValue::new(text);
    if parsed.is_none() {
        let message = if text.is_ascii() {
            "its value has control characters; take them out".to_owned()
        } else {
            format!("`{text}` has characters beyond ASCII, which no header carries; encode them")
        };
        found.add(field, message);
    }
    parsed.ok_or(Rejected)
}

pub(super) fn headers(
    found: &mut Found,
    field: &str,
    headers: &BTreeMap<String, String>,
) -> Result<Vec<(HeaderName, HeaderValue)>, Rejected> {
    let mut parsed = Vec::new();
    for (name, text) in headers {
        let header = header(found, field.to_owned(), name);
        let value = value(found, format!("{field}.{name}"), text);
        parsed.push(header.and_then(|header| Ok((header, value?))));
    }
    parsed.into_iter().collect()
}
