//! The log on this pod's volume: a line for everything that happens, on the disk before anybody
//! hears of it.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

use crate::queue::item::{Item, Line, Status};
use crate::queue::{Enqueued, Error};
use mrg_policy::Queue as Limits;

/// So many lines more than requests, and the log is written anew.
const SLACK: usize = 10_000;

/// The log, with what it says.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    lines: usize,
    items: BTreeMap<String, Item>,
}

fn failed(action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Log { action, source }
}

/// What a log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// The requests, by their tickets.
    pub items: BTreeMap<String, Item>,
    /// Lines that could be read.
    pub lines: usize,
    /// Their length; bytes. What follows cannot be read.
    pub whole: usize,
}

/// Reads a log. A torn last line was never acknowledged.
pub fn replay(text: &[u8]) -> Replayed {
    let Replayed {
        mut items,
        mut lines,
        mut whole,
    } = Replayed::default();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let Some(record) = line
            .strip_suffix(b"\n")
            .and_then(|line| serde_json::from_slice::<Line>(line).ok())
        else {
            break;
        };
        whole += line.len();
        lines += 1;
        match record {
            Line::Put(item) => {
                items.insert(item.ticket.clone(), *item);
            }
            Line::Stands {
                ticket,
                status,
                retry_at,
                note,
            } => {
                if let Some(item) = items.get_mut(&ticket) {
                    stand(item, status, retry_at, &note);
                }
            }
            Line::Forget { ticket } => {
                items.remove(&ticket);
            }
        }
    }
    Replayed {
        items,
        lines,
        whole,
    }
}

fn stand(item: &mut Item, status: Status, retry_at: Timestamp, note: &str) {
    if status == Status::Sending {
        item.attempts = item.attempts.saturating_add(1);
    }
    item.status = status;
    item.retry_at = retry_at;
    note.clone_into(&mut item.note);
}

impl Log {
    /// Reads it, or begins it. Requests that were being sent when its proxy ended are left to
    /// people.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub(super) async fn open(directory: &Path) -> Result<Self, Error> {
        tokio::fs::create_dir_all(directory)
            .await
            .map_err(failed("could not get its directory"))?;
        let path = directory.join("queue.log");
        let text = match tokio::fs::read(&path).await {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(failed("could not be read")(error)),
        };
        let Replayed {
            items,
            lines,
            whole,
        } = replay(&text);
        let rest = text.get(whole..).unwrap_or_default();
        if rest.contains(&b'\n') {
            // Not a torn end: something else wrote here. What follows is kept aside for people.
            tokio::fs::write(directory.join("queue.log.unreadable"), rest)
                .await
                .map_err(failed("could not be set right"))?;
            tracing::error!(path = %path.display(), "lines of the queue's log cannot be read; they are in queue.log.unreadable");
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .await
            .map_err(failed("could not be opened"))?;
        file.set_len(whole as u64)
            .await
            .map_err(failed("could not be set right"))?;
        file.sync_all()
            .await
            .map_err(failed("could not be synced"))?;
        let mut log = Self {
            path,
            file,
            lines,
            items,
        };
        let sending: Vec<String> = log
            .items
            .values()
            .filter(|item| item.status == Status::Sending)
            .map(|item| item.ticket.clone())
            .collect();
        for ticket in sending {
            log.settle(
                &ticket,
                Status::NeedsReview,
                None,
                "the proxy ended while it was being sent",
            )
            .await?;
        }
        Ok(log)
    }

    async fn append(&mut self, line: &Line) -> Result<(), Error> {
        let mut text = serde_json::to_vec(line)
            .map_err(|error| failed("has no words for a request")(error.into()))?;
        text.push(b'\n');
        self.file
            .write_all(&text)
            .await
            .map_err(failed("could not be written"))?;
        self.file
            .flush()
            .await
            .map_err(failed("could not be written"))?;
        self.file
            .sync_data()
            .await
            .map_err(failed("could not be synced"))?;
        self.lines += 1;
        Ok(())
    }

