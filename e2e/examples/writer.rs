//! Writes numbered rows, one every few milliseconds, reconnects at once, and tells what a client
//! saw: the longest time between two acknowledged writes, and whether every acknowledged row is
//! there at the end.
//!
//! `writer --hosts 127.0.0.1:5431,127.0.0.1:5432 --seconds 20`; SIGINT and SIGTERM end it early.
//! The hosts may stand in a file that is read again at each reconnect (`--hosts-file`).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Parser;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio_postgres::{Client, NoTls};

#[derive(Parser)]
struct Arguments {
    /// host:port, separated by commas
    #[arg(long, default_value = "")]
    hosts: String,
    /// A file with hosts, read again at each reconnect
    #[arg(long)]
    hosts_file: Option<PathBuf>,
    #[arg(long, default_value = "postgres")]
    user: String,
    #[arg(long, env = "PGPASSWORD", default_value = "")]
    password: String,
    #[arg(long, default_value = "postgres")]
    database: String,
    #[arg(long, default_value_t = 10)]
    every_ms: u64,
    /// Ends by itself after so long
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// How long a login or a write may take before another host is tried; long behind a pool, which
    /// holds its clients
    #[arg(long, default_value_t = 500)]
    patience_ms: u64,
    /// Gaps longer than this are told as they end
    #[arg(long, default_value_t = 150)]
    tell_ms: u64,
    /// Where the last acknowledged number is kept, for scripts that wait for writes
    #[arg(long)]
    progress: Option<PathBuf>,
}

/// What came of one write.
enum Written {
    Acknowledged,
    /// Nobody knows; not counted as acknowledged.
    Indeterminate,
    Failed,
}

const RETRY: Duration = Duration::from_millis(5);
const ASK_AGAIN: Duration = Duration::from_secs(1);

fn hosts(arguments: &Arguments) -> Vec<(String, u16)> {
    let from_file = arguments
        .hosts_file
        .as_ref()
        .and_then(|path| std::fs::read_to_string(path).ok());
    let text = from_file.unwrap_or_else(|| arguments.hosts.clone());
    let host = |item: &str| {
        let (host, port) = item.trim().rsplit_once(':')?;
        Some((host.to_owned(), port.parse().ok()?))
    };
    text.split([',', '\n']).filter_map(host).collect()
}

async fn connect_one(arguments: &Arguments, host: String, port: u16) -> anyhow::Result<Client> {
    let within = Duration::from_millis(arguments.patience_ms);
    let mut config = tokio_postgres::Config::new();
    config
        .host(&host)
        .port(port)
        .user(&arguments.user)
        .dbname(&arguments.database)
        .password(&arguments.password);
    config.application_name("writer").connect_timeout(within);
    let (client, connection) = tokio::time::timeout(within, config.connect(NoTls)).await??;
    tokio::spawn(connection);
    let row =
        tokio::time::timeout(within, client.query_one("SELECT pg_is_in_recovery()", &[])).await??;
    anyhow::ensure!(!row.get::<_, bool>(0), "in recovery");
    Ok(client)
}

/// The first host that accepts writes: all are asked at once, and each again and again, so that a
/// silent one does not hold up the others.
async fn connect(arguments: &Arguments) -> Option<Client> {
    let attempt = |(host, port): (String, u16)| async move {
        loop {
            if let Ok(client) = connect_one(arguments, host.clone(), port).await {
                return client;
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    let mut attempts: FuturesUnordered<_> = hosts(arguments).into_iter().map(attempt).collect();
    // The hosts may be others by now.
    tokio::time::timeout(
        ASK_AGAIN.max(Duration::from_millis(arguments.patience_ms)),
        attempts.next(),
    )
    .await
    .ok()
    .flatten()
}

async fn write(client: &Client, number: i64, within: Duration) -> Written {
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&number];
    let insert = client.execute("INSERT INTO writer (n) VALUES ($1)", &values);
    match tokio::time::timeout(within, insert).await {
        Ok(Ok(_)) => Written::Acknowledged,
        Ok(Err(error)) if error.code().is_some() => Written::Failed,
        Ok(Err(_)) | Err(_) => Written::Indeterminate,
    }
}

fn clock() -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = now.as_secs() % 86_400;
    format!(
        "{:02}:{:02}:{:02}.{:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        now.subsec_millis()
    )
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut acknowledged: BTreeSet<i64> = BTreeSet::new();
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let mut report = Report {
        last: None,
        longest: Duration::ZERO,
        failed: 0,
        indeterminate: 0,
        tell: Duration::from_millis(arguments.tell_ms),
    };
    tokio::select! {
        () = write_on(&arguments, end, &mut acknowledged, &mut report) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    report.end();
    let lost = verify(&arguments, &acknowledged).await?;
    println!(
        "{{\"longest_gap_ms\":{},\"acknowledged\":{},\"lost\":{},\"failed\":{},\"indeterminate\":{}}}",
        report.longest.as_millis(),
        acknowledged.len(),
        lost.len(),
        report.failed,
        report.indeterminate
    );
    anyhow::ensure!(lost.is_empty(), "acknowledged rows are missing: {lost:?}");
    Ok(())
}

struct Report {
    last: Option<Instant>,
    longest: Duration,
    failed: u64,
    indeterminate: u64,
    tell: Duration,
}

impl Report {
    /// A gap that is still open at the end counts, too.
    fn end(&mut self) {
        self.longest = self
            .longest
            .max(self.last.map_or(Duration::ZERO, |last| last.elapsed()));
    }

    fn acknowledged(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last {
            let gap = now - last;
            if gap >= self.tell {
                eprintln!("{}  writes go on after {} ms", clock(), gap.as_millis());
            }
            self.longest = self.longest.max(gap);
        }
        self.last = Some(now);
    }
}

async fn write_on(
    arguments: &Arguments,
    end: Instant,
    acknowledged: &mut BTreeSet<i64>,
    report: &mut Report,
) {
    let mut number = i64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros(),
    )
    .unwrap_or(0);
    while Instant::now() < end {
        let Some(client) = connect(arguments).await else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        if client.batch_execute("CREATE TABLE IF NOT EXISTS writer (n bigint PRIMARY KEY, at timestamptz DEFAULT now())").await.is_err() {
            continue;
        }
        while Instant::now() < end {
            number += 1;
            match write(
                &client,
                number,
                Duration::from_millis(arguments.patience_ms),
            )
            .await
            {
                Written::Acknowledged => {
                    acknowledged.insert(number);
                    report.acknowledged();
                    if let Some(path) = &arguments.progress {
                        let _ = std::fs::write(path, acknowledged.len().to_string());
                    }
                }
                Written::Indeterminate => {
                    report.indeterminate += 1;
                    break;
                }
                Written::Failed => {
                    report.failed += 1;
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(arguments.every_ms)).await;
        }
    }
}

/// Acknowledged rows that are not there.
async fn verify(arguments: &Arguments, acknowledged: &BTreeSet<i64>) -> anyhow::Result<Vec<i64>> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(client) = connect(arguments).await
            && let Ok(Ok(rows)) = tokio::time::timeout(
                Duration::from_secs(20),
                client.query("SELECT n FROM writer", &[]),
            )
            .await
        {
            let present: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
            return Ok(acknowledged.difference(&present).copied().collect());
        }
        if Instant::now() > deadline {
            return Err(anyhow::anyhow!("no host accepts writes after two minutes"))
                .context("unable to verify");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
