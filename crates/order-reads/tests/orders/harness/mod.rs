//! A leader and a standby of PostgreSQL, a Redis, and `mrg-orders`, all real, all on loopback.

mod processes;
mod service;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use processes::{as_postgres, connect_to, postgres};

pub(crate) use processes::{Running, connect};
pub(crate) use service::Service;

const PATIENCE: Duration = Duration::from_secs(30);

/// The database of the orders, and the role that owns it.
const DATABASE: &str = "orders";
const OWNER: &str = "app";

static PORT: AtomicU16 = AtomicU16::new(27_100);

pub(crate) fn port() -> u16 {
    PORT.fetch_add(1, Ordering::SeqCst)
}

pub(crate) struct World {
    pub folder: tempfile::TempDir,
    pub primary_port: u16,
    pub standby_port: u16,
    pub redis_port: u16,
    pub primary: Running,
    pub standby: Running,
    pub redis: Option<Running>,
}

pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(
            Instant::now() < deadline,
            "{what} did not come true within {PATIENCE:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl World {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("mrg-orders")
            .tempdir()
            .unwrap();
        Command::new("chmod")
            .arg("755")
            .arg(folder.path())
            .status()
            .unwrap();
        let (primary_port, standby_port, redis_port) = (port(), port(), port());
        let home = folder.path().join("postgres");
        std::fs::create_dir(&home).unwrap();
        Command::new("chown")
            .arg("postgres")
            .arg(&home)
            .status()
            .unwrap();
        let (primary, standby) = cluster(&home, primary_port, standby_port).await;
        let mut world = Self {
            folder,
            primary_port,
            standby_port,
            redis_port,
            primary,
            standby,
            redis: None,
        };
        world.start_redis(&[]).await;
        world.apply_schema();
        world
    }

    /// Twice: the schema can be applied again and again.
    fn apply_schema(&self) {
        for _ in 0..2 {
            assert_eq!(self.schema(OWNER, Some("postgres")), Ok(()));
        }
    }

    /// Applies the schema as `owner`, and with the login `roles` in another database if there is
    /// one; else what the program says.
    pub(crate) fn schema(&self, owner: &str, roles: Option<&str>) -> Result<(), String> {
        let port = self.primary_port;
        let roles = roles.map(|user| format!("postgresql://{user}@127.0.0.1:{port}/postgres"));
        Self::schema_by(&Self::dsn(owner, port), roles.as_deref())
    }

    pub(crate) fn schema_by(owner: &str, roles: Option<&str>) -> Result<(), String> {
        let mut schema = Command::new(env!("CARGO_BIN_EXE_mrg-orders"));
        schema.args(["schema", "--apply", "--owner-dsn", owner]);
        if let Some(roles) = roles {
            schema.args(["--active-password", "it's", "--roles-dsn", roles]);
        }
        let output = schema.output().unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    pub(crate) async fn start_redis(&mut self, arguments: &[&str]) {
        self.redis = None;
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &self.redis_port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        self.redis = Some(Running(
            command
                .args(arguments)
                .stdout(Stdio::null())
                .spawn()
                .unwrap(),
        ));
        let port = self.redis_port;
        eventually("Redis listens", || async move {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_ok()
        })
        .await;
    }

    pub(crate) fn redis(&self) -> &Running {
        self.redis.as_ref().unwrap()
    }

    pub(crate) fn redis_cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.redis_port.to_string()])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn dsn(user: &str, port: u16) -> String {
        format!("postgresql://{user}@127.0.0.1:{port}/{DATABASE}")
    }

    pub(crate) fn archive(&self) -> PathBuf {
        let path = self.folder.path().join("archive");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// As the superuser at the leader.
    pub(crate) async fn sql(&self, statement: &str) {
        connect("postgres", self.primary_port)
            .await
            .batch_execute(statement)
            .await
            .unwrap();
    }

    /// An order, made so long ago.
    pub(crate) async fn order(&self, customer: &str, state: &str, age: Duration) -> uuid::Uuid {
        let made = std::time::SystemTime::now() - age;
        let since = made.duration_since(std::time::UNIX_EPOCH).unwrap();
        let random: [u8; 10] = rand::random();
        let id = uuid::Builder::from_unix_timestamp_millis(
            since.as_millis().try_into().unwrap(),
            &random,
        )
        .into_uuid();
        let client = connect("postgres", self.primary_port).await;
        let sql = "INSERT INTO orders (id, customer, state, created_at, updated_at, detail) VALUES ($1, $2, $3, $4, $4, '{\"fare\": 45000}')";
        client
            .execute(sql, &[&id, &customer, &state, &made])
            .await
            .unwrap();
        id
    }

    pub(crate) async fn caught_up(&self) {
        let (primary, standby) = (
            connect("postgres", self.primary_port).await,
            connect("postgres", self.standby_port).await,
        );
        let at: String = primary
            .query_one("SELECT pg_current_wal_lsn()::text", &[])
            .await
            .unwrap()
            .get(0);
        let (standby, at) = (&standby, &at);
        eventually("the standby has caught up", || async move {
            standby
                .query_one("SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn", &[at])
                .await
                .unwrap()
                .get(0)
        })
        .await;
    }

    /// The service; it is ready and hears changes when this returns.
    pub(crate) async fn serve(&self, role: &str, more: &[&str]) -> Service {
        let listen = format!("127.0.0.1:{}", port());
        let user = if role == "history" {
            "mrg_orders_history"
        } else {
            "mrg_orders_active"
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_mrg-orders"));
        command.args(["serve", "--role", role, "--listen", &listen]);
        command.args([
            "--primary-dsn",
            &Self::dsn(user, self.primary_port),
            "--replica-dsn",
            &Self::dsn(user, self.standby_port),
        ]);
        command.args([
            "--changes-dsn",
            &Self::dsn(user, self.primary_port),
            "--cache-url",
            &format!("redis://127.0.0.1:{}", self.redis_port),
        ]);
        command.args([
            "--archive-url",
            &format!("file://{}", self.archive().display()),
        ]);
        let service = Service {
            base: format!("http://{listen}"),
            client: reqwest::Client::new(),
            _process: Running(command.args(more).spawn().unwrap()),
        };
        let at = &service;
        eventually(
            "the service hears changes and knows the lag",
            || async move {
                let Ok(answer) = at.client.get(format!("{}/ready", at.base)).send().await else {
                    return false;
                };
                answer
                    .text()
                    .await
                    .unwrap()
                    .contains("\"changes\":\"healthy\"")
            },
        )
        .await;
        // The first sample of the leader's position.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        service
    }
}

/// A leader and its standby.
async fn cluster(home: &Path, primary_port: u16, standby_port: u16) -> (Running, Running) {
    let data = home.join("primary");
    assert!(
        as_postgres("initdb")
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"])
            .arg(&data)
            .status()
            .unwrap()
            .success()
    );
    let primary = postgres(&data, primary_port);
    let superuser = connect_to("postgres", "postgres", primary_port).await;
    for statement in [
        format!("CREATE ROLE {OWNER} LOGIN"),
        format!("CREATE DATABASE {DATABASE} OWNER {OWNER}"),
    ] {
        superuser.batch_execute(&statement).await.unwrap();
    }
    let standby_data = home.join("standby");
    let from = format!("host=127.0.0.1 port={primary_port} user=postgres");
    let options = [
        "-R",
        "-X",
        "stream",
        "-c",
        "fast",
        "--no-sync",
        "-d",
        &from,
        "-D",
    ];
    assert!(
        as_postgres("pg_basebackup")
            .args(options)
            .arg(&standby_data)
            .status()
            .unwrap()
            .success()
    );
    let standby = postgres(&standby_data, standby_port);
    connect("postgres", standby_port).await;
    (primary, standby)
}
