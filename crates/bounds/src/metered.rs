//! A stream from a peer that may send so much and no more.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes the peer of a [`Metered`] stream may still send.
#[derive(Clone, Debug)]
pub struct Allowance {
    left: Arc<AtomicUsize>,
    each: usize,
}

impl Allowance {
    /// `each` bytes, now and after every [`Allowance::renew`].
    pub fn new(each: usize) -> Self {
        Self {
            left: Arc::new(AtomicUsize::new(each)),
            each,
        }
    }

    /// For the next answer of the peer.
    pub fn renew(&self) {
        self.left.store(self.each, Ordering::Relaxed);
    }

    /// Whether these bytes were still allowed.
    fn take(&self, bytes: usize) -> bool {
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            });
        taken.is_ok()
    }
}

/// A stream whose reads fail once its peer has sent more than its [`Allowance`].
#[derive(Debug)]
pub struct Metered<S> {
    stream: S,
    allowance: Allowance,
}

impl<S> Metered<S> {
    /// Meters what comes from a stream.
    pub fn new(stream: S, allowance: Allowance) -> Self {
        Self { stream, allowance }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let came = buffer.filled().len().saturating_sub(before);
        Poll::Ready(if self.allowance.take(came) {
            Ok(())
        } else {
            let most = self.allowance.each;
            let text = format!("the peer sent more than {most} bytes for one answer");
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_peer_that_sends_too_much_for_one_answer_is_read_no_further() {
        let (mut peer, ours) = tokio::io::duplex(1 << 16);
        let allowance = Allowance::new(100);
        let mut stream = Metered::new(ours, allowance.clone());
        let mut buffer = [0; 80];
        for _ in 0..3 {
            allowance.renew();
            peer.write_all(&[1; 80]).await.unwrap();
            stream.read_exact(&mut buffer).await.unwrap();
        }
        peer.write_all(&[1; 80]).await.unwrap();
        let error = stream.read_exact(&mut buffer).await.unwrap_err();
        assert!(error.to_string().contains("more than 100 bytes"), "{error}");
    }
}
