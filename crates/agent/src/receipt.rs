//! How far a standby has received, for leaders that wait for it before they hand over.
//!
//! However many ask, one look at the server is under way at a time, and all of them get what it
//! finds.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use mrg_base::Lsn;

/// Between two looks at first: what is waited for takes a few milliseconds.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Between two looks in the end.
const LOOK_INTERVAL_MOST: Duration = Duration::from_millis(100);
/// How long looks follow each other as closely as at first.
const HURRY: u32 = 200;

/// What the looks have found.
pub(crate) struct Receipts {
    /// How many looks have begun.
    begun: AtomicU64,
    found: watch::Sender<Found>,
    wanted: Notify,
}

#[derive(Clone, Copy, Debug)]
struct Found {
    /// The number of the look.
    look: u64,
    /// The end of durable WAL; `None` unless the server is a standby that answers.
    flushed: Option<Lsn>,
}

impl Receipts {
    /// No look has begun.
    pub(crate) fn new() -> Self {
        Self {
            begun: AtomicU64::new(0),
            found: watch::Sender::new(Found {
                look: 0,
                flushed: None,
            }),
            wanted: Notify::new(),
        }
    }

    /// Whether the standby has durable WAL past a position, by a look that began after this was
    /// called. Waits for it.
    pub(crate) async fn are_past(&self, position: Lsn, within: Duration) -> bool {
        let mut found = self.found.subscribe();
        // What an earlier look found may be of data that was rewound since.
        let before = self.begun.load(Ordering::SeqCst);
        self.wanted.notify_one();
        let past = |found: &Found| {
            found.look > before && found.flushed.is_some_and(|flushed| flushed > position)
        };
        let waited = tokio::time::timeout(within, found.wait_for(past)).await;
        waited.is_ok_and(|found| found.is_ok())
    }

    /// Looks while anyone waits, for ever. `look` gives the end of durable WAL and has a deadline of
    /// its own.
    pub(crate) async fn look<F: Future<Output = Option<Lsn>>>(&self, look: impl Fn() -> F) {
        loop {
            self.wanted.notified().await;
            let mut looks = 0;
            while self.found.receiver_count() > 0 {
                let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
                let flushed = look().await;
                let hurry = looks < HURRY && flushed.is_some();
                self.found.send_replace(Found {
                    look: number,
                    flushed,
                });
                looks += 1;
                tokio::time::sleep(if hurry {
                    LOOK_INTERVAL
                } else {
                    LOOK_INTERVAL_MOST
                })
                .await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use super::*;

    const WITHIN: Duration = Duration::from_secs(60);

    /// A server that has received one byte more at each look; gives how many looks there were.
    fn server(receipts: &Arc<Receipts>, from: u32) -> Arc<AtomicU32> {
        let looks = Arc::new(AtomicU32::new(from));
        let (receipts, counted) = (receipts.clone(), looks.clone());
        tokio::spawn(async move {
            let look = || {
                let counted = counted.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let flushed = counted.fetch_add(1, Ordering::SeqCst);
                    Some(Lsn(flushed.into()))
                }
            };
            receipts.look(look).await;
        });
        looks
    }

    #[tokio::test]
    async fn a_thousand_who_wait_cost_the_looks_of_one() {
        let receipts = Arc::new(Receipts::new());
        let looks = server(&receipts, 0);
        let wait = |_| receipts.are_past(Lsn(20), WITHIN);
        let answers = futures::future::join_all((0..1000).map(wait)).await;
        assert!(answers.iter().all(|past| *past));
        assert!(looks.load(Ordering::SeqCst) <= 30);
    }

    #[tokio::test]
    async fn nothing_is_asked_of_the_server_while_none_waits() {
        let receipts = Arc::new(Receipts::new());
        let looks = server(&receipts, 7);
        assert!(receipts.are_past(Lsn(6), WITHIN).await);
        tokio::time::sleep(3 * LOOK_INTERVAL_MOST).await;
        assert_eq!(looks.load(Ordering::SeqCst), 8);
    }

    #[tokio::test]
    async fn what_a_look_found_before_the_question_is_no_answer() {
        let receipts = Arc::new(Receipts::new());
        let looks = server(&receipts, 1000);
        assert!(receipts.are_past(Lsn(500), WITHIN).await);
        // The server was rewound.
        looks.store(1, Ordering::SeqCst);
        let late = receipts.are_past(Lsn(500), Duration::from_millis(50));
        assert!(!late.await);
    }
}
