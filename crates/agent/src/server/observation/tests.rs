use super::*;
use mrg_base::{Lsn, MemberName, Timeline};
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
        ours: false,
        server: None,
        directory: "/data".to_owned(),
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

fn at_rest(
    case: &'static str,
    rest: AtRest,
    known: Known,
    expected: Postgres,
    known_after: Known,
) -> Row {
    Row {
        case,
        reading: Reading::AtRest(rest),
        known,
        expected,
        known_after,
    }
}

#[test]
fn data_at_rest_that_can_be_used() {
    let stopped = || Postgres::Stopped(data_directory());
    let unfinished = AtRest {
        unfinished: true,
        ..rest()
    };
    let stopped_unfinished = Postgres::Stopped(DataDirectory {
        unfinished: true,
        ..data_directory()
    });
    let unknown_programs = AtRest {
        programs: None,
        ..rest()
    };
    let unknown_version = AtRest {
        made_by: None,
        ..rest()
    };
    let none = Known::default;
    let facts = with_facts(none());
    let unusable = unusable("garbage");
    check(
        vec![
            at_rest("of a former server", rest(), facts, stopped(), none()),
            at_rest("unfinished", unfinished, none(), stopped_unfinished, none()),
            at_rest(
                "PostgreSQL unknown",
                unknown_programs,
                none(),
                stopped(),
                none(),
            ),
            at_rest(
                "PG_VERSION unreadable",
                unknown_version,
                none(),
                stopped(),
                none(),
            ),
            at_rest("usable again", rest(), unusable, stopped(), none()),
        ],
        None,
    );
}

#[test]
fn data_at_rest_that_cannot_be_used() {
    let mismatch = "the data was made by PostgreSQL 16, and the programs here are of 17; use an image with PostgreSQL 16, or restore a dump into a new cluster";
    let absent = AtRest {
        data: DataState::Absent,
        ..rest()
    };
    let half_rewound = AtRest {
        half_rewound: true,
        ..rest()
    };
    let made_by_16 = AtRest {
        made_by: Some("16\n".to_owned()),
        ..rest()
    };
    let unreadable = || AtRest {
        data: DataState::Unreadable("garbage".to_owned()),
        ..rest()
    };
    let none = Known::default;
    let (no_data, refused) = (Postgres::NoData, Postgres::Unusable);
    let mismatch = unusable(mismatch);
    let garbage = || unusable("garbage");
    check(
        vec![
            at_rest("absent", absent, none(), no_data.clone(), none()),
            at_rest("half rewound", half_rewound, none(), no_data, none()),
            at_rest(
                "of 16",
                made_by_16,
                none(),
                refused.clone(),
                mismatch.clone(),
            ),
            at_rest(
                "unreadable",
                unreadable(),
                none(),
                refused.clone(),
                garbage(),
            ),
            at_rest("unreadable now", unreadable(), mismatch, refused, garbage()),
        ],
        None,
    );
}

#[test]
fn what_is_not_known_to_be_ours_is_refused_with_the_way_out() {
    let foreign = |ours| AtRest {
        data: DataState::Foreign("PG_VERSION, dump.sql".to_owned()),
        ours,
        ..rest()
    };
    let mut known = Known::default();
    assert_eq!(
        observe(Reading::AtRest(foreign(false)), None, &mut known, NOW),
        Postgres::Unusable
    );
    let refusal = known.unusable.clone().unwrap();
    assert!(refusal.contains("PG_VERSION, dump.sql") && refusal.contains("move it away"));
    assert_eq!(
        observe(Reading::AtRest(foreign(true)), None, &mut known, NOW),
        Postgres::NoData
    );
    assert_eq!(known, Known::default());

    let living = AtRest {
        server: Some(77),
        half_rewound: true,
        ..rest()
    };
    assert_eq!(
        observe(Reading::AtRest(living), None, &mut known, NOW),
        Postgres::Unknown,
        "not even what a rewind left is touched under a server"
    );
    let refusal = known.unusable.unwrap();
    assert!(refusal.contains("process 77") && refusal.contains("pg_ctl -D /data stop"));
}

