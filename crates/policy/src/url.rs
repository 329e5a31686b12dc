//! Where a provider is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `http://host[:port][/base]` or `https://…`. Nothing else: no user, no query, no fragment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Url {
    /// Whether the proxy speaks TLS to it.
    pub tls: bool,
    /// A name or an address; an IPv6 address in brackets.
    pub host: String,
    /// The port; 80 or 443 if none was given.
    pub port: u16,
    /// What every path begins with; empty, or `/…` without a slash at its end.
    pub base: String,
}

/// The text is no such address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidUrl {
    text: String,
    because: &'static str,
}

impl fmt::Display for InvalidUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no address of a provider: {}; write http://host:port or https://host/base",
            self.text, self.because
        )
    }
}

impl std::error::Error for InvalidUrl {}

impl TryFrom<String> for Url {
    type Error = InvalidUrl;

    fn try_from(text: String) -> Result<Self, InvalidUrl> {
        let refuse = |because| InvalidUrl {
            text: text.clone(),
            because,
        };
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(refuse("it does not begin with http:// or https://")),
        };
        let (authority, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if base.contains(['?', '#']) || authority.contains(['?', '#', '@']) {
            return Err(refuse("a user, a query or a fragment has no place in it"));
        }
        if !base.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(refuse(
                "its path has characters that must be written as %XX",
            ));
        }
        let port_at = if authority.starts_with('[') {
            authority.rfind("]:").map(|at| at + 1)
        } else {
            authority.rfind(':')
        };
        let (host, port) = match port_at {
            Some(at) => {
                let port = authority[at + 1..].parse().ok().filter(|port| *port > 0);
                (
                    &authority[..at],
                    port.ok_or_else(|| refuse("its port is no number from 1 to 65535"))?,
                )
            }
            None => (authority, if tls { 443 } else { 80 }),
        };
        let legal =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        if host.is_empty()
            || host.len() > 253
            || !host.chars().all(legal)
            || (host.contains(':') && !host.starts_with('['))
        {
            return Err(refuse("its host is no name and no address"));
        }
        Ok(Self {
            tls,
            host: host.to_ascii_lowercase(),
            port,
            base: base.trim_end_matches('/').to_owned(),
        })
    }
}

impl From<Url> for String {
    fn from(url: Url) -> String {
        url.to_string()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}{}",
            if self.tls { "https://" } else { "http://" },
            self.authority()
        )?;
        f.write_str(&self.base)
    }
}

impl Url {
    /// As the `Host` header has it: the port only where it is not the scheme's own.
    pub fn authority(&self) -> String {
        if self.port == if self.tls { 443 } else { 80 } {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Url {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Url".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^https?://[A-Za-z0-9._:\\[\\]-]+(/[^?#\\s]*)?$", "maxLength": 500 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_and_put_together() {
        for (text, host, port, base) in [
            ("http://bbd.dispatch:8080", "bbd.dispatch", 8080, ""),
            ("https://api.Example.com/v2/", "api.example.com", 443, "/v2"),
            ("http://[::1]:9000/x", "[::1]", 9000, "/x"),
            ("http://10.0.0.1", "10.0.0.1", 80, ""),
        ] {
            let url = Url::try_from(text.to_owned()).unwrap();
            assert_eq!(
                (url.host.as_str(), url.port, url.base.as_str()),
                (host, port, base),
                "{text}"
            );
            assert_eq!(Url::try_from(url.to_string()), Ok(url));
        }
        for wrong in [
            "",
            "bbd:80",
            "ftp://x",
            "http://",
            "http://x:0",
            "http://x:99999",
            "http://u@x",
            "http://x?y",
            "http://a b",
            "http://x/\u{e9}",
            "http://::1",
        ] {
            assert!(Url::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
