//! The log on this pod's volume: a line for everything that happens, on the disk before it is
//! acknowledged.

#![deny(clippy::indexing_slicing, clippy::panic)]

mod replay;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt;

use super::error::Error;
use super::item::{Enqueued, Item, Line, Status};
use mrg_policy::Queue as Limits;
use replay::set_status;

pub use replay::{Replayed, replay};

/// How many more lines than requests the log may have before it is compacted.
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

/// Opens the file for appending, cut to this length.
async fn open_at(path: &Path, length: u64) -> Result<File, Error> {
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .await
        .map_err(failed("could not be opened"))?;
    file.set_len(length)
        .await
        .map_err(failed("could not be set right"))?;
    file.sync_all()
        .await
        .map_err(failed("could not be synced"))?;
    Ok(file)
}

/// Puts a file with this text in place of the one at `path`; after a crash it is one or the other.
async fn replace_file(path: &Path, text: &[u8]) -> Result<(), Error> {
    let next = path.with_extension("new");
    let mut file = File::create(&next)
        .await
        .map_err(failed("could not be rewritten"))?;
    file.write_all(text)
        .await
        .map_err(failed("could not be rewritten"))?;
    file.sync_all()
        .await
        .map_err(failed("could not be synced"))?;
    tokio::fs::rename(&next, path)
        .await
        .map_err(failed("could not be rewritten"))?;
    if let Some(directory) = path.parent() {
        let directory = File::open(directory)
            .await
            .map_err(failed("could not be synced"))?;
        directory
            .sync_all()
            .await
            .map_err(failed("could not be synced"))?;
    }
    Ok(())
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
        let file = open_at(&path, whole as u64).await?;
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

    /// Compacts the log once most of it is outdated: what is in memory replaces it. Call this only
    /// when memory has what the last line says.
    async fn compact(&mut self) -> Result<(), Error> {
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
        replace_file(&self.path, &text).await?;
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
        self.compact().await?;
        Ok(Enqueued::Ticket(item.ticket.clone(), item.status))
    }

    /// Lets the requests that wait for another attempt be sent now. Not written down: after a
    /// restart the pause is what it was.
    /// The status of a request; `None` if it is not here.
    pub(super) fn status(&self, ticket: &str) -> Option<Status> {
        self.items.get(ticket).map(|item| item.status)
    }

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

    /// Removes a request that is kept elsewhere now.
    ///
    /// # Errors
    /// If that is not on the disk.
    pub(super) async fn forget(&mut self, ticket: &str) -> Result<(), Error> {
        self.append(&Line::Forget {
            ticket: ticket.to_owned(),
        })
        .await?;
        self.items.remove(ticket);
        self.compact().await
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

    /// Gives a request its new status.
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
        self.append(&Line::StatusChanged {
            ticket: ticket.to_owned(),
            status,
            retry_at,
            note: note.to_owned(),
        })
        .await?;
        if let Some(item) = self.items.get_mut(ticket) {
            set_status(item, status, retry_at, note);
        }
        self.compact().await
    }

    /// Gives a request the status that a person chose. False if it is not here, answered, or being
    /// sent.
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
mod tests;
