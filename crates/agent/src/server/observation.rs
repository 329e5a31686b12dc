//! What a probe of the local server means to the election. Pure.

use crate::server::settings::Upstream;
use mrg_base::{Moment, Position};
use mrg_election::{DataDirectory, Fork, Postgres, Standby, WalReceiver};
use mrg_postgres::{DataState, Look, Replica, Server as ServerFacts};

/// What one probe has read.
#[derive(Clone, Debug)]
pub(super) enum Reading {
    /// No postmaster runs.
    AtRest(AtRest),
    /// The server has answered. `fork` is where a standby's timeline ended, by its history files.
    Answered { look: Look, fork: Option<Fork> },
    /// The postmaster runs and refuses connections, or its socket is not there yet.
    NotAccepting,
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
}

/// What is known of the server besides its role, from the probes so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// From the last answer of the running server; `None` if it is known not to run.
    pub(super) facts: Option<ServerFacts>,
    /// Since when the WAL receiver has not been streaming, if it should.
    pub(super) broken_since: Option<Moment>,
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
    match reading {
        Reading::AtRest(rest) => {
            known.facts = None;
            at_rest(rest, known)
        }
        Reading::Answered {
            look: Look::Primary(primary, facts),
            ..
        } => {
            known.facts = Some(facts);
            Postgres::Primary(primary)
        }
        Reading::Answered {
            look: Look::Replica(replica, facts),
            fork,
        } => {
            known.facts = Some(facts);
            Postgres::Standby(standby(&replica, fork, upstream, known, now))
        }
        Reading::NotAccepting => Postgres::Starting,
        Reading::Failed => Postgres::Unknown,
    }
}

