//! A connection that goes on only with a server that asks for SCRAM.
//!
//! A client of PostgreSQL answers whatever the server asks for: the password in clear text, or an
//! MD5 hash of it. SCRAM reveals neither, and ends with the server's proof that it knows the role's
//! verifier, so a server that a false address leads to is found out.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The message's type, its length, and the kind of authentication that it asks for.
const HEAD: usize = 9;
/// `AuthenticationSASL` (PostgreSQL's manual, "Message Formats").
const SASL: u32 = 10;

/// What a server asked for instead of SCRAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotScram {
    /// Nothing: it lets everyone in.
    #[error("the server asks for no password and so does not prove which server it is")]
    Trust,
    /// The password itself.
    #[error("the server asks for the password in clear text; it is not sent")]
    ClearText,
    /// A hash of it.
    #[error(
        "the server asks for an MD5 hash of the password; it is not sent: set the password again with password_encryption = scram-sha-256"
    )]
    Md5,
    /// Kerberos, or what is no authentication at all.
    #[error("the server asks for authentication of another kind than SCRAM")]
    Other,
}

/// A stream to a server that is read from only if the server's first message asks for SCRAM, or
/// refuses the connection.
///
/// # Guarantees
/// Nothing that answers another request has been sent when reading fails: a client sends its answer
/// only after it has read the request.
pub struct ScramOnly<S> {
    inner: S,
    head: Vec<u8>,
    /// The server's first message was read, and is right.
    asked: bool,
}

impl<S> ScramOnly<S> {
    /// Wraps a stream from which nothing was read yet.
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            head: Vec::with_capacity(HEAD),
            asked: false,
        }
    }
}

/// Judges the beginning of what a server sends; `None` while it is too short to tell.
fn judge(head: &[u8]) -> Option<Result<(), NotScram>> {
    match head.first()? {
        b'E' => Some(Ok(())),
        b'R' => {
            let kind = head.first_chunk::<HEAD>()?.last_chunk::<4>()?;
            Some(match u32::from_be_bytes(*kind) {
                SASL => Ok(()),
                0 => Err(NotScram::Trust),
                3 => Err(NotScram::ClearText),
                5 => Err(NotScram::Md5),
                _ => Err(NotScram::Other),
            })
        }
        _ => Some(Err(NotScram::Other)),
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ScramOnly<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        if !self.asked {
            let missing = HEAD - self.head.len();
            let read = buffer.filled().iter().skip(before).take(missing);
            self.head.extend(read);
            match judge(&self.head) {
                Some(Ok(())) => self.asked = true,
                Some(Err(why)) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::PermissionDenied, why)));
                }
                None => {}
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ScramOnly<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn request(kind: u32) -> Vec<u8> {
        let mut message = vec![b'R'];
        message.extend(8_u32.to_be_bytes());
        message.extend(kind.to_be_bytes());
        message
    }

    /// What a client with a password makes of a server that sends these bytes, and what the server
    /// received after its own message.
    async fn meet(message: Vec<u8>) -> (Option<NotScram>, Vec<u8>) {
        let (client, mut server) = tokio::io::duplex(4096);
        let served = tokio::spawn(async move {
            let length = server.read_u32().await.unwrap();
            let mut startup = vec![0; usize::try_from(length).unwrap() - 4];
            server.read_exact(&mut startup).await.unwrap();
            // In two parts, as a network may.
            let (first, rest) = message.split_at(message.len() / 2);
            for part in [first, rest] {
                // The client may have turned away already.
                let _ = server.write_all(part).await;
                tokio::task::yield_now().await;
            }
            let mut received = Vec::new();
            let answered = server.read_to_end(&mut received);
            let _ = tokio::time::timeout(std::time::Duration::from_millis(200), answered).await;
            received
        });
        let mut config = tokio_postgres::Config::new();
        config.user("postgres").password("top-secret");
        let connected = config.connect_raw(ScramOnly::new(client), tokio_postgres::NoTls);
        let refusal = match tokio::time::timeout(std::time::Duration::from_secs(2), connected).await
        {
            Ok(Err(error)) => error
                .source()
                .and_then(|source| source.downcast_ref::<io::Error>())
                .and_then(|error| error.get_ref()?.downcast_ref::<NotScram>().copied()),
            _ => None,
        };
        (refusal, served.await.unwrap())
    }

    #[tokio::test]
    async fn a_server_that_asks_for_anything_but_scram_gets_no_password() {
        for (kind, refusal) in [
            (0, NotScram::Trust),
            (3, NotScram::ClearText),
            (5, NotScram::Md5),
            (7, NotScram::Other),
            (u32::MAX, NotScram::Other),
        ] {
            let mut message = request(kind);
            if kind == 5 {
                message.extend(*b"salt");
            }
            let (refused, received) = meet(message).await;
            assert_eq!(refused, Some(refusal), "{kind}");
            assert!(received.is_empty(), "{kind}: {received:?}");
        }
        let (refused, received) = meet(b"S\0\0\0\x04".to_vec()).await;
        assert_eq!((refused, received), (Some(NotScram::Other), Vec::new()));
    }

    #[tokio::test]
    async fn a_server_that_asks_for_scram_gets_the_first_message_and_no_password() {
        let mechanism = b"SCRAM-SHA-256\0\0";
        let mut message = vec![b'R'];
        message.extend(u32::try_from(8 + mechanism.len()).unwrap().to_be_bytes());
        message.extend(SASL.to_be_bytes());
        message.extend(mechanism);
        let (refused, received) = meet(message).await;
        assert_eq!(refused, None);
        let text = String::from_utf8_lossy(&received).into_owned();
        assert!(
            text.contains("SCRAM-SHA-256") && !text.contains("top-secret"),
            "{text}"
        );
    }
}
