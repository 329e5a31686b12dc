//! A write pool in front of real members: the pooler and PgBouncer of the lab's image.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Cluster, as_postgres, cache, wait_until};
use crate::members::{say_hello, succeeds, take_all_places};

/// With everything that a grammar on its way could take for something else.
const PASSWORD: &str = r#"'th"e Pass\word%s;#"#;

/// PgBouncer of the lab's image, with the libraries that it was built for; Debian's is too old.
fn pgbouncer() -> PathBuf {
    let tree = PathBuf::from("/var/tmp/mrg-postgres-tree");
    let wrapper = tree.join("pgbouncer");
    if !wrapper.exists() {
        let image = cache().join("lab/images/postgres.tar");
        assert!(image.exists(), "run `e2e/lab/dependencies`");
        std::fs::create_dir_all(&tree).unwrap();
        succeeds(
            Command::new("tar")
                .args(["--exclude=./dev/*", "-xf"])
                .args([&image, Path::new("-C"), &tree]),
        );
        let root = tree.display();
        let script = format!(
            "#!/bin/sh\nexec {root}/lib64/ld-linux-x86-64.so.2 --library-path {root}/usr/lib/x86_64-linux-gnu {root}/usr/sbin/pgbouncer \"$@\"\n"
        );
        std::fs::write(&wrapper, script).unwrap();
        succeeds(Command::new("chmod").arg("755").args([&tree, &wrapper]));
    }
    wrapper
}

/// A pooler for the database `app`; ends when it is dropped.
struct Pool {
    pooler: Child,
    port: u16,
}

impl Pool {
    fn start(cluster: &Cluster, clients: u32) -> Self {
        let home = cluster.path("pool");
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("app-password"), PASSWORD).unwrap();
        succeeds(
            Command::new("chown")
                .args(["--recursive", "postgres"])
                .arg(&home),
        );
        // Built beside the agent; the user postgres may not read it there.
        let program = Path::new(env!("CARGO_BIN_EXE_mrg-agent")).with_file_name("mrg-pooler");
        std::fs::copy(program, cluster.path("mrg-pooler"))
            .expect("a pooler; run `cargo build -p mrg-pooler`");
        let port = cluster.etcd_port() + 40;
        let file = cluster.path("pool.json");
        let config = serde_json::json!({
            "scope": "test", "etcd": [format!("http://127.0.0.1:{}", cluster.etcd_port())],
            "pool": "w", "pod": "w-1", "mode": "Write", "port": port, "http_port": port + 1,
            "processes": 1, "program": pgbouncer(),
            "databases": [{"alias": "app", "name": "app"}], "users": ["app"],
            "secret_directory": home, "run_directory": home, "pool_mode": "transaction",
            "max_client_connections": clients, "default_pool_size": 5,
            "max_hold_ms": 15_000, "max_wait_ms": 3_000, "drain_ms": 1_000,
        });
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(cluster.path("pool.log")).unwrap();
        let pooler = as_postgres(&cluster.path("mrg-pooler"))
            .arg(&file)
            .env("MRG_LOG_TEXT", "1")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Self {
            pooler: pooler.unwrap(),
            port,
        }
    }

    fn psql(&self) -> Command {
        let mut command = Command::new("psql");
        command
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-U", "app", "-qAt", "-v", "ON_ERROR_STOP=1", "app"])
            .env("PGPASSWORD", PASSWORD)
            .env("PGCONNECT_TIMEOUT", "10");
        command
    }

    fn sql(&self, statement: &str) -> String {
        let output = self.psql().args(["-c", statement]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).trim().to_owned()
    }

    fn wait_primary(&self) {
        wait_until("the pool leads to the primary", || {
            self.sql("SELECT pg_is_in_recovery()") == "f"
        });
    }

    /// The first byte of what a client is answered that connects with one more parameter.
    fn answer_to(&self, parameter: &str, value: &str) -> Option<u8> {
        let parameters = [("user", "app"), ("database", "app"), (parameter, value)];
        say_hello(self.port, &parameters).map(|(answer, _)| answer)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        Cluster::signal(crate::harness::pid(self.pooler.id()), "TERM");
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && !matches!(self.pooler.try_wait(), Ok(Some(_))) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.pooler.kill();
        let _ = self.pooler.wait();
    }
}

#[test]
#[ignore = "needs PgBouncer of the lab's image; just soak runs it"]
fn a_pool_takes_any_password_and_usual_parameters_and_follows_when_full_and_after_a_lost_etcd() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let quoted = PASSWORD.replace('\'', "''");
    cluster.sql(
        leader,
        &format!("CREATE ROLE app LOGIN PASSWORD '{quoted}'"),
    );
    cluster.sql(leader, "CREATE DATABASE app OWNER app");
    let pool = Pool::start(&cluster, 20);
    pool.wait_primary();

    // `R` asks for a password.
    assert_eq!(pool.answer_to("extra_float_digits", "2"), Some(b'R'));
    assert_eq!(pool.answer_to("options", "-c search_path=app"), Some(b'R'));
    assert_eq!(pool.answer_to("no_such_parameter", "1"), Some(b'E'));

    assert_eq!(pool.sql("CREATE TABLE kept (i int)"), "");
    let mut client = pool
        .psql()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut session = client.stdin.take().unwrap();
    let mut insert = |i: usize| writeln!(session, "INSERT INTO kept VALUES ({i});").unwrap();
    insert(0);
    wait_until("the session is inside", || {
        pool.sql("SELECT count(*) FROM kept") == "1"
    });
    let until = Instant::now() + Duration::from_secs(15);
    let port = pool.port;
    let crowd = std::thread::spawn(move || take_all_places(port, ["app", "app"], until));
    wait_until("the pool is full", || {
        pool.sql("SELECT 1").contains("no more connections allowed")
    });
    let mut rows = 1;
    std::thread::scope(|scope| {
        let switchover = scope.spawn(|| cluster.switch_over(leader % 3 + 1));
        while Instant::now() < until {
            insert(rows);
            rows += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        switchover.join().unwrap();
    });
    crowd.join().unwrap();
    drop(session);
    assert!(client.wait().unwrap().success(), "a statement failed");
    pool.wait_primary();
    assert_eq!(pool.sql("SELECT count(*) FROM kept"), rows.to_string());

    cluster.wait_healthy();
    let leader = cluster.wait_leader();
    cluster.set_back(None);
    wait_until("the key names the leader again", || {
        cluster.keys_name(leader)
    });
    cluster.wait_healthy();
    cluster.replace_leader(leader);
    pool.wait_primary();
    assert_eq!(pool.sql("SELECT count(*) FROM kept"), rows.to_string());
}
