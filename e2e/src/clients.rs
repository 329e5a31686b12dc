//! Clients of the database, which are programs of their own: a stalled test must not look like a
//! stalled database.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::process::{Child, Command};

use crate::cluster::Cluster;
use crate::namespace::Namespace;
use crate::pool::Pool;
use crate::wait::{eventually, seconds};

/// How long a client goes on beyond its time, to find its rows again.
const VERIFYING: std::time::Duration = seconds(150);

/// What a writer saw.
#[derive(Debug, Deserialize)]
pub struct Writes {
    /// The longest time between two acknowledged writes, in milliseconds.
    pub longest_gap_ms: u64,
    /// How many were acknowledged.
    pub acknowledged: u64,
    /// How many of them were not there at the end.
    pub lost: u64,
}

/// What a crowd saw.
#[derive(Debug, Deserialize)]
pub struct Transactions {
    /// Errors of clients with a transaction under way.
    pub in_flight_errors: u64,
    /// Errors of clients without one.
    pub idle_errors: u64,
    /// How many acknowledged rows were not there at the end.
    pub lost: u64,
}

/// One client that writes a row every few milliseconds, to whichever member leads.
pub struct Writer(Client);

/// Two hundred clients behind a pool.
pub struct Crowd(Client);

impl Writer {
    /// Starts one that writes for so many seconds, and waits for its first writes.
    ///
    /// # Errors
    /// If nothing is written within 20 s.
    pub async fn start(cluster: &Cluster, seconds: u64) -> anyhow::Result<Self> {
        let namespace = &cluster.namespace;
        let address = |pod: k8s_openapi::api::core::v1::Pod| Some(pod.status?.pod_ip? + ":5432\n");
        let members = cluster.members().await?;
        let hosts: String = members.into_iter().filter_map(address).collect();
        let hosts_file = namespace.folder().join("hosts");
        std::fs::write(&hosts_file, hosts)?;
        let mut command = Command::new(namespace.lab.example("writer"));
        command.arg("--hosts-file").arg(hosts_file);
        let password = cluster.password("superuser-password").await?;
        Ok(Self(
            Client::start("writer", namespace, command, &password, seconds).await?,
        ))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it failed, or an acknowledged row was lost.
    pub async fn end(self) -> anyhow::Result<Writes> {
        let writes: Writes = self.0.end().await?;
        anyhow::ensure!(
            writes.lost == 0,
            "{} acknowledged rows were lost",
            writes.lost
        );
        Ok(writes)
    }
}

impl Crowd {
    /// Starts one on a node, since Services exist only there, and waits for its first transactions.
    ///
    /// # Errors
    /// If there are none within 30 s.
    pub async fn start(
        cluster: &Cluster,
        pool: &Pool,
        seconds: u64,
        more: &[&str],
    ) -> anyhow::Result<Self> {
        let namespace = &cluster.namespace;
        let (address, port, database) = pool.endpoint().await?;
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", "mrg-n1"])
            .arg(namespace.lab.example("crowd"))
            .args(["--host", &address, "--port", &port.to_string()])
            .args(["--database", database, "--user", "app"])
            .args(more);
        let password = cluster.password("app-password").await?;
        Ok(Self(
            Client::start("crowd", namespace, command, &password, seconds).await?,
        ))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it failed, or an acknowledged row was lost.
    pub async fn end(self) -> anyhow::Result<Transactions> {
        let seen: Transactions = self.0.end().await?;
        anyhow::ensure!(seen.lost == 0, "{} acknowledged rows were lost", seen.lost);
        Ok(seen)
    }
}

/// A program that runs for a time, and prints what it saw as JSON.
struct Client {
    name: &'static str,
    namespace: Namespace,
    child: Child,
    remaining: std::time::Duration,
}

impl Client {
    async fn start(
        name: &'static str,
        namespace: &Namespace,
        mut command: Command,
        password: &str,
        for_seconds: u64,
    ) -> anyhow::Result<Self> {
        let progress: PathBuf = namespace.folder().join(format!("{name}.progress"));
        let _ = std::fs::remove_file(&progress);
        let errors = std::fs::File::create(namespace.folder().join(format!("{name}.err")))?;
        let child = command
            .args(["--seconds", &for_seconds.to_string()])
            .arg("--progress")
            .arg(&progress)
            .env("PGPASSWORD", password)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("unable to start {name}"))?;
        eventually("the first rows", seconds(30), async || {
            let written = std::fs::metadata(&progress).is_ok_and(|file| file.len() > 0);
            anyhow::ensure!(written, "{name} has no progress");
            Ok(())
        })
        .await?;
        tokio::time::sleep(seconds(1)).await;
        Ok(Self {
            name,
            namespace: namespace.clone(),
            child,
            remaining: seconds(for_seconds) + VERIFYING,
        })
    }

    async fn end<T: DeserializeOwned>(self) -> anyhow::Result<T> {
        let name = self.name;
        let output = tokio::time::timeout(self.remaining, self.child.wait_with_output())
            .await
            .with_context(|| format!("{name} does not end"))??;
        let printed = String::from_utf8_lossy(&output.stdout);
        self.namespace.note(format!("{name}: {}", printed.trim()));
        let errors = self.namespace.folder().join(format!("{name}.err"));
        let errors = std::fs::read_to_string(errors).unwrap_or_default();
        anyhow::ensure!(output.status.success(), "{name} failed: {printed}{errors}");
        serde_json::from_str(&printed).with_context(|| format!("{name} printed {printed}"))
    }
}
