//! Clients of a pooler's port for health checks that ask for more than is good. The pooler has no
//! etcd here, and so no PgBouncer.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

#[path = "../../bounds/tests/flood/mod.rs"]
mod clients;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clients::{Flood, memory_kib};

const FLOOD: Flood = Flood {
    asked: &["GET /metrics", "GET /", "GET /readyz"],
    requests: 20_000,
    lasts: Duration::from_secs(4),
};

/// What a pooler may need more while it lasts.
const MEMORY_KIB: u64 = 32 << 10;
const PATIENCE: Duration = Duration::from_secs(30);

/// Ends with the test.
struct Pooler(Child);

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(directory: &std::path::Path, port: u16) -> Pooler {
    std::fs::write(directory.join("app-password"), "secret").unwrap();
    let file = directory.join("pooler.json");
    let config = serde_json::json!({
        "scope": "a", "etcd": ["http://127.0.0.1:1"], "pool": "w", "pod": "w-1", "mode": "Write",
        "port": 1, "http_port": port, "processes": 1,
        "databases": [{"alias": "app", "name": "app"}], "users": ["app"],
        "secret_directory": directory, "run_directory": directory, "pool_mode": "transaction",
        "max_client_connections": 100, "default_pool_size": 5,
        "max_hold_ms": 30000, "max_wait_ms": 5000, "drain_ms": 100,
    });
    std::fs::write(&file, config.to_string()).unwrap();
    let pooler = Command::new(env!("CARGO_BIN_EXE_mrg-pooler"))
        .arg(file)
        .stderr(Stdio::null())
        .spawn();
    Pooler(pooler.unwrap())
}

/// Whether the kubelet would find it alive.
fn is_alive(to: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok::<_, std::io::Error>(text)
    };
    ask().is_ok_and(|text| text.starts_with("HTTP/1.1 200 OK") && text.ends_with("ok"))
}

fn wait_until_alive(to: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    while !is_alive(to) {
        assert!(Instant::now() < deadline, "no probe is answered");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_flood_of_requests_costs_a_pooler_neither_its_memory_nor_its_probes() {
    let directory = tempfile::tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = free.local_addr().unwrap();
    drop(free);
    let pooler = start(directory.path(), to.port());
    wait_until_alive(to);
    let before = memory_kib(pooler.0.id());
    let flood = std::thread::spawn(move || FLOOD.pour(to));
    let end = Instant::now() + FLOOD.lasts;
    while Instant::now() < end {
        wait_until_alive(to);
        std::thread::sleep(Duration::from_millis(50));
    }
    let (sent, after) = (flood.join().unwrap(), memory_kib(pooler.0.id()));
    println!("{sent} requests; at most {before} KiB before the flood, {after} KiB after it");
    assert!(
        after < before + MEMORY_KIB,
        "the pooler grew to {after} KiB"
    );
}
