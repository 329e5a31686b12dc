//! The pooler's file: JSON, written by the operator or by hand.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use mrg_base::{AGENT_PASSWORDS, Millis, Scope};
use mrg_pgbouncer::{Configuration, Login, RESERVED_SETTINGS, is_known_setting, is_one_line};
use mrg_pool_core::{Fallback, MaxLag};

/// PgBouncer's name for how long a client may take to log in.
pub(crate) const LOGIN_TIMEOUT: &str = "client_login_timeout";
/// A client that is let in at once needs a few milliseconds; one that sends nothing keeps a place
/// from others for this long.
pub(crate) const LOGIN_WITHIN: Duration = Duration::from_secs(10);
/// Open files of a process besides its connections: listeners, its own sessions with the console,
/// requests to cancel, the log.
const OWN_FILES: u64 = 64;

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read.
    #[error("unable to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {source}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The scope is not legal.
    #[error("scope: {0}")]
    Scope(#[from] mrg_base::InvalidName),
    /// A setting of PgBouncer that cannot be made here.
    #[error("settings.{name}: {reason}")]
    Setting {
        /// Which.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A database cannot stand in PgBouncer's file.
    #[error("databases: `{alias}` {reason}")]
    Database {
        /// Its name for clients.
        alias: String,
        /// Why not.
        reason: &'static str,
    },
    /// A login cannot stand in PgBouncer's list of users.
    #[error("users: `{user}` {reason}")]
    Login {
        /// The user.
        user: String,
        /// Why not.
        reason: &'static str,
    },
    /// PgBouncer would read another path.
    #[error("run_directory: {0:?} has a comma or a control character; choose another directory")]
    RunDirectory(PathBuf),
    /// The server connections of all pools take every file that a process may open.
    #[error(
        "default_pool_size: the pools of all databases and users may open {own} files in a process, and its limit is {limit}; raise the limit (ulimit -Hn, LimitNOFILE, or the container runtime's), or lower default_pool_size"
    )]
    OpenFiles {
        /// The limit.
        limit: u64,
        /// How many the pools may open.
        own: u64,
    },
    /// A user whose password file is the agent's own.
    #[error(
        "users: `{0}-password` is the agent's own password, which no pool gets; choose another name for the user"
    )]
    User(String),
    /// Something that must be there is empty.
    #[error("{0} is empty")]
    Empty(&'static str),
}

/// Which pool this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Mode {
    /// Its clients reach the leader.
    Write,
    /// Its clients reach standbys.
    Read,
}

/// A database as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// The name that clients use.
    pub alias: String,
    /// Its name on the server.
    pub name: String,
}

impl From<&Database> for mrg_pgbouncer::Database {
    fn from(database: &Database) -> Self {
        Self {
            alias: database.alias.clone(),
            name: database.name.clone(),
        }
    }
}

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolerConfig {
    /// The cluster's scope in etcd.
    pub scope: String,
    /// Patroni's namespace in etcd.
    #[serde(default = "service")]
    pub namespace: String,
    /// Where etcd is.
    pub etcd: Vec<String>,
    /// The pool's name.
    pub pool: String,
    /// This pod.
    #[serde(default)]
    pub pod: String,
    /// Which pool.
    pub mode: Mode,
    /// Where clients connect.
    pub port: u16,
    /// Where metrics and health checks are served.
    pub http_port: u16,
    /// How many PgBouncer processes share the port.
    pub processes: u16,
    /// PgBouncer's program.
    #[serde(default = "program")]
    pub program: String,
    /// The databases.
    pub databases: Vec<Database>,
    /// The users; the password of `app` stands in the file `app-password` of the secret's
    /// directory.
    pub users: Vec<String>,
    /// The directory of the passwords.
    pub secret_directory: PathBuf,
    /// The directory of PgBouncer's files and sockets.
    pub run_directory: PathBuf,
    /// PgBouncer's `pool_mode`.
    pub pool_mode: String,
    /// Client connections in a pod.
    pub max_client_connections: u32,
    /// Server connections for each database and user, in a pod.
    pub default_pool_size: u32,
    /// Whether clients must use TLS.
    #[serde(default)]
    pub tls_required: bool,
    /// PgBouncer's other settings.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// How long clients wait at most while no server is confirmed.
    pub max_hold_ms: Millis,
    /// How long a leader waits for this pool's transactions before it hands over.
    pub max_wait_ms: Millis,
    /// Whether a switchover is given up if they do not end.
    #[serde(default)]
    pub abandons: bool,
    /// How long a stopping pod waits for its clients.
    pub drain_ms: Millis,
    /// How many bytes a standby may be behind.
    #[serde(default)]
    pub max_lag_bytes: Option<u64>,
    /// How old the newest transaction of a standby may be.
    #[serde(default)]
    pub max_lag_ms: Option<Millis>,
    /// Whether clients of a read pool get the primary when no standby is near.
    #[serde(default)]
    pub falls_back: bool,
}

fn service() -> String {
    "service".to_owned()
}

fn program() -> String {
    "pgbouncer".to_owned()
}

