//! What a server listens on.

use mrg_base::{Address, InvalidAddress};

/// Local addresses and one port, as Patroni writes them: `*:5432`, `10.0.0.1,localhost:5432`,
/// `[::1]:5432`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Host names, IP addresses without brackets, or `*` for all interfaces; at least one.
    pub hosts: Vec<String>,
    /// The TCP port.
    pub port: u16,
}

/// All interfaces.
const ALL: &str = "*";

impl Listen {
    pub(super) fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let (hosts, port) = text.rsplit_once(':').ok_or(InvalidAddress::NoPort)?;
        let parse = |host: &str| {
            let host = host.trim();
            // The port of all is the port of each.
            let plain = if host == ALL { "any" } else { host };
            let address: Address = format!("{plain}:{port}").parse()?;
            Ok((
                if host == ALL {
                    ALL.to_owned()
                } else {
                    address.host
                },
                address.port,
            ))
        };
        let parsed: Vec<(String, u16)> = hosts.split(',').map(parse).collect::<Result<_, _>>()?;
        let port = parsed.first().ok_or(InvalidAddress::Host)?.1;
        Ok(Self {
            hosts: parsed.into_iter().map(|(host, _)| host).collect(),
            port,
        })
    }

    /// Where others can dial it, if that can be told from what it listens on.
    pub(super) fn dialled(&self) -> Option<Address> {
        match self.hosts.as_slice() {
            [host] if ![ALL, "0.0.0.0", "::"].contains(&host.as_str()) => Some(Address {
                host: host.clone(),
                port: self.port,
            }),
            _ => None,
        }
    }

    /// `listen_addresses`.
    pub(crate) fn listen_addresses(&self) -> String {
        self.hosts.join(",")
    }

    /// What to bind, in the order in which it is tried: `*` is both families where the machine has
    /// IPv6, else IPv4.
    pub(crate) fn to_bind(&self) -> Vec<Address> {
        let port = self.port;
        let address = |host: &str| Address {
            host: host.to_owned(),
            port,
        };
        match self.hosts.first().map(String::as_str) {
            Some(ALL) | None => vec![address("::"), address("0.0.0.0")],
            Some(host) => vec![address(host)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_patroni_listens_on_is_understood() {
        let rows: [(&str, &str, Option<&str>); 6] = [
            ("*:8008", "*", None),
            ("0.0.0.0:5432", "0.0.0.0", None),
            ("127.0.0.1:5432", "127.0.0.1", Some("127.0.0.1:5432")),
            ("[::1]:5432", "::1", Some("[::1]:5432")),
            ("[::]:5432", "::", None),
            (
                "localhost, 10.0.0.1,[::1]:5432",
                "localhost,10.0.0.1,::1",
                None,
            ),
        ];
        for (text, addresses, dialled) in rows {
            let listen = Listen::parse(text).unwrap();
            assert_eq!(listen.listen_addresses(), addresses);
            let address = listen.dialled().map(|address| address.to_string());
            assert_eq!(address.as_deref(), dialled, "{text}");
        }
        for text in ["5432", "a b:1", "::1:5432", ",:5432", "*:0x1"] {
            assert!(Listen::parse(text).is_err(), "{text}");
        }
    }
}
