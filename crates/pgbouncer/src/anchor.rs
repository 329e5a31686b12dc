//! Keeps PgBouncer's pools patient.
//!
//! PgBouncer turns a query away at once ("server login has been failing") when the last server
//! login of its pool failed and the pool has no server connection (`check_fast_fail` in
//! `src/objects.c`). When a primary dies, all server connections end and every login is refused
//! until PgBouncer is paused, so clients that were idle get errors: 107 of 200 in the 30 ms
//! before a late pause, where with an anchor there are none (docs/adr/0005). An *anchor* is a
//! session of ours in each pool, in a transaction that never ends, on a server connection to a few
//! lines of protocol in this process. It is opened while the pool leads there and stays when the
//! pool is turned to real servers, so the pool never has no server connection.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_postgres::Client;

use crate::configuration::Login;
use crate::console::{Error, connect};

/// The number in the socket's name.
const PORT: u16 = 1;
/// A message longer than this is none that an anchor sends.
const MESSAGE_MOST: u32 = 64 * 1024;

/// The server that anchors are connected to.
pub struct AnchorServer {
    directory: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl AnchorServer {
    /// Listens in a directory that only this pod can reach.
    ///
    /// # Errors
    /// If the directory or the socket cannot be made.
    pub fn listen(directory: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let socket = directory.join(format!(".s.PGSQL.{PORT}"));
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&socket)?;
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    // The end of the connection is all that there is to know.
                    let _ = serve(stream).await;
                });
            }
        });
        Ok(Self {
            directory: directory.to_owned(),
            task,
        })
    }

    /// Where PgBouncer finds it.
    pub fn pass(&self) -> crate::Pass {
        crate::Pass::Anchor {
            directory: self.directory.clone(),
            port: PORT,
        }
    }
}

impl Drop for AnchorServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn greeting() -> Vec<u8> {
    let parameter =
        |name: &str, value: &str| message(b'S', format!("{name}\0{value}\0").as_bytes());
    [
        message(b'R', &0u32.to_be_bytes()),
        parameter("server_version", "17.0"),
        parameter("server_encoding", "UTF8"),
        parameter("client_encoding", "UTF8"),
        parameter("standard_conforming_strings", "on"),
        parameter("integer_datetimes", "on"),
        message(b'K', &[0; 8]),
        message(b'Z', b"I"),
    ]
    .concat()
}

/// A server that knows transactions and nothing else (PostgreSQL's manual, "Message Formats").
async fn serve(mut stream: UnixStream) -> std::io::Result<()> {
    let length = stream.read_u32().await?;
    if !(8..=MESSAGE_MOST).contains(&length) {
        return Ok(());
    }
    stream.read_exact(&mut vec![0; length as usize - 4]).await?;
    stream.write_all(&greeting()).await?;
    let mut state = b"I";
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await?;
        if kind == b'X' || !(4..=MESSAGE_MOST).contains(&length) {
            return Ok(());
        }
        let mut body = vec![0; length as usize - 4];
        stream.read_exact(&mut body).await?;
        if body.starts_with(b"BEGIN") {
            state = b"T";
        }
        let done: &[u8] = if body.starts_with(b"BEGIN") {
            b"BEGIN\0"
        } else {
            b"SET\0"
        };
        stream
            .write_all(&[message(b'C', done), message(b'Z', state)].concat())
            .await?;
    }
}

/// A session that holds a pool's anchor; the pool is anchored until this is dropped.
pub struct Anchor {
    client: Client,
}

impl Anchor {
    /// Anchors the pool of a database and a user. PgBouncer must lead to the [`AnchorServer`].
    ///
    /// # Errors
    /// If PgBouncer does not accept the login or the transaction, or does not answer in time.
    pub async fn drop_in(
        directory: &Path,
        port: u16,
        login: &Login,
        alias: &str,
        within: Duration,
    ) -> Result<Self, Error> {
        let client = connect(directory, port, login, alias, within).await?;
        let anchor = Self { client };
        anchor.hold(within).await?;
        Ok(anchor)
    }

    /// Shows PgBouncer's idle timers that the session lives.
    ///
    /// # Errors
    /// If the session is lost, or PgBouncer does not answer in time.
    pub async fn hold(&self, within: Duration) -> Result<(), Error> {
        let begun = tokio::time::timeout(within, self.client.batch_execute("BEGIN")).await;
        let failed = |source| Error::Command {
            command: "an anchor".to_owned(),
            source,
        };
        begun
            .map_err(|_| Error::Timeout("an anchor".to_owned()))?
            .map_err(failed)
    }

    /// Whether it was lost.
    pub fn is_lost(&self) -> bool {
        self.client.is_closed()
    }
}
