//! What is asked, and what a question ends with.

use std::sync::Arc;

use crate::order::{Micros, Order, Row};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An order under way.
    Active,
    /// One that has ended.
    History,
    /// Whichever it is.
    Auto,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 3] = [Self::Active, Self::History, Self::Auto];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::History => "history",
            Self::Auto => "auto",
        }
    }
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A copy.
    Cache,
    /// The leader.
    Primary,
    /// A standby.
    Replica,
    /// Object storage.
    Archive,
}

impl Source {
    /// All.
    pub const ALL: [Self; 4] = [Self::Cache, Self::Primary, Self::Replica, Self::Archive];

    /// As headers and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Primary => "primary",
            Self::Replica => "replica",
            Self::Archive => "archive",
        }
    }
}

/// An order, where it came from, and how old this view of it may be; `None`: unknown.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub order: Arc<Order>,
    pub source: Source,
    /// How old at most; microseconds.
    pub staleness: Option<Micros>,
}

/// What a question ends with.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    Found(Found),
    /// It has ended: it is asked for as history.
    IsFinal,
    /// It is under way: it is asked for as active.
    IsActive,
    /// There is none.
    Missing,
    /// No place can say just now; the reasons.
    Unavailable(String),
}

/// What a page of a list ends with.
#[derive(Debug)]
pub(crate) struct Page {
    pub rows: Vec<Row>,
    pub source: Source,
    /// How old at most; microseconds.
    pub staleness: Option<Micros>,
}
