//! PgBouncer's files: `pgbouncer.ini`, the user list, the rules of who may log in from where.

mod checks;
mod settings;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use mrg_pool_core::Address;

pub use checks::{ADMINISTRATOR, is_one_line};
pub use settings::{RESERVED_SETTINGS, is_known_setting};

/// A database as clients name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// The name that clients use: letters, digits, `_`, `.` and `-`, which is what the file's
    /// syntax takes.
    pub alias: String,
    /// Its name on the server.
    pub name: String,
}

/// A user and its password; both towards clients and towards the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({})", self.user)
    }
}

/// Where server connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pass {
    /// To the anchor's server, before any client but the anchor may log in.
    Anchor {
        /// The directory of its socket.
        directory: PathBuf,
        /// The number in the socket's name.
        port: u16,
    },
    /// To these.
    Servers(Vec<Address>),
}

/// What one process is configured with.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// The directory of its files and its socket.
    pub directory: PathBuf,
    /// The port for clients.
    pub port: u16,
    /// Its number, from 1, among so many that share the port.
    pub process: (u16, u16),
    /// The databases.
    pub databases: Vec<Database>,
    /// The users.
    pub logins: Vec<Login>,
    /// The administrator, for the socket alone.
    pub administrator: Login,
    /// `session`, `transaction` or `statement`.
    pub pool_mode: String,
    /// Client connections in all.
    pub max_client_connections: u32,
    /// Server connections for each database and user.
    pub default_pool_size: u32,
    /// Whether clients must use TLS.
    pub tls_required: bool,
    /// Everything else.
    pub settings: BTreeMap<String, String>,
}

