//! A crowd of clients behind a pool: short transactions, reads and writes, prepared statements.
//! Tells what they saw: errors by kind, the longest stall, latencies, and whether every
//! acknowledged row is there at the end.
//!
//! `crowd --host 10.96.0.1 --port 6432 --database mrg_write --user mrg --clients 200 --seconds 30`;
//! SIGINT and SIGTERM end it early.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::Parser;
use tokio_postgres::{Client, NoTls, Statement};

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    host: String,
    #[arg(long, default_value_t = 6432)]
    port: u16,
    #[arg(long)]
    database: String,
    #[arg(long)]
    user: String,
    #[arg(long, env = "PGPASSWORD", default_value = "")]
    password: String,
    /// Where the password stands instead, read again for each login
    #[arg(long)]
    password_file: Option<PathBuf>,
    #[arg(long, default_value_t = 200)]
    clients: usize,
    #[arg(long, default_value_t = 3600)]
    seconds: u64,
    /// How long a client thinks between two transactions, on average
    #[arg(long, default_value_t = 100)]
    think_ms: u64,
    /// Every so manieth client only reads
    #[arg(long, default_value_t = 2)]
    read_every: usize,
    /// All clients only read
    #[arg(long)]
    read_only: bool,
    /// The table; only `crowd` is written
    #[arg(long, default_value = "crowd")]
    table: String,
    /// Where the number of transactions is kept, for scripts that wait for the first
    #[arg(long)]
    progress: Option<PathBuf>,
}

#[derive(Default)]
struct Seen {
    transactions: u64,
    acknowledged: BTreeSet<i64>,
    /// Errors of transactions whose first statement had been sent.
    in_flight: BTreeMap<String, u64>,
    /// Errors of everybody else: logins, and clients that had nothing under way.
    idle: BTreeMap<String, u64>,
    latencies_us: Vec<u32>,
    /// The longest time in which no transaction of anybody succeeded, and when the last one did.
    silence: Duration,
    succeeded: Option<Instant>,
    /// The same of transactions that write, and at which moment (milliseconds since 1970) it ended.
    write_silence: (Duration, u128),
    wrote: Option<Instant>,
}

/// A server that dies may say so in the same packet that ends a transaction, before PgBouncer has
/// taken it from the client: the client gets both.
const STILL_LINKED: Duration = Duration::from_millis(20);

/// Where a client was when it failed.
enum Failure {
    Idle(tokio_postgres::Error),
    InFlight(tokio_postgres::Error),
}

fn kind(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => format!("{} {}", error.code().code(), error.message()),
        None => error.to_string(),
    }
}

impl Seen {
    fn note(&mut self, failure: Result<(), Failure>) {
        // PgBouncer's words for a client that it had not given a server: it had nothing under way.
        let waited = |kind: &str| {
            [
                "server login has been failing",
                "query_wait_timeout",
                "disabled",
            ]
            .iter()
            .any(|words| kind.contains(words))
        };
        match failure {
            Ok(()) => {}
            Err(Failure::Idle(error)) => *self.idle.entry(kind(&error)).or_default() += 1,
            Err(Failure::InFlight(error)) if waited(&kind(&error)) => {
                *self.idle.entry(kind(&error)).or_default() += 1;
            }
            Err(Failure::InFlight(error)) => *self.in_flight.entry(kind(&error)).or_default() += 1,
        }
    }
}

/// A connection, and when it was closed, if it was.
type Closed = Arc<Mutex<Option<Instant>>>;

async fn connect(arguments: &Arguments) -> Result<Client, tokio_postgres::Error> {
    Ok(connect_and_watch(arguments).await?.0)
}

