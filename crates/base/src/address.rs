//! Addresses of servers.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A host and a TCP port, written `host:port`; an IPv6 address stands in brackets, as in the
/// authority of a URL (RFC 3986, section 3.2.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A host name or an IP address, without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InvalidAddress {
    /// There is no `:port`, or what stands there is not a port.
    NoPort,
    /// The host is empty or has a character that no host name has.
    Host,
    /// An IPv6 address without brackets: where its port begins cannot be told.
    Unbracketed,
    /// What stands in brackets is not an IPv6 address.
    NotIpv6,
}

impl fmt::Display for InvalidAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            InvalidAddress::NoPort => "is not of the form host:port",
            InvalidAddress::Host => {
                "has no host name before its port: letters, digits, `-`, `_` and `.` are allowed"
            }
            InvalidAddress::Unbracketed => {
                "is an IPv6 address without brackets; write [address]:port"
            }
            InvalidAddress::NotIpv6 => "has something in brackets that is not an IPv6 address",
        })
    }
}

impl std::error::Error for InvalidAddress {}

impl Address {
    /// Whether the host is an IPv6 address, with a zone (`fe80::1%eth0`) or without one.
    fn is_ipv6(host: &str) -> bool {
        let (address, zone) = host.split_once('%').unwrap_or((host, "0"));
        let zone_is_plain = zone
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone_is_plain
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let (host, port) = text.rsplit_once(':').ok_or(InvalidAddress::NoPort)?;
        // "+80" is a number to Rust, and no port.
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits);
        let port = port.ok_or(InvalidAddress::NoPort)?;
        let bracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(host) if Self::is_ipv6(host) => host,
            Some(_) => return Err(InvalidAddress::NotIpv6),
            None if host.contains(':') => return Err(InvalidAddress::Unbracketed),
            None => host,
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if bracketed.is_none() && (host.is_empty() || !host.bytes().all(legal)) {
            return Err(InvalidAddress::Host);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_back_as_it_was_written() {
        for text in [
            "pg-1:5432",
            "pg_node.example.com:1",
            "10.0.0.2:65535",
            "[::1]:5432",
            "[2001:db8::7]:8008",
            "[fe80::1%eth0]:5432",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("[::1]:5432".parse::<Address>().unwrap().host, "::1");
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        for (text, reason) in [
            ("5432", InvalidAddress::NoPort),
            ("host:", InvalidAddress::NoPort),
            ("host:+80", InvalidAddress::NoPort),
            ("host:65536", InvalidAddress::NoPort),
            (":5432", InvalidAddress::Host),
            ("a b:5432", InvalidAddress::Host),
            ("user@host:5432", InvalidAddress::Host),
            ("a/b:5432", InvalidAddress::Host),
            ("a,b:5432", InvalidAddress::Host),
            ("::1:5432", InvalidAddress::Unbracketed),
            ("[::1:5432", InvalidAddress::Unbracketed),
            ("[10.0.0.1]:5432", InvalidAddress::NotIpv6),
            ("[::1%]:5432", InvalidAddress::NotIpv6),
        ] {
            assert_eq!(text.parse::<Address>(), Err(reason), "{text}");
        }
    }
}