/// In force unless the user says otherwise.
const DEFAULT_SETTINGS: &[(&str, &str)] = &[
    // pgjdbc and Npgsql send the first with each login, libpq the second where `PGOPTIONS` is set;
    // PgBouncer turns away a client that sends what it neither tracks nor ignores.
    ("ignore_startup_parameters", "extra_float_digits,options"),
];

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn listed(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

impl Configuration {
    /// The main file.
    pub fn file(&self) -> PathBuf {
        self.directory.join("pgbouncer.ini")
    }

    /// The directory of the socket of one of the processes.
    fn socket_directory(&self, process: u16) -> PathBuf {
        let parent = self.directory.parent().unwrap_or(Path::new("/"));
        parent.join(process.to_string())
    }

    /// `pgbouncer.ini`
    pub fn render(&self, pass: &Pass) -> String {
        let mut text = String::from("; written by mrg-pooler\n");
        self.render_databases(&mut text, pass);
        self.render_peers(&mut text);
        self.render_settings(&mut text);
        text
    }

    fn render_databases(&self, text: &mut String, pass: &Pass) {
        text.push_str("[databases]\n");
        let target = match pass {
            Pass::Anchor { directory, port } => {
                format!("host={} port={port}", quoted(&directory.to_string_lossy()))
            }
            Pass::Servers(addresses) => {
                let hosts: Vec<&str> = addresses
                    .iter()
                    .map(|address| address.host.as_str())
                    .collect();
                // One port for all hosts is all that PgBouncer knows.
                format!(
                    "host={} port={}",
                    quoted(&hosts.join(",")),
                    addresses.first().map_or(5432, |address| address.port)
                )
            }
        };
        for database in &self.databases {
            let _ = writeln!(
                text,
                "{} = {target} dbname={}",
                database.alias,
                quoted(&database.name)
            );
        }
    }

    /// The processes that share the port, so that a request to cancel a query reaches the one that
    /// runs it.
    fn render_peers(&self, text: &mut String) {
        let (_, count) = self.process;
        if count <= 1 {
            return;
        }
        text.push_str("[peers]\n");
        for peer in 1..=count {
            let _ = writeln!(
                text,
                "{peer} = host={} port={}",
                quoted(&self.socket_directory(peer).to_string_lossy()),
                self.port
            );
        }
    }

    fn render_settings(&self, text: &mut String) {
        text.push_str("[pgbouncer]\n");
        let (number, count) = self.process;
        let file = |name: &str| self.directory.join(name).display().to_string();
        let own = [
            ("listen_addr", "*".to_owned()),
            ("listen_port", self.port.to_string()),
            ("unix_socket_dir", self.directory.display().to_string()),
            ("auth_type", "hba".to_owned()),
            ("auth_file", file("users")),
            ("auth_hba_file", file("hba")),
            ("admin_users", self.administrator.user.clone()),
            ("pool_mode", self.pool_mode.clone()),
            (
                "max_client_conn",
                self.max_client_connections
                    .saturating_add(self.anchors())
                    .saturating_add(8)
                    .to_string(),
            ),
            // The anchor takes a place in every pool.
            (
                "default_pool_size",
                self.default_pool_size.saturating_add(1).to_string(),
            ),
            ("min_pool_size", "0".to_owned()),
            // A login that failed must not keep the next one waiting once the server is back.
            ("server_login_retry", "0.1".to_owned()),
            ("so_reuseport", u8::from(count > 1).to_string()),
        ];
        if count > 1 {
            let _ = writeln!(text, "peer_id = {number}");
        }
        for (name, value) in own {
            let _ = writeln!(text, "{name} = {value}");
        }
        for (name, value) in DEFAULT_SETTINGS {
            if !self.settings.contains_key(*name) {
                let _ = writeln!(text, "{name} = {value}");
            }
        }
        for (name, value) in &self.settings {
            let _ = writeln!(text, "{name} = {value}");
        }
    }

    /// How many pools there are, each with its anchor.
    pub fn anchors(&self) -> u32 {
        u32::try_from(self.databases.len() * self.logins.len()).unwrap_or(u32::MAX)
    }

    fn users(&self) -> String {
        let line = |login: &Login| format!("{} {}\n", listed(&login.user), listed(&login.password));
        self.logins
            .iter()
            .chain([&self.administrator])
            .map(line)
            .collect()
    }

    fn rules(&self, pass: &Pass) -> String {
        let mut text = String::from("local all all scram-sha-256\n");
        if let Pass::Servers(_) = pass {
            // The console is for the pooler, over its socket.
            text.push_str("host pgbouncer all all reject\n");
            let kind = if self.tls_required { "hostssl" } else { "host" };
            let _ = writeln!(text, "{kind} all all all scram-sha-256");
        }
        text
    }

    /// Writes all files; each is whole at every moment.
    ///
    /// # Errors
    /// If a file cannot be written; those before it are new then.
    pub fn write(&self, pass: &Pass) -> std::io::Result<()> {
        let put = |name: &str, text: String| {
            let (path, fresh) = (
                self.directory.join(name),
                self.directory.join(format!("{name}.new")),
            );
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&fresh)?;
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            std::fs::rename(fresh, path)
        };
        put("users", self.users())?;
        put("hba", self.rules(pass))?;
        put("pgbouncer.ini", self.render(pass))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration() -> Configuration {
        let login = |user: &str, password: &str| Login {
            user: user.to_owned(),
            password: password.to_owned(),
        };
        Configuration {
            directory: "/run/mrg/1".into(),
            port: 6432,
            process: (1, 2),
            databases: vec![Database {
                alias: "mrg_write".to_owned(),
                name: "mrg's".to_owned(),
            }],
            logins: vec![login("app", "a\"b")],
            administrator: login("mrg-pooler", "x"),
            pool_mode: "transaction".to_owned(),
            max_client_connections: 1000,
            default_pool_size: 50,
            tls_required: false,
            settings: BTreeMap::from([("server_lifetime".to_owned(), "600".to_owned())]),
        }
    }

    fn servers() -> Pass {
        let address = |host: &str| Address {
            host: host.to_owned(),
            port: 5432,
        };
        Pass::Servers(vec![address("10.0.0.1"), address("10.0.0.2")])
    }

    #[test]
    fn names_and_passwords_are_quoted_as_pgbouncer_reads_them() {
        let text = configuration().render(&servers());
        assert!(
            text.contains("mrg_write = host='10.0.0.1,10.0.0.2' port=5432 dbname='mrg''s'"),
            "{text}"
        );
        assert!(configuration().users().starts_with("\"app\" \"a\"\"b\"\n"));
    }

    #[test]
    fn processes_that_share_a_port_know_each_other() {
        let text = configuration().render(&servers());
        assert!(
            text.contains("[peers]\n1 = host='/run/mrg/1' port=6432\n2 = host='/run/mrg/2' port=6432\n[pgbouncer]\npeer_id = 1\n"),
            "{text}"
        );
        assert!(text.contains("so_reuseport = 1\n"));
    }

    #[test]
    fn nobody_logs_in_over_the_network_while_pools_lead_to_the_anchor() {
        let anchored = Pass::Anchor {
            directory: "/run/mrg/anchor".into(),
            port: 1,
        };
        let text = configuration().render(&anchored);
        assert!(text.contains("\nignore_startup_parameters = extra_float_digits,options\n"));
        let own = Configuration {
            settings: [("ignore_startup_parameters".to_owned(), "options".to_owned())].into(),
            ..configuration()
        };
        let text = own.render(&anchored);
        assert!(text.contains("\nignore_startup_parameters = options\n"));
        assert_eq!(text.matches("ignore_startup_parameters").count(), 1);
        assert!(!configuration().rules(&anchored).contains("host"));
        let rules = configuration().rules(&servers());
        assert!(
            rules.ends_with("\nhost pgbouncer all all reject\nhost all all all scram-sha-256\n"),
            "{rules}"
        );
        assert!(
            Configuration {
                tls_required: true,
                ..configuration()
            }
            .rules(&servers())
            .contains("hostssl all")
        );
    }
}
