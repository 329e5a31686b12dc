//! One server for all tests of this program, which take turns.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mrg_postgres::{Authentication, Configuration, Credentials, Session, SessionSettings};
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls};

const BIN: &str = "/usr/lib/postgresql/15/bin";
const PATIENCE: Duration = Duration::from_secs(30);
/// Stops the server and removes its directory when its standard input ends, which is when this
/// program has ended, in whatever way.
const KEEPER: &str = r#""$1" -D "$2/data" & server=$!; trap '' INT TERM HUP; read -r _; kill -INT $server; wait $server; rm -rf "$2""#;

pub(crate) struct Server {
    directory: PathBuf,
    runtime: Runtime,
    client: Client,
    _keeper: Child,
}

pub(crate) fn as_postgres(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "postgres", "--regid", "postgres"])
        .args(["--clear-groups", program]);
    command
}

/// Runs to the end, or fails with what it printed.
pub(crate) fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    output
}

pub(crate) fn postgres() -> Command {
    as_postgres(&format!("{BIN}/postgres"))
}

/// The server, for this test alone.
pub(crate) fn server() -> MutexGuard<'static, Server> {
    static SERVER: OnceLock<Result<Mutex<Server>, String>> = OnceLock::new();
    match SERVER.get_or_init(|| Server::start().map(Mutex::new)) {
        Ok(server) => server.lock().unwrap_or_else(PoisonError::into_inner),
        Err(why) => panic!("there is no server: {why}"),
    }
}

impl Server {
    fn start() -> Result<Self, String> {
        let directory = tempfile::tempdir().unwrap().keep();
        succeed(Command::new("chown").arg("postgres").arg(&directory));
        // With everything in its path that a list of directories could end at.
        let sockets = directory.join("s, o'c\"k");
        for path in [&sockets, &directory] {
            succeed(as_postgres("mkdir").arg("-p").arg(path));
        }
        let data = directory.join("data");
        let mut initdb = as_postgres(&format!("{BIN}/initdb"));
        initdb.args(["--no-sync", "--auth=trust", "--username=postgres"]);
        initdb.args(["--encoding=UTF8", "--locale=C.UTF-8", "--pgdata"]);
        succeed(initdb.arg(&data));
        let configuration = of_server(&directory);
        write(&configuration, &data);
        let mut keeper = as_postgres("sh")
            .args(["-c", KEEPER, "sh", &format!("{BIN}/postgres")])
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.join("log")).unwrap())
            .spawn()
            .unwrap();
        let runtime = Runtime::new().unwrap();
        let connected = runtime.block_on(connect(&configuration));
        let client = match connected {
            Ok(client) => client,
            Err(error) => {
                let log = std::fs::read_to_string(directory.join("log")).unwrap_or_default();
                drop(keeper.stdin.take());
                let _ = keeper.wait();
                return Err(format!("{error}; its log: {log}"));
            }
        };
        Ok(Self {
            directory,
            runtime,
            client,
            _keeper: keeper,
        })
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(crate) fn configuration(&self) -> Configuration {
        of_server(&self.directory)
    }

    /// Writes its files, for a reload or to be looked at.
    pub(crate) fn write(&self, configuration: &Configuration) {
        write(configuration, &self.data());
    }

    pub(crate) fn execute(&self, sql: &str) -> Result<(), tokio_postgres::Error> {
        self.runtime.block_on(self.client.batch_execute(sql))
    }

    /// The rows of a query whose columns are all text.
    pub(crate) fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let rows = self.runtime.block_on(self.client.query(sql, &[]));
        let rows = rows.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let texts =
            |row: &tokio_postgres::Row| (0..row.len()).map(|column| row.get(column)).collect();
        rows.iter().map(texts).collect()
    }

    /// The first column of the first row, once it is this.
    pub(crate) fn wait_for(&self, sql: &str, expected: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.rows(sql) != [[Some(expected.to_owned())]] {
            assert!(Instant::now() < deadline, "{sql} did not give {expected:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The first column of a query in a session as the agent opens it.
    pub(crate) fn in_agents_session(&self, sql: &str) -> Result<Vec<String>, mrg_postgres::Error> {
        let session = self.agents_session()?;
        self.runtime.block_on(session.texts("ask", sql))
    }

    pub(crate) fn wrong_hba_line(&self) -> Option<String> {
        let session = self.agents_session().unwrap();
        self.runtime.block_on(session.wrong_hba_line()).unwrap()
    }

    fn agents_session(&self) -> Result<Session, mrg_postgres::Error> {
        let configuration = self.configuration();
        let settings = SessionSettings {
            socket_directory: configuration.socket_directory,
            port: configuration.port,
            user: "postgres".to_owned(),
            timeout: PATIENCE,
        };
        self.runtime.block_on(Session::open(&settings))
    }

    pub(crate) fn port(&self) -> u16 {
        self.configuration().port
    }
}

fn write(configuration: &Configuration, data: &Path) {
    configuration.write(data).unwrap();
    for file in [
        "postgresql.conf",
        "postgresql.base.conf",
        "postgresql.auto.conf",
        "pg_hba.conf",
    ] {
        succeed(Command::new("chown").arg("postgres").arg(data.join(file)));
    }
}

fn of_server(directory: &Path) -> Configuration {
    static PORT: OnceLock<u16> = OnceLock::new();
    let free = || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let role = |username: &str| Credentials {
        username: username.to_owned(),
        password: String::new(),
    };
    Configuration {
        cluster_name: "parsers".to_owned(),
        listen: "127.0.0.1".to_owned(),
        port: *PORT.get_or_init(free),
        socket_directory: directory.join("s, o'c\"k"),
        authentication: Authentication {
            superuser: role("postgres"),
            replication: role("replicator"),
            rewind: None,
        },
        ..Configuration::default()
    }
}

async fn connect(configuration: &Configuration) -> Result<Client, tokio_postgres::Error> {
    let deadline = Instant::now() + PATIENCE;
    let mut config = tokio_postgres::Config::new();
    config
        .host_path(&configuration.socket_directory)
        .port(configuration.port)
        .user("postgres")
        .dbname("postgres");
    loop {
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return Ok(client);
            }
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