    /// Writes the log anew if most of it is over. Only once memory has what the last line says,
    /// since memory is what is written.
    async fn tidy(&mut self) -> Result<(), Error> {
        if self.lines <= self.items.len() + SLACK {
            return Ok(());
        }
        let mut text = Vec::new();
        for item in self.items.values() {
            text.extend(
                serde_json::to_vec(&Line::Put(Box::new(item.clone())))
                    .map_err(|error| failed("has no words for a request")(error.into()))?,
            );
            text.push(b'\n');
        }
        let next = self.path.with_extension("new");
        let mut file = File::create(&next)
            .await
            .map_err(failed("could not be written anew"))?;
        file.write_all(&text)
            .await
            .map_err(failed("could not be written anew"))?;
        file.sync_all()
            .await
            .map_err(failed("could not be synced"))?;
        tokio::fs::rename(&next, &self.path)
            .await
            .map_err(failed("could not be written anew"))?;
        if let Some(directory) = self.path.parent() {
            let directory = File::open(directory)
                .await
                .map_err(failed("could not be synced"))?;
            directory
                .sync_all()
                .await
                .map_err(failed("could not be synced"))?;
        }
        self.file = OpenOptions::new()
            .append(true)
            .open(&self.path)
            .await
            .map_err(failed("could not be opened"))?;
        self.lines = self.items.len();
        Ok(())
    }

    /// Keeps a request, unless it is here already or too many are.
    ///
    /// # Errors
    /// If it is not on the disk.
    pub(super) async fn put(&mut self, item: &Item, capacity: u32) -> Result<Enqueued, Error> {
        if let Some(known) = self.items.get(&item.ticket) {
            return Ok(Enqueued::Ticket(known.ticket.clone(), known.status));
        }
        let (waiting, inquiry, _) = self.count(&item.dependency);
        if waiting + inquiry >= u64::from(capacity) {
            return Ok(Enqueued::Full);
        }
        self.append(&Line::Put(Box::new(item.clone()))).await?;
        self.items.insert(item.ticket.clone(), item.clone());
        self.tidy().await?;
        Ok(Enqueued::Ticket(item.ticket.clone(), item.status))
    }

    /// Whoever waits for another try has it now. Not written down: after a restart the pause is
    /// what it was.
    pub(super) fn hurry(&mut self, dependency: &str) {
        let now = Timestamp::now();
        for item in self
            .items
            .values_mut()
            .filter(|item| item.dependency == dependency && item.status == Status::Waiting)
        {
            item.retry_at = item.retry_at.min(now);
        }
    }

    /// The oldest that is not being sent just now.
    pub(super) fn first_to_move(&self) -> Option<Item> {
        self.items
            .values()
            .filter(|item| item.status != Status::Sending)
            .min_by_key(|item| item.created)
            .cloned()
    }

    /// It is kept elsewhere now.
    ///
    /// # Errors
    /// If that is not on the disk.
    pub(super) async fn forget(&mut self, ticket: &str) -> Result<(), Error> {
        self.append(&Line::Forget {
            ticket: ticket.to_owned(),
        })
        .await?;
        self.items.remove(ticket);
        self.tidy().await
    }

    /// The oldest that may be sent, marked as being sent.
    ///
    /// # Errors
    /// If the mark is not on the disk.
    pub(super) async fn claim(
        &mut self,
        dependency: &str,
        limits: &Limits,
    ) -> Result<Option<Item>, Error> {
        let now = Timestamp::now();
        let of = |item: &&Item| item.dependency == dependency && item.status == Status::Waiting;
        let old = |item: &&Item| item.is_older_than(limits.max_age.0.duration(), now);
        let expired: Vec<String> = self
            .items
            .values()
            .filter(of)
            .filter(old)
            .map(|item| item.ticket.clone())
            .collect();
        for ticket in expired {
            self.settle(&ticket, Status::Expired, None, "it waited too long")
                .await?;
        }
        let next = self
            .items
            .values()
            .filter(of)
            .filter(|item| item.retry_at <= now)
            .min_by_key(|item| item.created);
        let Some(ticket) = next.map(|item| item.ticket.clone()) else {
            return Ok(None);
        };
        self.settle(&ticket, Status::Sending, None, "").await?;
        Ok(self.items.get(&ticket).cloned())
    }

    /// It stands elsewhere now. What was answered is not kept.
    ///
    /// # Errors
    /// If that is not on the disk.
    pub(super) async fn settle(
        &mut self,
        ticket: &str,
        status: Status,
        retry_at: Option<Timestamp>,
        note: &str,
    ) -> Result<(), Error> {
        let retry_at = retry_at.unwrap_or_else(Timestamp::now);
        self.append(&Line::Stands {
            ticket: ticket.to_owned(),
            status,
            retry_at,
            note: note.to_owned(),
        })
        .await?;
        if let Some(item) = self.items.get_mut(ticket) {
            stand(item, status, retry_at, note);
        }
        self.tidy().await
    }