async fn connect_and_watch(
    arguments: &Arguments,
) -> Result<(Client, Closed), tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    let from_file = arguments
        .password_file
        .as_ref()
        .and_then(|path| std::fs::read_to_string(path).ok());
    let password = from_file.unwrap_or_else(|| arguments.password.clone());
    config
        .host(&arguments.host)
        .port(arguments.port)
        .user(&arguments.user)
        .dbname(&arguments.database)
        .password(password);
    config
        .application_name("crowd")
        .connect_timeout(Duration::from_secs(5));
    let (client, connection) = config.connect(NoTls).await?;
    let closed = Closed::default();
    let note = closed.clone();
    tokio::spawn(async move {
        let _ = connection.await;
        *note
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Instant::now());
    });
    Ok((client, closed))
}

struct Statements {
    insert: Statement,
    count: Statement,
}

async fn prepare(client: &Client, table: &str) -> Result<Statements, tokio_postgres::Error> {
    Ok(Statements {
        insert: client
            .prepare(&format!("INSERT INTO {table} (n) VALUES ($1)"))
            .await?,
        count: client
            .prepare(&format!("SELECT n FROM {table} ORDER BY n DESC LIMIT $1"))
            .await?,
    })
}

/// A read and a write in one transaction. The first round trip is the beginning: until it was
/// answered nothing was under way, though the server may have been reached, so its failure counts
/// as one in flight, too.
async fn write(client: &Client, statements: &Statements, number: i64) -> Result<(), Failure> {
    client
        .batch_execute("BEGIN")
        .await
        .map_err(Failure::InFlight)?;
    client
        .query(&statements.count, &[&1i64])
        .await
        .map_err(Failure::InFlight)?;
    client
        .execute(&statements.insert, &[&number])
        .await
        .map_err(Failure::InFlight)?;
    client
        .batch_execute("COMMIT")
        .await
        .map_err(Failure::InFlight)
}

async fn one_client(
    arguments: &Arguments,
    index: usize,
    numbers: &Mutex<i64>,
    seen: &Mutex<Seen>,
    end: Instant,
) -> Result<(), Failure> {
    let (client, closed) = connect_and_watch(arguments).await.map_err(Failure::Idle)?;
    let mut done = Instant::now();
    let statements = prepare(&client, &arguments.table)
        .await
        .map_err(Failure::Idle)?;
    let reads = arguments.read_only || index.is_multiple_of(arguments.read_every);
    while Instant::now() < end {
        // Pseudo-random pauses keep the clients from marching in step.
        let spread = (index as u64 * 7919 + u64::from(Instant::now().elapsed().subsec_nanos()))
            % (2 * arguments.think_ms + 1);
        let began_to_think = Instant::now();
        tokio::time::sleep(Duration::from_millis(spread)).await;
        if client.is_closed() {
            // Closed while idle: noticed before the next transaction, as a connection pool of an
            // application does.
            let closed = closed
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .unwrap_or(began_to_think);
            let mut seen = seen
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if closed.saturating_duration_since(done) < STILL_LINKED {
                *seen
                    .in_flight
                    .entry("closed right after its transaction".to_owned())
                    .or_default() += 1;
            } else {
                *seen.idle.entry("closed while idle".to_owned()).or_default() += 1;
            }
            return Ok(());
        }
        let began = Instant::now();
        let number = {
            let mut next = numbers
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            *next += 1;
            *next
        };
        if reads {
            client
                .query(&statements.count, &[&5i64])
                .await
                .map_err(Failure::InFlight)?;
        } else {
            write(&client, &statements, number).await?;
        }
        done = Instant::now();
        let mut seen = seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.transactions += 1;
        let last = seen.succeeded.replace(done);
        seen.silence = seen
            .silence
            .max(last.map_or(Duration::ZERO, |last| done.saturating_duration_since(last)));
        seen.latencies_us
            .push(u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX));
        if !reads {
            seen.acknowledged.insert(number);
            let last = seen.wrote.replace(done);
            let silence = last.map_or(Duration::ZERO, |last| done.saturating_duration_since(last));
            if silence > seen.write_silence.0 {
                let at = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                seen.write_silence = (silence, at.as_millis());
            }
        }
        if let Some(path) = arguments
            .progress
            .as_ref()
            .filter(|_| seen.transactions.is_multiple_of(50))
        {
            let _ = std::fs::write(path, seen.transactions.to_string());
        }
    }
    Ok(())
}