fn replica(streaming: bool, flushed: Option<Lsn>) -> Replica {
    Replica {
        system_id: 42,
        flushed,
        replayed: Lsn(90),
        timeline: Timeline(7),
        streaming,
        receiver: streaming,
        waiting: true,
        settled: true,
    }
}

fn answered(streaming: bool) -> Reading {
    Reading::Answered {
        probe: Probe::Replica(replica(streaming, Some(Lsn(100))), facts()),
        fork: None,
        receiver: None,
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
        printed: 0,
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
fn a_receiver_that_fails_says_why_until_it_streams() {
    let upstream = Upstream {
        member: MemberName::new("pg-2").unwrap(),
        since: Moment(500),
        printed: 0,
    };
    let read = |known: &mut Known, replica: Replica, error: Option<(&str, bool)>| {
        let receiver = error.map(|(text, wal_removed)| ReceiverError {
            text: text.to_owned(),
            wal_removed,
        });
        let reading = Reading::Answered {
            probe: Probe::Replica(replica, facts()),
            fork: None,
            receiver,
        };
        match observe(reading, Some(&upstream), known, NOW) {
            Postgres::Standby(standby) => (standby.receiver, known.receiver_error.clone()),
            other => panic!("{other:?}"),
        }
    };
    let standby = |streaming, waiting| Replica {
        waiting,
        ..replica(streaming, Some(Lsn(100)))
    };
    let said = |text: &str| Some(text.to_owned());
    let broken = WalReceiver::Broken(NOW);
    let known = &mut Known::default();
    let rows = [
        (standby(false, false), Some(("old", true)), (broken, None)),
        (standby(false, true), None, (broken, None)),
        (
            standby(false, true),
            Some(("a", false)),
            (broken, said("a")),
        ),
        (standby(false, true), None, (broken, said("a"))),
        (
            standby(false, true),
            Some(("b", true)),
            (WalReceiver::WalRemoved, said("b")),
        ),
        (standby(false, false), None, (broken, None)),
        (
            standby(false, true),
            Some(("a", false)),
            (broken, said("a")),
        ),
        (standby(true, true), None, (WalReceiver::Streaming, None)),
    ];
    for (replica, error, expected) in rows {
        assert_eq!(read(known, replica, error), expected, "{error:?}");
    }
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
        probe: Probe::Replica(replica(false, None), facts()),
        fork,
        receiver: None,
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
    let probe = Probe::Primary(primary.clone(), ServerFacts::default());
    let kept = || with_facts(broken_since(900));
    let led = || Known {
        primary: Some(primary.clone()),
        ..kept()
    };
    let rows = vec![
        row(
            "a primary",
            Reading::Answered {
                probe,
                fork: None,
                receiver: None,
            },
            Postgres::Primary(primary.clone()),
            Known {
                facts: Some(ServerFacts::default()),
                primary: Some(primary.clone()),
                ..broken_since(900)
            },
        ),
        row("it is full", Reading::Full, Postgres::Starting, kept()),
        Row {
            case: "a primary that is full",
            reading: Reading::Full,
            known: led(),
            expected: Postgres::Primary(primary.clone()),
            known_after: led(),
        },
        row(
            "it starts",
            Reading::NotAccepting(None),
            Postgres::Starting,
            kept(),
        ),
        row(
            "its files are damaged",
            Reading::NotAccepting(Some("could not open file".to_owned())),
            Postgres::Starting,
            Known {
                refusal: Some("could not open file".to_owned()),
                ..kept()
            },
        ),
        Row {
            case: "its files were damaged",
            reading: Reading::NotAccepting(None),
            known: Known {
                refusal: Some("could not open file".to_owned()),
                ..kept()
            },
            expected: Postgres::Starting,
            known_after: kept(),
        },
        row("it hangs", Reading::Failed, Postgres::Unknown, kept()),
    ];
    check(rows, None);
}