impl PoolerConfig {
    /// Reads the file. The pod's name comes from the environment where the file has none.
    ///
    /// # Errors
    /// If the file cannot be read or parsed, or a value in it is not allowed.
    pub fn load(path: &Path, pod: Option<String>) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config: Self = serde_json::from_slice(&text).map_err(|source| Error::Parse {
            path: path.to_owned(),
            source,
        })?;
        if config.pod.is_empty() {
            config.pod = pod.unwrap_or_default();
        }
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Error> {
        Scope::new(&self.scope)?;
        for (what, empty) in [
            (
                "pod (or the environment variable POD_NAME)",
                self.pod.is_empty(),
            ),
            ("etcd", self.etcd.is_empty()),
            ("databases", self.databases.is_empty()),
            ("users", self.users.is_empty()),
        ] {
            if empty {
                return Err(Error::Empty(what));
            }
        }
        let directory = self.run_directory.to_string_lossy();
        if directory.contains(|c: char| c == ',' || c.is_control()) {
            return Err(Error::RunDirectory(self.run_directory.clone()));
        }
        if let Some(user) = self
            .users
            .iter()
            .find(|user| AGENT_PASSWORDS.contains(&user.as_str()))
        {
            return Err(Error::User(user.clone()));
        }
        for database in &self.databases {
            let read = mrg_pgbouncer::Database::from(database);
            read.check().map_err(|reason| Error::Database {
                alias: database.alias.clone(),
                reason,
            })?;
        }
        for (name, value) in &self.settings {
            let refuse = |reason| {
                Err(Error::Setting {
                    name: name.clone(),
                    reason,
                })
            };
            if RESERVED_SETTINGS.contains(&name.as_str()) {
                return refuse("mrg-pooler makes this setting itself");
            }
            if !is_known_setting(name) {
                return refuse("PgBouncer has no such setting");
            }
            if !is_one_line(value) {
                return refuse("its value begins or ends with a blank, or has a control character");
            }
        }
        Ok(())
    }

    /// What standbys a read pool may use.
    pub fn max_lag(&self) -> MaxLag {
        match (self.max_lag_bytes, self.max_lag_ms) {
            (_, Some(age)) => MaxLag::Time(age),
            (bytes, None) => MaxLag::Bytes(bytes.unwrap_or(16 << 20)),
        }
    }

    /// What a read pool does without any.
    pub fn fallback(&self) -> Fallback {
        if self.falls_back {
            Fallback::Primary
        } else {
            Fallback::Refuse
        }
    }

    /// How long a query waits for a server at most: longer than a hold, so that it is the pooler
    /// that decides.
    pub fn patience(&self) -> Duration {
        let wanted = self
            .settings
            .get("query_wait_timeout")
            .and_then(|text| text.parse().ok())
            .unwrap_or(120);
        let longer_than_a_hold = self.max_hold_ms + Millis::seconds(10);
        Millis::seconds(wanted).max(longer_than_a_hold).duration()
    }

    /// How long a client may take to log in while clients work. While they wait it is
    /// [`Self::patience`]: a client that logs in waits as well. `None` if the user has set a time,
    /// which holds in both cases.
    pub fn login_within(&self) -> Option<Duration> {
        let is_set = self.settings.contains_key(LOGIN_TIMEOUT);
        (!is_set).then_some(LOGIN_WITHIN)
    }

    /// The same with no more clients than fit into a limit of open files for each process.
    ///
    /// # Errors
    /// If not even the pools' server connections fit.
    pub fn within_open_files(mut self, limit: u64) -> Result<Self, Error> {
        let pools = (self.databases.len() * self.users.len()) as u64;
        let reserve = self.settings.get("reserve_pool_size");
        let reserve = reserve.and_then(|text| text.parse().ok()).unwrap_or(0u64);
        // Each pool has an anchor, which is a client and has a server connection.
        let each = u64::from(self.default_pool_size).saturating_add(reserve) + 2;
        let own = pools.saturating_mul(each).saturating_add(OWN_FILES);
        let clients = limit.saturating_sub(own);
        if clients == 0 {
            return Err(Error::OpenFiles { limit, own });
        }
        let fit = clients.saturating_mul(u64::from(self.processes.max(1)));
        let fit = u32::try_from(fit).unwrap_or(u32::MAX);
        self.max_client_connections = self.max_client_connections.min(fit);
        Ok(self)
    }

    /// The users with their passwords, as they stand in the secret now.
    ///
    /// # Errors
    /// If a user's file in the secret's directory cannot be read, or PgBouncer could not read the login.
    pub fn logins(&self) -> Result<Vec<Login>, Error> {
        let login = |user: &String| {
            let path = self.secret_directory.join(format!("{user}-password"));
            let password =
                std::fs::read_to_string(&path).map_err(|source| Error::Read { path, source })?;
            let login = Login {
                user: user.clone(),
                password: password.trim_end_matches('\n').to_owned(),
            };
            match login.check() {
                Ok(()) => Ok(login),
                Err(reason) => Err(Error::Login {
                    user: login.user,
                    reason,
                }),
            }
        };
        self.users.iter().map(login).collect()
    }

    /// What one of the processes is configured with.
    pub fn bouncer(&self, number: u16, logins: Vec<Login>, administrator: Login) -> Configuration {
        let share = |all: u32| all.div_ceil(u32::from(self.processes.max(1)));
        let mut settings = self.settings.clone();
        settings.insert(
            "query_wait_timeout".to_owned(),
            self.patience().as_secs().to_string(),
        );
        if let Some(within) = self.login_within() {
            settings.insert(LOGIN_TIMEOUT.to_owned(), within.as_secs().to_string());
        }
        for name in ["log_connections", "log_disconnections"] {
            settings
                .entry(name.to_owned())
                .or_insert_with(|| "0".to_owned());
        }
        settings
            .entry("max_prepared_statements".to_owned())
            .or_insert_with(|| "200".to_owned());
        Configuration {
            directory: self.run_directory.join(number.to_string()),
            port: self.port,
            process: (number, self.processes),
            databases: self.databases.iter().map(Into::into).collect(),
            logins,
            administrator,
            pool_mode: self.pool_mode.clone(),
            max_client_connections: share(self.max_client_connections),
            default_pool_size: share(self.default_pool_size),
            tls_required: self.tls_required,
            settings,
        }
    }
}

#[cfg(test)]
mod tests;
