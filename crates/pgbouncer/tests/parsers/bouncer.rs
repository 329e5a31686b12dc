//! A PgBouncer with files of ours.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mrg_pgbouncer::{Configuration, Console, Database, Login, Pass};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::server;

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Bouncer {
    pub configuration: Configuration,
    pass: Pass,
    process: Child,
    /// A session with the console.
    console: Option<Client>,
    home: tempfile::TempDir,
}

pub(crate) fn login(user: &str, password: &str) -> Login {
    Login {
        user: user.to_owned(),
        password: password.to_owned(),
    }
}

/// The program, where the user `postgres` can run it.
fn program(home: &Path) -> PathBuf {
    if let Some(program) = std::env::var_os("PGBOUNCER") {
        return program.into();
    }
    let cache = std::env::var_os("MRG_CACHE").map(PathBuf::from);
    let home_cache = || {
        Path::new(&std::env::var_os("HOME")?)
            .join(".cache/mrg-operator")
            .into()
    };
    let made = cache
        .or_else(home_cache)
        .unwrap_or_default()
        .join("pgbouncer");
    if !made.join("pgbouncer").exists() {
        return "pgbouncer".into();
    }
    assert!(
        Command::new("cp")
            .arg("-r")
            .arg(made)
            .arg(home)
            .status()
            .unwrap()
            .success()
    );
    home.join("pgbouncer/pgbouncer")
}

impl Bouncer {
    /// Starts with these databases and logins, its files in a directory whose name has everything
    /// that a path may have. Its databases lead to [`server::listen`].
    pub(crate) async fn start(
        databases: Vec<Database>,
        logins: Vec<Login>,
        processes: u16,
    ) -> Self {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("it's; #1 \"%\" = x/1");
        let servers = home.path().join("server's \\ x");
        for path in [&directory, &servers] {
            std::fs::create_dir_all(path).unwrap();
        }
        server::listen(&servers);
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let configuration = Configuration {
            directory,
            port: free.local_addr().unwrap().port(),
            process: (1, processes),
            databases,
            logins,
            administrator: login("mrg-pooler", "it's \"secret\""),
            pool_mode: "session".to_owned(),
            max_client_connections: 100,
            default_pool_size: 5,
            tls_required: false,
            settings: BTreeMap::new(),
        };
        drop(free);
        let pass = Pass::Anchor {
            directory: servers,
            port: server::PORT,
        };
        configuration.write(&pass).unwrap();
        let program = program(home.path());
        assert!(
            Command::new("chown")
                .args(["-R", "postgres"])
                .arg(home.path())
                .status()
                .unwrap()
                .success()
        );
        let process = Command::new("setpriv")
            .args([
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--clear-groups",
            ])
            .arg(program)
            .arg(configuration.file())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(home.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut bouncer = Self {
            configuration,
            pass,
            process,
            console: None,
            home,
        };
        let deadline = Instant::now() + PATIENCE;
        while bouncer.console.is_none() {
            let ended = bouncer.process.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{}",
                bouncer.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
            let administrator = &bouncer.configuration.administrator;
            bouncer.console = bouncer.connect("pgbouncer", administrator).await.ok();
        }
        bouncer
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// Writes its files again and has it read them.
    pub(crate) async fn reload(&self) {
        self.configuration.write(&self.pass).unwrap();
        let chown = Command::new("chown")
            .args(["-R", "postgres"])
            .arg(self.home.path())
            .status();
        assert!(chown.unwrap().success());
        self.command("RELOAD").await;
    }

    pub(crate) async fn console(&self) -> Console {
        let Configuration {
            directory,
            port,
            administrator,
            ..
        } = &self.configuration;
        Console::open(directory, *port, administrator, PATIENCE)
            .await
            .unwrap()
    }

    pub(crate) async fn connect(&self, database: &str, login: &Login) -> Result<Client, String> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.configuration.directory)
            .port(self.configuration.port)
            .user(&login.user)
            .password(&login.password)
            .dbname(database)
            .connect_timeout(PATIENCE);
        let connected = tokio::time::timeout(PATIENCE, config.connect(NoTls)).await;
        let (client, connection) = connected
            .map_err(|_| "no answer to a login".to_owned())?
            .map_err(|error| format!("{error:?}"))?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// What the server behind it answers.
    pub(crate) async fn ask(&self, client: &Client) -> Result<Vec<SimpleQueryMessage>, String> {
        match tokio::time::timeout(PATIENCE, client.simple_query("x")).await {
            Ok(answer) => answer.map_err(|error| format!("{error:?}")),
            Err(_) => Err(self.log()),
        }
    }

    async fn command(&self, command: &str) -> Vec<SimpleQueryMessage> {
        let console = self.console.as_ref().unwrap();
        let answer = tokio::time::timeout(PATIENCE, console.simple_query(command)).await;
        answer.unwrap().unwrap()
    }

    /// The rows of what the console shows, by the columns' names.
    pub(crate) async fn show(&self, what: &str) -> Vec<BTreeMap<String, String>> {
        let messages = self.command(&format!("SHOW {what}")).await;
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => {
                let text = |index: usize| row.get(index).unwrap_or_default().to_owned();
                let columns = row.columns().iter().enumerate();
                Some(
                    columns
                        .map(|(index, column)| (column.name().to_owned(), text(index)))
                        .collect(),
                )
            }
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
