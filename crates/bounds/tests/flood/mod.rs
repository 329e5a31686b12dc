//! Clients that ask for more than is good, for the tests of every listener. Tests of other crates
//! include this file by its path.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// So many clients ask, and as many send heads that never end.
const CLIENTS: usize = 300;

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Flood {
    /// Methods and paths.
    pub asked: &'static [&'static str],
    /// How many requests in all.
    pub requests: u32,
    pub lasts: Duration,
}

impl Flood {
    /// Floods a listener on loopback; gives how many requests were sent.
    pub(crate) fn pour(self, to: SocketAddr) -> u32 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let sent = Arc::new(AtomicU32::new(0));
        runtime.block_on(async {
            for number in 0..CLIENTS {
                tokio::spawn(self.ask(to, number, sent.clone()));
                tokio::spawn(dawdle(to, number));
            }
            tokio::time::sleep(self.lasts).await;
        });
        sent.load(Ordering::Relaxed).min(self.requests)
    }

    /// Sends requests, one after the other, until all clients together have sent enough.
    async fn ask(self, to: SocketAddr, number: usize, sent: Arc<AtomicU32>) {
        let asked = self.asked[number % self.asked.len()];
        let request = format!("{asked} HTTP/1.1\r\nhost: a\r\n\r\n");
        let mut bytes = vec![0; 64 << 10];
        loop {
            let Some(mut stream) = connect(to, number).await else {
                continue;
            };
            loop {
                if sent.fetch_add(1, Ordering::Relaxed) >= self.requests {
                    return;
                }
                if stream.write_all(request.as_bytes()).await.is_err()
                    || stream.read(&mut bytes).await.unwrap_or(0) == 0
                {
                    break;
                }
            }
        }
    }
}

/// A connection from the address of a stranger, or from that of everything else on loopback.
async fn connect(to: SocketAddr, number: usize) -> Option<TcpStream> {
    let from = if number.is_multiple_of(2) {
        "127.0.0.66:0"
    } else {
        "127.0.0.1:0"
    };
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(from.parse().ok()?).ok()?;
    let connected = socket.connect(to).await.ok();
    if connected.is_none() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    connected
}

/// Sends a head that never ends, on one connection after the other.
async fn dawdle(to: SocketAddr, number: usize) {
    loop {
        let Some(mut stream) = connect(to, number).await else {
            continue;
        };
        let mut next: &[u8] = b"GET / HTTP/1.1\r\n";
        while stream.write_all(next).await.is_ok() {
            next = b"x: y\r\n";
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}

/// The most memory that a process has had so far; KiB.
pub(crate) fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}