fn at_rest(rest: AtRest, known: &mut Known) -> Postgres {
    if rest.half_rewound {
        return Postgres::NoData;
    }
    let mismatch = version_mismatch(rest.made_by.as_deref(), rest.programs.as_deref());
    let unusable = match (rest.data, mismatch) {
        (DataState::Absent, _) => return Postgres::NoData,
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
    Postgres::Unknown
}

fn version_mismatch(made_by: Option<&str>, programs: Option<&str>) -> Option<String> {
    let (made_by, programs) = (made_by?.trim(), programs?);
    (made_by != programs).then(|| {
        format!(
            "the data was made by PostgreSQL {made_by}, and the programs here are of {programs}; use an image with PostgreSQL {made_by}, or restore a dump into a new cluster"
        )
    })
}

fn standby(
    replica: &Replica,
    fork: Option<Fork>,
    upstream: Option<&Upstream>,
    known: &mut Known,
    now: Moment,
) -> Standby {
    let receiver = match upstream {
        None => WalReceiver::Stopped,
        Some(_) if replica.streaming => WalReceiver::Streaming,
        Some(upstream) => {
            // A receiver that was broken under the upstream before this one has a new chance.
            let since = known.broken_since.filter(|since| *since >= upstream.since);
            WalReceiver::Broken(since.unwrap_or(now))
        }
    };
    known.broken_since = match receiver {
        WalReceiver::Broken(since) => Some(since),
        WalReceiver::Streaming | WalReceiver::Stopped => None,
    };
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
mod tests {
    use super::*;
    use mrg_base::{Lsn, MemberName, Timeline};
    use mrg_election::Primary;
    use mrg_election::sync::Names;
    use mrg_postgres::ControlFile;

    const NOW: Moment = Moment(1_000);

    fn data_directory() -> DataDirectory {
        DataDirectory {
            system_id: 42,
            timeline: Timeline(7),
            checkpoint: Lsn(0x300_0028),
            was_primary: true,
            clean: false,
            unfinished: false,
        }
    }

    fn rest() -> AtRest {
        AtRest {
            data: DataState::Present(ControlFile {
                version: 1700,
                data: data_directory(),
            }),
            made_by: Some("17\n".to_owned()),
            programs: Some("17".to_owned()),
            unfinished: false,
            half_rewound: false,
        }
    }

    fn facts() -> ServerFacts {
        ServerFacts {
            version: 170_006,
            ..ServerFacts::default()
        }
    }

    fn broken_since(moment: u64) -> Known {
        Known {
            broken_since: Some(Moment(moment)),
            ..Known::default()
        }
    }

    fn unusable(why: &str) -> Known {
        Known {
            unusable: Some(why.to_owned()),
            ..Known::default()
        }
    }

    fn with_facts(known: Known) -> Known {
        Known {
            facts: Some(facts()),
            ..known
        }
    }

    struct Row {
        case: &'static str,
        reading: Reading,
        known: Known,
        expected: Postgres,
        known_after: Known,
    }

    fn check(rows: Vec<Row>, upstream: Option<&Upstream>) {
        for row in rows {
            let mut known = row.known;
            let observed = observe(row.reading, upstream, &mut known, NOW);
            assert_eq!(observed, row.expected, "{}", row.case);
            assert_eq!(known, row.known_after, "{}", row.case);
        }
    }

    #[test]
    fn a_data_directory_at_rest() {
        let stopped = Postgres::Stopped(data_directory());
        let mismatch = "the data was made by PostgreSQL 16, and the programs here are of 17; use an image with PostgreSQL 16, or restore a dump into a new cluster";
        let row = |case, rest, known, expected, known_after| Row {
            case,
            reading: Reading::AtRest(rest),
            known,
            expected,
            known_after,
        };
        let absent = AtRest {
            data: DataState::Absent,
            ..rest()
        };
        let made_by_16 = AtRest {
            made_by: Some("16\n".to_owned()),
            ..rest()
        };
        let unreadable = AtRest {
            data: DataState::Unreadable("garbage".to_owned()),
            ..rest()
        };
        let none = Known::default;
        let rows = vec![
            row("no data", absent, none(), Postgres::NoData, none()),
            row(
                "data of a former server",
                rest(),
                with_facts(none()),
                stopped.clone(),
                none(),
            ),
            row(
                "an interrupted rewind counts as no data",
                AtRest {
                    half_rewound: true,
                    ..rest()
                },
                none(),
                Postgres::NoData,
                none(),
            ),
            row(
                "data of an unfinished bootstrap",
                AtRest {
                    unfinished: true,
                    ..rest()
                },
                none(),
                Postgres::Stopped(DataDirectory {
                    unfinished: true,
                    ..data_directory()
                }),
                none(),
            ),
            row(
                "another major version",
                made_by_16,
                none(),
                Postgres::Unknown,
                unusable(mismatch),
            ),
            row(
                "unknown programs are not held against the data",
                AtRest {
                    programs: None,
                    ..rest()
                },
                none(),
                stopped.clone(),
                none(),
            ),
            row(
                "an unreadable PG_VERSION is not held against the data",
                AtRest {
                    made_by: None,
                    ..rest()
                },
                none(),
                stopped.clone(),
                none(),
            ),
            row(
                "an unreadable control file",
                unreadable,
                none(),
                Postgres::Unknown,
                unusable("garbage"),
            ),
            row(
                "data that can be used again",
                rest(),
                unusable("garbage"),
                stopped,
                none(),
            ),
        ];
        check(rows, None);
    }

    fn replica(streaming: bool, flushed: Option<Lsn>) -> Replica {
        Replica {
            system_id: 42,
            flushed,
            replayed: Lsn(90),
            timeline: Timeline(7),
            streaming,
            receiver: streaming,
            settled: true,
        }
    }

    fn answered(streaming: bool) -> Reading {
        Reading::Answered {
            look: Look::Replica(replica(streaming, Some(Lsn(100))), facts()),
            fork: None,
        }
    }

    fn standby_of(upstream: Option<&Upstream>, receiver: WalReceiver) -> Postgres {
        Postgres::Standby(Standby {
            system_id: 42,
            position: Some(Position {
                timeline: Timeline(7),
                flushed: Lsn(100),
            }),
            upstream: upstream.map(|upstream| upstream.member.clone()),
            receiver,
            fork: None,
        })
    }

    #[test]
    fn a_standby_with_an_upstream() {
        let upstream = Upstream {
            member: MemberName::new("pg-2").unwrap(),
            since: Moment(500),
        };
        let row = |case, streaming, known, receiver, known_after| Row {
            case,
            reading: answered(streaming),
            known,
            expected: standby_of(Some(&upstream), receiver),
            known_after: with_facts(known_after),
        };
        let none = Known::default;
        let broken = |since| WalReceiver::Broken(Moment(since));
        let rows = vec![
            row("it streams", true, none(), WalReceiver::Streaming, none()),
            row(
                "it streams again",
                true,
                broken_since(900),
                WalReceiver::Streaming,
                none(),
            ),
            row(
                "it breaks",
                false,
                none(),
                broken(1_000),
                broken_since(1_000),
            ),
            row(
                "it stays broken",
                false,
                broken_since(900),
                broken(900),
                broken_since(900),
            ),
            row(
                "it was broken under the upstream before",
                false,
                broken_since(499),
                broken(1_000),
                broken_since(1_000),
            ),
            row(
                "it broke in the moment the upstream was set",
                false,
                broken_since(500),
                broken(500),
                broken_since(500),
            ),
        ];
        check(rows, Some(&upstream));
    }

    #[test]
    fn a_standby_without_an_upstream_is_not_broken() {
        let row = |streaming| Row {
            case: "no upstream",
            reading: answered(streaming),
            known: broken_since(900),
            expected: standby_of(None, WalReceiver::Stopped),
            known_after: with_facts(Known::default()),
        };
        check(vec![row(false), row(true)], None);
    }

    #[test]
    fn a_standby_that_still_replays_has_no_position_and_a_fork_is_passed_on() {
        let fork = Some(Fork {
            by: Timeline(8),
            at: Lsn(95),
        });
        let reading = Reading::Answered {
            look: Look::Replica(replica(false, None), facts()),
            fork,
        };
        let observed = observe(reading, None, &mut Known::default(), NOW);
        let Postgres::Standby(standby) = observed else {
            panic!("{observed:?}");
        };
        assert_eq!((standby.position, standby.fork), (None, fork));
    }

    #[test]
    fn a_primary_and_a_server_that_does_not_answer() {
        let primary = Primary {
            system_id: 42,
            position: Position {
                timeline: Timeline(7),
                flushed: Lsn(100),
            },
            names: Some(Names::default()),
            senders: [].into(),
        };
        let row = |case, reading, expected, known_after| Row {
            case,
            reading,
            known: with_facts(broken_since(900)),
            expected,
            known_after,
        };
        let look = Look::Primary(primary.clone(), ServerFacts::default());
        let kept = || with_facts(broken_since(900));
        let rows = vec![
            row(
                "a primary",
                Reading::Answered { look, fork: None },
                Postgres::Primary(primary),
                Known {
                    facts: Some(ServerFacts::default()),
                    ..broken_since(900)
                },
            ),
            row(
                "it starts",
                Reading::NotAccepting,
                Postgres::Starting,
                kept(),
            ),
            row("it hangs", Reading::Failed, Postgres::Unknown, kept()),
        ];
        check(rows, None);
    }
}
