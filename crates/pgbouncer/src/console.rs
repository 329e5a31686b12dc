//! The admin console: a session with the database `pgbouncer`, in the simple query protocol.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::configuration::Login;

/// What went wrong with PgBouncer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No session could be had.
    #[error("unable to connect to PgBouncer")]
    Connect(#[source] tokio_postgres::Error),
    /// A command failed.
    #[error("PgBouncer refused {command}")]
    Command {
        /// Which.
        command: String,
        /// Why.
        source: tokio_postgres::Error,
    },
    /// No answer.
    #[error("PgBouncer did not answer {0} in time")]
    Timeout(String),
}

/// How PgBouncer's pools stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pools {
    /// Client connections, without the anchors.
    pub clients: u64,
    /// Clients that wait for a server connection.
    pub waiting: u64,
    /// Server connections with a client, without the anchors'.
    pub servers_active: u64,
    /// Server connections without one.
    pub servers_idle: u64,
    /// How long the first of those who wait has waited; microseconds.
    pub longest_wait_us: u64,
}

/// A session with the console.
pub struct Console {
    client: Client,
    within: Duration,
}

/// Connects to PgBouncer's socket.
pub(super) async fn connect(
    directory: &Path,
    port: u16,
    login: &Login,
    database: &str,
    within: Duration,
) -> Result<Client, Error> {
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(directory)
        .port(port)
        .user(&login.user)
        .password(&login.password)
        .dbname(database);
    let connected = tokio::time::timeout(within, config.connect(NoTls)).await;
    let (client, connection) = connected
        .map_err(|_| Error::Timeout("a login".to_owned()))?
        .map_err(Error::Connect)?;
    tokio::spawn(async move {
        // A lost connection shows in the next command.
        let _ = connection.await;
    });
    Ok(client)
}

impl Console {
    /// Opens a session over the socket in `directory`.
    ///
    /// # Errors
    /// If PgBouncer does not accept the login, or does not answer in time.
    pub async fn open(
        directory: &Path,
        port: u16,
        administrator: &Login,
        within: Duration,
    ) -> Result<Self, Error> {
        Ok(Self {
            client: connect(directory, port, administrator, "pgbouncer", within).await?,
            within,
        })
    }

    async fn run(&self, command: &str) -> Result<Vec<SimpleQueryMessage>, Error> {
        match tokio::time::timeout(self.within, self.client.simple_query(command)).await {
            Ok(Ok(messages)) => Ok(messages),
            Ok(Err(source)) => Err(Error::Command {
                command: command.to_owned(),
                source,
            }),
            Err(_) => Err(Error::Timeout(command.to_owned())),
        }
    }