    /// A person decides about one that is not being sent. False: it is not here.
    ///
    /// # Errors
    /// If that is not on the disk.
    pub(super) async fn decide(
        &mut self,
        ticket: &str,
        status: Status,
        note: &str,
    ) -> Result<bool, Error> {
        if self
            .items
            .get(ticket)
            .is_none_or(|item| matches!(item.status, Status::Sending | Status::Done))
        {
            return Ok(false);
        }
        self.settle(ticket, status, None, note).await.map(|()| true)
    }

    /// How many wait, how many people must ask about, and since when the oldest does.
    pub(super) fn count(&self, dependency: &str) -> (u64, u64, Option<Timestamp>) {
        let of = |status: &[Status]| {
            self.items
                .values()
                .filter(|item| item.dependency == dependency && status.contains(&item.status))
                .count() as u64
        };
        let open = |item: &&Item| {
            item.dependency == dependency
                && !matches!(item.status, Status::Done | Status::Discarded)
        };
        let oldest = self
            .items
            .values()
            .filter(open)
            .map(|item| item.created)
            .min();
        (
            of(&[Status::Waiting, Status::Sending]),
            of(&[Status::NeedsReview, Status::Expired]),
            oldest,
        )
    }

    /// Everything.
    pub(super) fn list(&self) -> Vec<Item> {
        self.items.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::attempt::Head;
    use bytes::Bytes;
    use http::uri::PathAndQuery;
    use http::{HeaderMap, Method};

    fn item(key: &str) -> Item {
        let head = Head {
            method: Method::POST,
            path: PathAndQuery::from_static("/orders"),
            headers: HeaderMap::new(),
            grpc: false,
        };
        Item::new(
            "tpg",
            "bbd",
            key,
            &head,
            Bytes::from_static(b"{}"),
            Status::Waiting,
        )
    }

    fn limits() -> Limits {
        serde_json::from_str(r#"{"idempotencyHeader": "idempotency-key"}"#).unwrap()
    }

    #[tokio::test]
    async fn what_was_acknowledged_is_there_after_a_crash_and_a_torn_line_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path()).await.unwrap();
        for key in ["a", "b", "c"] {
            log.put(&item(key), 10).await.unwrap();
        }
        log.settle(&item("a").ticket, Status::Done, None, "200")
            .await
            .unwrap();
        let claimed = log.claim("bbd", &limits()).await.unwrap().unwrap();
        assert_eq!(claimed.key, "b");
        drop(log);
        let path = directory.path().join("queue.log");
        let mut text = std::fs::read(&path).unwrap();
        text.extend(br#"{"Put": {"ticket": "torn"#);
        std::fs::write(&path, text).unwrap();
        let log = Log::open(directory.path()).await.unwrap();
        let statuses: Vec<(String, Status)> = log
            .list()
            .into_iter()
            .map(|item| (item.key, item.status))
            .collect();
        assert!(statuses.contains(&("a".to_owned(), Status::Done)));
        assert!(
            statuses.contains(&("b".to_owned(), Status::NeedsReview)),
            "it was being sent: {statuses:?}"
        );
        assert!(statuses.contains(&("c".to_owned(), Status::Waiting)));
        assert_eq!(statuses.len(), 3);
    }

    #[tokio::test]
    async fn the_same_key_has_the_same_ticket_and_a_full_queue_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path()).await.unwrap();
        let first = log.put(&item("a"), 1).await.unwrap();
        assert_eq!(log.put(&item("a"), 1).await.unwrap(), first);
        assert_eq!(log.put(&item("b"), 1).await.unwrap(), Enqueued::Full);
    }

    #[tokio::test]
    async fn lines_that_cannot_be_read_are_kept_aside() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(
            directory.path().join("queue.log"),
            "what is this\nand this\n",
        )
        .unwrap();
        let log = Log::open(directory.path()).await.unwrap();
        assert!(log.list().is_empty());
        assert_eq!(
            std::fs::read_to_string(directory.path().join("queue.log.unreadable")).unwrap(),
            "what is this\nand this\n"
        );
    }

    #[tokio::test]
    async fn a_log_of_much_that_is_over_is_written_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Log::open(directory.path()).await.unwrap();
        log.put(&item("a"), 10).await.unwrap();
        log.lines = SLACK + 1;
        log.put(&item("b"), 10).await.unwrap();
        log.put(&item("c"), 10).await.unwrap();
        drop(log);
        assert_eq!(Log::open(directory.path()).await.unwrap().list().len(), 3);
    }
}
