//! The parts of HTTP that a configuration names, valid by construction: the proxy turns them into
//! its HTTP library's types without a case for failure.

use std::net::Ipv6Addr;

use super::Url;

/// The longest name of a header that HTTP libraries take, in bytes.
const MAX_HEADER_NAME: usize = 65_535;
/// The longest path of a configuration, in bytes. HTTP libraries take 65534; some room is left for
/// what a request adds.
const MAX_PATH: usize = 4_096;

/// Whether a text is a token (RFC 9110, 5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

macro_rules! text {
    ($name:ident) => {
        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
    };
}

/// The name of a header: a token (RFC 9110, 5.1), as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderName(String);

text!(HeaderName);

impl HeaderName {
    /// `None` if the text is no token, or longer than 65535 bytes.
    pub fn new(text: &str) -> Option<Self> {
        (is_token(text) && text.len() <= MAX_HEADER_NAME).then(|| Self(text.to_owned()))
    }
}

/// The value of a header: printable ASCII and spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderValue(String);

text!(HeaderValue);

impl HeaderValue {
    /// `None` if the text has control characters, or characters beyond ASCII.
    pub fn new(text: &str) -> Option<Self> {
        text.bytes()
            .all(|byte| (b' '..=b'~').contains(&byte))
            .then(|| Self(text.to_owned()))
    }
}

/// A method: a token (RFC 9110, 9.1) in capitals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(String);

text!(Method);

impl Method {
    /// `None` if the text is no token, or has small letters.
    pub fn new(text: &str) -> Option<Self> {
        let small = |byte: u8| byte.is_ascii_lowercase();
        (is_token(text) && !text.bytes().any(small)).then(|| Self(text.to_owned()))
    }
}

/// The status of a final answer: 200 to 599.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusCode(u16);

impl StatusCode {
    /// `None` outside of 200 to 599.
    pub fn new(status: u16) -> Option<Self> {
        (200..=599).contains(&status).then_some(Self(status))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

/// Where a server is, as a `Host` header names it: a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority(String);

text!(Authority);

impl Authority {
    /// The server of a provider; the port is left out where it is the scheme's own. `None` if the
    /// host is neither a name nor an address.
    pub fn of(url: &Url) -> Option<Self> {
        is_host(&url.host).then(|| Self(url.authority()))
    }

    /// The server of a provider, with its port in any case; `None` as for [`Authority::of`].
    pub fn with_port(url: &Url) -> Option<Self> {
        is_host(&url.host).then(|| Self(format!("{}:{}", url.host, url.port)))
    }

    /// A port of the pod itself.
    pub fn loopback(port: u16) -> Self {
        Self(format!("127.0.0.1:{port}"))
    }
}

fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=253).contains(&text.len()) && text.chars().all(legal)
}

/// Whether a byte may stand in a path as it is.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!$%&'()*+,-./:;=@[\\]^_|~".contains(&byte)
}

/// What every path to a provider begins with: empty, or `/…` without a slash at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BasePath(String);

text!(BasePath);

impl BasePath {
    /// `None` if the text does not begin with a slash, ends with one, has characters that must be
    /// written as %XX, or is longer than 4096 bytes.
    pub fn new(text: &str) -> Option<Self> {
        let whole = text.is_empty() || (text.starts_with('/') && !text.ends_with('/'));
        (whole && text.len() <= MAX_PATH && text.bytes().all(is_path_byte))
            .then(|| Self(text.to_owned()))
    }
}

/// What a request asks for: a path, and possibly a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPath(String);

text!(RequestPath);

impl RequestPath {
    /// `None` if the text does not begin with a slash, has characters that must be written as %XX,
    /// or is longer than 4096 bytes.
    pub fn new(text: &str) -> Option<Self> {
        let legal = |byte| is_path_byte(byte) || byte == b'?';
        (text.starts_with('/') && text.len() <= MAX_PATH && text.bytes().all(legal))
            .then(|| Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_http_does_not_allow_is_no_value() {
        for wrong in ["", "a b", "a:b", "ä", "a\n", &"a".repeat(65_536)] {
            assert_eq!(HeaderName::new(wrong), None, "{wrong}");
        }
        assert_eq!(HeaderName::new("X-Key").unwrap().as_str(), "X-Key");
        for wrong in ["a\nb", "\t", "ä", "\u{7f}"] {
            assert_eq!(HeaderValue::new(wrong), None, "{wrong}");
        }
        assert_eq!(HeaderValue::new("").unwrap().as_str(), "");
        for wrong in ["", "get", "G ET"] {
            assert_eq!(Method::new(wrong), None, "{wrong}");
        }
        for wrong in [0, 42, 199, 600, 1000] {
            assert_eq!(StatusCode::new(wrong), None, "{wrong}");
        }
        assert_eq!(StatusCode::new(503).unwrap().get(), 503);
        for wrong in ["x", "/x/", "/a b", "/<", "/x?y", "/#"] {
            assert_eq!(BasePath::new(wrong), None, "{wrong}");
        }
        assert_eq!(BasePath::new("/v2/%41").unwrap().as_str(), "/v2/%41");
        for wrong in ["", "x", "/a b", "/#"] {
            assert_eq!(RequestPath::new(wrong), None, "{wrong}");
        }
        assert_eq!(RequestPath::new("/up?x=1").unwrap().as_str(), "/up?x=1");
    }

    #[test]
    fn an_authority_names_a_host_that_exists_in_the_grammar() {
        let url = |host: &str| Url {
            tls: false,
            host: host.to_owned(),
            port: 80,
            base: String::new(),
        };
        for wrong in ["", "a[b", "[::1", "::1", "[x]", "a/b"] {
            assert_eq!(Authority::of(&url(wrong)), None, "{wrong}");
        }
        assert_eq!(Authority::of(&url("[::1]")).unwrap().as_str(), "[::1]");
        assert_eq!(
            Authority::with_port(&url("bbd.dispatch")).unwrap().as_str(),
            "bbd.dispatch:80"
        );
    }
}