    /// A command whose refusal says that it was done before.
    async fn run_idempotent(&self, command: &str) -> Result<(), Error> {
        match self.run(command).await {
            Err(Error::Command { source, .. }) if source.as_db_error().is_some() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Makes PgBouncer read its files again.
    ///
    /// # Errors
    /// If PgBouncer does not accept the command, or does not answer in time.
    pub async fn reload(&self) -> Result<(), Error> {
        self.run("RELOAD").await.map(|_| ())
    }

    /// Ends a pause; none is no error.
    ///
    /// # Errors
    /// If PgBouncer does not accept the command, or does not answer in time.
    pub async fn resume(&self) -> Result<(), Error> {
        self.run_idempotent("RESUME").await
    }

    /// Pauses all pools: new queries wait from the moment that this is sent. The answer comes when
    /// the last transaction is done, which with an anchor is never, so it is not awaited: the
    /// session belongs to the pause and is dropped after the end of it.
    pub fn pause(self) -> Paused {
        let client = self.client;
        let answer = tokio::spawn(async move {
            // A pause that is on already is refused, and is as good.
            let _ = client.simple_query("PAUSE").await;
            client
        });
        Paused { answer }
    }

    /// Whether all pools are paused.
    ///
    /// # Errors
    /// If PgBouncer does not accept the command, or does not answer in time.
    pub async fn is_paused(&self) -> Result<bool, Error> {
        let says = |row: &BTreeMap<String, String>| {
            row.get("key").is_some_and(|key| key == "paused")
                && row.get("value").is_some_and(|value| value == "yes")
        };
        Ok(rows(self.run("SHOW STATE").await?).iter().any(says))
    }

    /// Whether new clients may log in to a database.
    ///
    /// # Errors
    /// If PgBouncer does not accept the command, or does not answer in time.
    pub async fn enable(&self, alias: &str, enabled: bool) -> Result<(), Error> {
        let verb = if enabled { "ENABLE" } else { "DISABLE" };
        self.run_idempotent(&format!("{verb} \"{}\"", alias.replace('"', "\"\"")))
            .await
    }

    /// Changes a setting until its files are read again. `name` is one of PgBouncer's.
    ///
    /// # Errors
    /// If PgBouncer does not accept the command, or does not answer in time.
    pub async fn set(&self, name: &str, value: &str) -> Result<(), Error> {
        let value = value.replace('\'', "''");
        self.run(&format!("SET {name} = '{value}'"))
            .await
            .map(|_| ())
    }

    /// How the pools stand. `anchors` is how many pools have one.
    ///
    /// # Errors
    /// If PgBouncer does not accept the command, or does not answer in time.
    pub async fn pools(&self, anchors: u64) -> Result<Pools, Error> {
        let mut sums = BTreeMap::new();
        let mut longest_wait_us = 0;
        for row in rows(self.run("SHOW POOLS").await?) {
            if row
                .get("database")
                .is_some_and(|database| database == "pgbouncer")
            {
                continue;
            }
            let number = |name: &str| {
                row.get(name)
                    .and_then(|text| text.parse::<u64>().ok())
                    .unwrap_or(0)
            };
            for name in ["cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_used"] {
                *sums.entry(name).or_insert(0) += number(name);
            }
            longest_wait_us =
                longest_wait_us.max(number("maxwait") * 1_000_000 + number("maxwait_us"));
        }
        let sum = |name: &str| sums.get(name).copied().unwrap_or(0);
        Ok(Pools {
            clients: (sum("cl_active") + sum("cl_waiting")).saturating_sub(anchors),
            waiting: sum("cl_waiting"),
            servers_active: sum("sv_active").saturating_sub(anchors),
            servers_idle: sum("sv_idle") + sum("sv_used"),
            longest_wait_us,
        })
    }

    /// Ends the sessions of clients that have no server and wait for none: an application's own
    /// pool notices before it uses them again. Gives how many. PgBouncer before 1.24 cannot do it.
    ///
    /// # Errors
    /// If PgBouncer does not accept the command, or does not answer in time.
    pub async fn end_idle_clients(&self) -> Result<usize, Error> {
        let mut ended = 0;
        for row in rows(self.run("SHOW CLIENTS").await?) {
            let text = |name: &str| row.get(name).map_or("", String::as_str);
            let idle = text("state") == "active" && text("link").is_empty();
            if idle && text("database") != "pgbouncer" && !text("id").is_empty() {
                self.run_idempotent(&format!("KILL_CLIENT {}", text("id")))
                    .await?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// `SHUTDOWN WAIT_FOR_CLIENTS`: no new clients; ends when the last one is gone.
    ///
    /// # Errors
    /// If PgBouncer does not accept the command, or does not answer in time.
    pub async fn shut_down_after_clients(&self) -> Result<(), Error> {
        self.run("SHUTDOWN WAIT_FOR_CLIENTS").await.map(|_| ())
    }
}

/// A pause; drop it after [`Console::resume`].
pub struct Paused {
    answer: tokio::task::JoinHandle<Client>,
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.answer.abort();
    }
}

fn rows(messages: Vec<SimpleQueryMessage>) -> Vec<BTreeMap<String, String>> {
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(
            row.columns()
                .iter()
                .enumerate()
                .map(|(index, column)| {
                    (
                        column.name().to_owned(),
                        row.get(index).unwrap_or_default().to_owned(),
                    )
                })
                .collect(),
        ),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}
