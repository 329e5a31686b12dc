//! What a log says.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::queue::item::{Item, Line, Status};

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
            Line::StatusChanged {
                ticket,
                status,
                retry_at,
                note,
            } => {
                if let Some(item) = items.get_mut(&ticket) {
                    set_status(item, status, retry_at, &note);
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

/// Gives a request its new status.
pub(super) fn set_status(item: &mut Item, status: Status, retry_at: Timestamp, note: &str) {
    if status == Status::Sending {
        item.attempts = item.attempts.saturating_add(1);
    }
    item.status = status;
    item.retry_at = retry_at;
    note.clone_into(&mut item.note);
}