async fn keep_going(
    arguments: Arc<Arguments>,
    index: usize,
    numbers: Arc<Mutex<i64>>,
    seen: Arc<Mutex<Seen>>,
    end: Instant,
) {
    while Instant::now() < end {
        let failure = one_client(&arguments, index, &numbers, &seen, end).await;
        if failure.is_ok() {
            continue;
        }
        seen.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .note(failure);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn until_done<T>(
    what: &str,
    mut attempt: impl AsyncFnMut() -> Result<T, tokio_postgres::Error>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match tokio::time::timeout(Duration::from_secs(30), attempt()).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) if Instant::now() > deadline => {
                return Err(error).context(what.to_owned());
            }
            Err(_) if Instant::now() > deadline => anyhow::bail!("{what}: no answer"),
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arc::new(Arguments::parse());
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    if arguments.read_only {
        // Somebody else makes it.
        until_done("the table", async || {
            prepare(&connect(&arguments).await?, &arguments.table).await
        })
        .await?;
    } else {
        let table =
            "CREATE TABLE IF NOT EXISTS crowd (n bigint PRIMARY KEY, at timestamptz DEFAULT now())";
        until_done("the table", async || {
            connect(&arguments).await?.batch_execute(table).await
        })
        .await?;
    }
    let first = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
    let (numbers, seen) = (
        Arc::new(Mutex::new(first)),
        Arc::new(Mutex::new(Seen::default())),
    );
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let mut clients = tokio::task::JoinSet::new();
    for index in 0..arguments.clients {
        clients.spawn(keep_going(
            arguments.clone(),
            index,
            numbers.clone(),
            seen.clone(),
            end,
        ));
    }
    tokio::select! {
        () = async { while clients.join_next().await.is_some() {} } => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    clients.shutdown().await;
    let mut seen = std::mem::take(
        &mut *seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
    );
    let lost = if arguments.read_only {
        0
    } else {
        lost(&arguments, first, &seen.acknowledged).await?
    };
    seen.latencies_us.sort_unstable();
    let per_mille = |share: usize| {
        let index = seen.latencies_us.len().saturating_sub(1) * share / 1_000;
        f64::from(seen.latencies_us.get(index).copied().unwrap_or(0)) / 1e3
    };
    let (in_flight, idle): (u64, u64) = (seen.in_flight.values().sum(), seen.idle.values().sum());
    println!(
        "{}",
        serde_json::json!({
            "transactions": seen.transactions, "acknowledged": seen.acknowledged.len(), "lost": lost,
            "in_flight_errors": in_flight, "idle_errors": idle, "longest_ms": per_mille(1_000),
            "silence_ms": seen.silence.as_millis(),
            "write_silence_ms": seen.write_silence.0.as_millis(), "first_write_at_ms": seen.write_silence.1,
            "p50_ms": per_mille(500), "p99_ms": per_mille(990), "p999_ms": per_mille(999),
            "in_flight": seen.in_flight, "idle": seen.idle,
        })
    );
    anyhow::ensure!(lost == 0, "{lost} acknowledged rows are missing");
    Ok(())
}

async fn lost(
    arguments: &Arguments,
    first: i64,
    acknowledged: &BTreeSet<i64>,
) -> anyhow::Result<usize> {
    let rows = until_done("the rows", async || {
        connect(arguments)
            .await?
            .query("SELECT n FROM crowd WHERE n > $1", &[&first])
            .await
    })
    .await?;
    let present: BTreeSet<i64> = rows.iter().map(|row| row.get(0)).collect();
    Ok(acknowledged.difference(&present).count())
}
