//! The output of the postmaster: passed on as it comes, with its end kept, so that a server that
//! ends while it starts can be answered by what it said.

use std::collections::VecDeque;
use std::io::{PipeReader, Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use mrg_base::lock;

/// Bytes that are kept.
const KEPT: usize = 8_192;
/// The last output is in the pipe when the process has ended; it is read within this time, or given
/// up.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Kept {
    bytes: VecDeque<u8>,
    /// All bytes so far, kept or not.
    printed: u64,
    ended: bool,
}

/// The end of a program's output.
#[derive(Clone, Default)]
pub(super) struct Output(Arc<(Mutex<Kept>, Condvar)>);

impl Output {
    /// Copies a pipe to this process's standard error until its last writer is gone. A thread of
    /// its own: standard error may block, and the fence must not.
    pub(super) fn copy(mut pipe: PipeReader) -> std::io::Result<Self> {
        let output = Self::default();
        let kept = output.clone();
        std::thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || {
                let mut buffer = [0; 4_096];
                while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                    let read = buffer.get(..length).unwrap_or_default();
                    kept.keep(read);
                    let _ = std::io::stderr().write_all(read);
                }
                lock(&kept.0.0).ended = true;
                kept.0.1.notify_all();
            })?;
        Ok(output)
    }

    fn keep(&self, read: &[u8]) {
        let kept = &mut *lock(&self.0.0);
        kept.bytes.extend(read);
        kept.printed += read.len() as u64;
        let excess = kept.bytes.len().saturating_sub(KEPT);
        kept.bytes.drain(..excess);
    }

    /// The lines at the end of the output so far, and how many bytes there were in all.
    pub(super) fn so_far(&self) -> (String, u64) {
        let kept = lock(&self.0.0);
        (kept.text(), kept.printed)
    }

    /// The lines at the end of the output of a program that has ended.
    pub(super) fn end(&self) -> String {
        let (kept, changed) = &*self.0;
        let waiting = lock(kept);
        let kept = changed.wait_timeout_while(waiting, DRAIN_TIMEOUT, |kept| !kept.ended);
        let kept = kept.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        kept.text()
    }
}

impl Kept {
    fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_output_is_kept_within_its_bound() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let output = Output::copy(reader).unwrap();
        for _ in 0..KEPT {
            writer.write_all(b"..").unwrap();
        }
        writer.write_all(b"\nFATAL:  the last words\n").unwrap();
        let all = 2 * KEPT as u64 + 24;
        while output.so_far().1 < all {
            std::thread::yield_now();
        }
        drop(writer);
        let kept = output.end();
        assert_eq!(output.so_far(), (kept.clone(), all));
        assert!(kept.ends_with("\nFATAL:  the last words\n") && kept.len() <= KEPT);
    }
}
