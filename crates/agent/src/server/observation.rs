//! What a probe of the local server means to the election. Pure.

use crate::server::receiver::ReceiverError;
use crate::server::settings::Upstream;
use mrg_base::{Moment, Position};
use mrg_election::{DataDirectory, Fork, Postgres, Primary, Standby, WalReceiver};
use mrg_postgres::{DataState, Probe, Replica, ServerFacts};

/// What one probe has read.
#[derive(Clone, Debug)]
pub(super) enum Reading {
    /// No postmaster runs.
    AtRest(AtRest),
    /// The server has answered.
    Answered {
        probe: Probe,
        /// Where a standby's timeline ended, by its history files.
        fork: Option<Fork>,
        /// The last failure of a standby's WAL receiver since it was turned to its upstream, if it
        /// does not stream.
        receiver: Option<ReceiverError>,
    },
    /// The server has no place for another session, so it serves those that it has.
    Full,
    /// The postmaster runs and refuses connections, or its socket is not there yet. What it says if
    /// that is not because it starts, shuts down or recovers.
    NotAccepting(Option<String>),
    /// The server has accepted a connection and failed to answer.
    Failed,
}

/// The data directory without a server.
#[derive(Clone, Debug)]
pub(super) struct AtRest {
    pub(super) data: DataState,
    /// The major version that made it (`PG_VERSION`), if readable.
    pub(super) made_by: Option<String>,
    /// The major version of the installed programs, if known.
    pub(super) programs: Option<String>,
    /// It was initialized here for a cluster that has not stored its system identifier yet.
    pub(super) unfinished: bool,
    /// `pg_rewind` was interrupted: no server may be started on it.
    pub(super) half_rewound: bool,
    /// The record beside the data names this cluster: what is there is this member's own.
    pub(super) ours: bool,
    /// A process of a server on the directory that this agent did not start.
    pub(super) server: Option<u32>,
    /// For messages.
    pub(super) directory: String,
}

/// What is known of the server besides its role, from the probes so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// From the last answer of the running server; `None` if it is known not to run.
    pub(super) facts: Option<ServerFacts>,
    /// The last answer, if it was a primary's; `None` if no server is known to run.
    pub(super) primary: Option<Primary>,
    /// Since when the WAL receiver has not been streaming, if it should.
    pub(super) broken_since: Option<Moment>,
    /// Why the WAL receiver does not stream, if it should and the server has said so.
    pub(super) receiver_error: Option<String>,
    /// What the running server says as it refuses the agent's sessions, if it should not.
    pub(super) refusal: Option<String>,
    /// Why the data directory cannot be used, if it was found so.
    pub(super) unusable: Option<String>,
}

/// Interprets what a probe read at `now`, and remembers what the next probe needs.
pub(super) fn observe(
    reading: Reading,
    upstream: Option<&Upstream>,
    known: &mut Known,
    now: Moment,
) -> Postgres {
    known.refusal = None;
    match reading {
        Reading::AtRest(rest) => {
            (known.facts, known.primary) = (None, None);
            known.receiver_error = None;
            at_rest(rest, known)
        }
        Reading::Answered {
            probe: Probe::Primary(primary, facts),
            ..
        } => {
            known.facts = Some(facts);
            known.receiver_error = None;
            known.primary = Some(primary.clone());
            Postgres::Primary(primary)
        }
        Reading::Answered {
            probe: Probe::Replica(replica, facts),
            fork,
            receiver,
        } => {
            (known.facts, known.primary) = (Some(facts), None);
            let receiver = observe_receiver(&replica, receiver, upstream, known, now);
            Postgres::Standby(standby(&replica, fork, upstream, receiver))
        }
        // A primary stays one until it ends; what it said last is what is known of it.
        Reading::Full => known
            .primary
            .clone()
            .map_or(Postgres::Starting, Postgres::Primary),
        Reading::NotAccepting(why) => {
            known.refusal = why;
            Postgres::Starting
        }
        Reading::Failed => Postgres::Unknown,
    }
}

fn at_rest(rest: AtRest, known: &mut Known) -> Postgres {
    let directory = rest.directory;
    if let Some(pid) = rest.server {
        known.unusable = Some(format!(
            "a PostgreSQL server that this agent did not start (process {pid}) runs in {directory}; stop it (`pg_ctl -D {directory} stop`) and this agent takes over, or correct postgresql.data_dir"
        ));
        return Postgres::Unknown;
    }
    let mismatch = version_mismatch(rest.made_by.as_deref(), rest.programs.as_deref());
    let unusable = match (rest.data, mismatch) {
        (DataState::Absent, _) => {
            known.unusable = None;
            return Postgres::NoData;
        }
        // A copy replaces it; until the copy streams, what is there is kept.
        _ if rest.half_rewound => {
            known.unusable = None;
            return Postgres::NoData;
        }
        (DataState::Foreign(_), _) if rest.ours => {
            known.unusable = None;
            return Postgres::NoData;
        }
        (DataState::Foreign(names), _) => format!(
            "{directory} has no global/pg_control and is not empty ({names}), and no record beside it says that it is this cluster's; nothing of it is touched: move it away, or correct postgresql.data_dir"
        ),
        (DataState::Present(control), None) => {
            known.unusable = None;
            return Postgres::Stopped(DataDirectory {
                unfinished: rest.unfinished,
                ..control.data
            });
        }
        (DataState::Present(_), Some(why)) | (DataState::Unreadable(why), _) => why,
    };
    known.unusable = Some(unusable);
    Postgres::Unusable
}

fn version_mismatch(made_by: Option<&str>, programs: Option<&str>) -> Option<String> {
    let (made_by, programs) = (made_by?.trim(), programs?);
    (made_by != programs).then(|| {
        format!(
            "the data was made by PostgreSQL {made_by}, and the programs here are of {programs}; use an image with PostgreSQL {made_by}, or restore a dump into a new cluster"
        )
    })
}

fn observe_receiver(
    replica: &Replica,
    error: Option<ReceiverError>,
    upstream: Option<&Upstream>,
    known: &mut Known,
    now: Moment,
) -> WalReceiver {
    let broken = upstream.filter(|_| !replica.streaming);
    let Some(upstream) = broken else {
        (known.broken_since, known.receiver_error) = (None, None);
        return match upstream {
            Some(_) => WalReceiver::Streaming,
            None => WalReceiver::Stopped,
        };
    };
    // A receiver that was broken under the upstream before this one has a new chance, and one for
    // which the server did not wait yet has not had any.
    let since = known
        .broken_since
        .filter(|since| *since >= upstream.since && replica.waiting);
    let kept = known.receiver_error.take().filter(|_| since.is_some());
    let since = since.unwrap_or(now);
    known.broken_since = Some(since);
    let Some(error) = error.filter(|_| replica.waiting) else {
        known.receiver_error = kept;
        return WalReceiver::Broken(since);
    };
    known.receiver_error = Some(error.text);
    if error.wal_removed {
        WalReceiver::WalRemoved
    } else {
        WalReceiver::Broken(since)
    }
}

fn standby(
    replica: &Replica,
    fork: Option<Fork>,
    upstream: Option<&Upstream>,
    receiver: WalReceiver,
) -> Standby {
    Standby {
        system_id: replica.system_id,
        position: replica.flushed.map(|flushed| Position {
            timeline: replica.timeline,
            flushed,
        }),
        upstream: upstream.map(|upstream| upstream.member.clone()),
        receiver,
        fork,
    }
}

#[cfg(test)]
mod tests;
