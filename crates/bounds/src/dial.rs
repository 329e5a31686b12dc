//! Connections to other programs' servers.

use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::metered::{Allowance, Metered};

/// How long a silent connection is believed in before the kernel asks the peer's.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// Connects to a server that may send so much and no more. There is no deadline here: it belongs to
/// the dial and the login together.
///
/// # Errors
/// If the name does not resolve or no address of it accepts the connection.
pub async fn dial(host: &str, port: u16, allowance: Allowance) -> io::Result<Metered<TcpStream>> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_RETRIES);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(Metered::new(stream, allowance))
}
