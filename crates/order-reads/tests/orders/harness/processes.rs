//! Processes that end with the test.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::{DATABASE, PATIENCE};

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A process that ends with the test.
pub(crate) struct Running(pub Child);

impl Running {
    pub(crate) fn signal(&self, name: &str) {
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &self.0.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Running {
    /// Signals the children, and then the process itself.
    pub(crate) fn signal_all(&self, name: &str) {
        let signalled = Command::new("pkill")
            .args([&format!("-{name}"), "-P", &self.0.id().to_string()])
            .status()
            .unwrap();
        assert!(signalled.success());
        self.signal(name);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal_quietly("CONT");
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn signal_quietly(&self, name: &str) {
        let _ = Command::new("kill")
            .args([&format!("-{name}"), &self.0.id().to_string()])
            .stderr(Stdio::null())
            .status();
    }
}

pub(super) fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args([
            "--reuid",
            "postgres",
            "--regid",
            "postgres",
            "--clear-groups",
        ])
        .arg(format!("{BIN}/{program}"));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

pub(super) fn postgres(data: &Path, port: u16) -> Running {
    let mut command = as_postgres("postgres");
    command.arg("-D").arg(data).args([
        "-p",
        &port.to_string(),
        "-k",
        "",
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "fsync=off",
    ]);
    command.args([
        "-c",
        "wal_receiver_status_interval=1",
        "-c",
        "hot_standby=on",
        "-c",
        "shared_buffers=16MB",
    ]);
    Running(command.spawn().unwrap())
}

/// To the database of the orders.
pub(crate) async fn connect(user: &str, port: u16) -> Client {
    connect_to(DATABASE, user, port).await
}

pub(super) async fn connect_to(database: &str, user: &str, port: u16) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match tokio_postgres::connect(
            &format!("host=127.0.0.1 port={port} user={user} dbname={database} connect_timeout=2"),
            NoTls,
        )
        .await
        {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => assert!(
                Instant::now() < deadline,
                "PostgreSQL at {port} does not answer: {error}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
