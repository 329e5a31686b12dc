//! Transcripts of a write pool: events in, effects out.

mod requests;

use super::*;
use crate::pool::Retargeted;
use crate::view::Finding;

const MAX_PAUSE: Millis = Millis::seconds(30);

fn leader(key: i64, name: &str) -> Leader {
    let host = format!("10.0.0.{}", name.trim_start_matches('n'));
    Leader {
        key: Revision(key),
        member: MemberName::new(name).unwrap(),
        address: Address { host, port: 5432 },
    }
}

fn snapshot(revision: i64, leader: Option<Leader>) -> Snapshot {
    Snapshot {
        revision,
        system_id: Some(7),
        leader,
        ..Snapshot::default()
    }
}

fn primary(timeline: u32) -> Finding {
    Finding::Primary {
        system_id: 7,
        timeline: Timeline(timeline),
        written: mrg_base::Lsn(9),
    }
}

/// A pool under test: the clock, and what it last asked for.
struct Script {
    pool: WritePool,
    now: Moment,
}

impl Script {
    fn new() -> Self {
        Self {
            pool: WritePool::new(MAX_PAUSE, Moment(1_000)),
            now: Moment(1_000),
        }
    }

    /// A pool whose clients work on n1.
    fn flowing() -> Self {
        let mut script = Self::new();
        let effects = script.on(Event::Dcs {
            snapshot: snapshot(10, Some(leader(5, "n1"))),
            read: 0,
        });
        let probe = probe_in(&effects).unwrap();
        let effects = script.on(Event::Probed {
            probe,
            finding: primary(1),
        });
        assert_eq!(
            admission_in(&effects),
            Some((Admission::Open, "10.0.0.1:5432".to_owned()))
        );
        script
    }

    fn after(&mut self, pause: u64) -> &mut Self {
        self.now = self.now + Millis(pause);
        self
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        self.pool.on(self.now, event)
    }

    fn watched(&mut self, revision: i64, leader: Option<Leader>) -> Vec<Effect> {
        self.on(Event::Dcs {
            snapshot: snapshot(revision, leader),
            read: 0,
        })
    }
}

fn probe_in(effects: &[Effect]) -> Option<u64> {
    effects.iter().find_map(|effect| {
        if let Effect::Probe { probe, .. } = effect {
            Some(*probe)
        } else {
            None
        }
    })
}

fn read_in(effects: &[Effect]) -> Option<u64> {
    effects.iter().find_map(|effect| {
        if let Effect::ReadDcs(read) = effect {
            Some(*read)
        } else {
            None
        }
    })
}

fn admission_in(effects: &[Effect]) -> Option<(Admission, String)> {
    let text = |addresses: &[Address]| {
        addresses
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    };
    effects.iter().rev().find_map(|effect| match effect {
        Effect::Retarget(target) => Some((target.admission, text(&target.addresses))),
        _ => None,
    })
}

#[test]
fn no_client_is_admitted_before_the_server_itself_says_that_it_is_the_primary() {
    let mut script = Script::new();
    let effects = script.watched(10, Some(leader(5, "n1")));
    assert_eq!(
        admission_in(&effects),
        Some((Admission::Paused, "10.0.0.1:5432".to_owned()))
    );
    let probe = probe_in(&effects).unwrap();
    let effects = script.on(Event::Probed {
        probe,
        finding: Finding::Unreachable,
    });
    assert_eq!(admission_in(&effects), None);
    let effects = script.after(20).on(Event::Tick);
    let probe = probe_in(&effects).unwrap();
    assert_eq!(
        admission_in(&script.on(Event::Probed {
            probe,
            finding: primary(1)
        }))
        .unwrap()
        .0,
        Admission::Open
    );
}

#[test]
fn a_silent_dcs_or_one_closed_connection_pauses_no_client() {
    let mut script = Script::flowing();
    assert_eq!(script.on(Event::DcsLost), vec![]);
    let effects = script.on(Event::Disconnected { key: Revision(5) });
    assert_eq!(admission_in(&effects), None);
    let probe = probe_in(&effects).unwrap();
    assert_eq!(
        script.on(Event::Probed {
            probe,
            finding: primary(1)
        }),
        vec![]
    );
    assert_eq!(script.pool.reason(), Reason::Confirmed);
}

#[test]
fn after_a_reset_of_the_dcs_a_snapshot_of_a_lower_revision_is_the_newest() {
    let mut script = Script::flowing();
    script.watched(3, Some(leader(2, "n2")));
    assert_eq!(script.pool.reason(), Reason::Confirmed, "it came late");
    script.on(Event::DcsReset);
    let effects = script.watched(3, Some(leader(2, "n2")));
    assert_eq!(admission_in(&effects).unwrap().0, Admission::Paused);
    assert_ne!(script.pool.reason(), Reason::Confirmed);
}

#[test]
fn a_closed_connection_and_a_probe_that_fails_pause_the_clients() {
    let mut script = Script::flowing();
    let probe = probe_in(&script.on(Event::Disconnected { key: Revision(5) })).unwrap();
    let effects = script.on(Event::Probed {
        probe,
        finding: Finding::Unreachable,
    });
    assert_eq!(admission_in(&effects).unwrap().0, Admission::Paused);
    assert!(read_in(&effects).is_some());
    assert_eq!(script.pool.reason(), Reason::ServerLost);
}

#[test]
fn a_pause_ends_only_with_a_read_that_began_after_it_and_a_probe_after_it() {
    let mut script = Script::flowing();
    let effects = script.watched(11, None);
    assert_eq!(admission_in(&effects).unwrap().0, Admission::Paused);
    let read = read_in(&effects).unwrap();
    // A change that was watched turns PgBouncer to the new leader, and is not enough to admit any
    // client.
    let effects = script.watched(12, Some(leader(12, "n2")));
    assert_eq!(
        admission_in(&effects),
        Some((Admission::Paused, "10.0.0.2:5432".to_owned()))
    );
    let probe = probe_in(&effects).unwrap();
    assert_eq!(
        admission_in(&script.on(Event::Probed {
            probe,
            finding: primary(2)
        })),
        None
    );
    let effects = script.after(40).on(Event::Dcs {
        snapshot: snapshot(12, Some(leader(12, "n2"))),
        read,
    });
    assert_eq!(
        admission_in(&effects),
        Some((Admission::Open, "10.0.0.2:5432".to_owned()))
    );
    let retargeted = effects.iter().find_map(|effect| {
        if let Effect::Retargeted(retargeted) = effect {
            Some(retargeted.clone())
        } else {
            None
        }
    });
    assert_eq!(
        retargeted.unwrap(),
        Retargeted {
            cause: Reason::LeaderGone,
            paused: Millis(40),
            servers: Servers::from([server(&leader(12, "n2"))])
        }
    );
}

#[test]
fn a_standby_an_older_timeline_and_another_system_are_no_target() {
    for finding in [
        Finding::Standby {
            system_id: 7,
            replayed: mrg_base::Lsn(9),
            behind: Millis(0),
        },
        primary(0),
        Finding::Primary {
            system_id: 8,
            timeline: Timeline(3),
            written: mrg_base::Lsn(9),
        },
    ] {
        let mut script = Script::flowing();
        let read = read_in(&script.watched(11, None)).unwrap();
        let effects = script.on(Event::Dcs {
            snapshot: snapshot(12, Some(leader(12, "n2"))),
            read,
        });
        let probe = probe_in(&effects).unwrap();
        assert_eq!(
            admission_in(&script.on(Event::Probed { probe, finding })),
            None,
            "{finding:?}"
        );
        assert_ne!(script.pool.reason(), Reason::Confirmed);
    }
}

#[test]
fn a_probe_from_before_the_pause_confirms_nothing() {
    let mut script = Script::flowing();
    let early = probe_in(&script.on(Event::Disconnected { key: Revision(5) })).unwrap();
    let read = read_in(&script.watched(11, None)).unwrap();
    script.on(Event::Dcs {
        snapshot: snapshot(12, Some(leader(5, "n1"))),
        read,
    });
    assert_eq!(
        admission_in(&script.on(Event::Probed {
            probe: early,
            finding: primary(1)
        })),
        None
    );
}

#[test]
fn without_the_dcs_the_leaders_agent_must_confirm_leadership() {
    let mut script = Script::flowing();
    let probe = probe_in(&script.on(Event::Disconnected { key: Revision(5) })).unwrap();
    let probe = probe_in(&script.on(Event::Probed {
        probe,
        finding: Finding::Unreachable,
    }))
    .unwrap();
    assert!(
        script
            .on(Event::DcsLost)
            .contains(&Effect::ConfirmLeadership(leader(5, "n1")))
    );
    assert_eq!(
        admission_in(&script.on(Event::Probed {
            probe,
            finding: primary(1)
        })),
        None
    );
    script.on(Event::LeadershipAnswered {
        key: Revision(5),
        leads: false,
    });
    assert!(
        script
            .after(200)
            .on(Event::Tick)
            .contains(&Effect::ConfirmLeadership(leader(5, "n1")))
    );
    let effects = script.on(Event::LeadershipAnswered {
        key: Revision(5),
        leads: true,
    });
    assert_eq!(admission_in(&effects).unwrap().0, Admission::Open);
}

#[test]
fn clients_are_rejected_when_no_server_is_confirmed_in_time_and_admitted_once_one_is() {
    let mut script = Script::flowing();
    let read = read_in(&script.watched(11, None)).unwrap();
    assert_eq!(script.pool.wake_at(), Some(script.now + MAX_PAUSE));
    assert_eq!(
        admission_in(&script.after(MAX_PAUSE.0 - 1).on(Event::Tick)),
        None
    );
    assert_eq!(
        admission_in(&script.after(1).on(Event::Tick)).unwrap().0,
        Admission::Rejecting
    );
    assert_eq!(script.pool.reason(), Reason::HeldTooLong);
    let effects = script.on(Event::Dcs {
        snapshot: snapshot(12, Some(leader(12, "n2"))),
        read,
    });
    let probe = probe_in(&effects).unwrap();
    assert_eq!(
        admission_in(&script.on(Event::Probed {
            probe,
            finding: primary(2)
        }))
        .unwrap()
        .0,
        Admission::Open
    );
}

#[test]
fn a_leader_that_takes_the_key_again_is_confirmed_again() {
    let mut script = Script::flowing();
    let effects = script.watched(15, Some(leader(15, "n1")));
    assert_eq!(admission_in(&effects).unwrap().0, Admission::Paused);
    assert_eq!(script.pool.reason(), Reason::LeaderChanged);
}

#[test]
fn a_late_change_of_an_abandoned_watch_is_ignored() {
    let mut script = Script::flowing();
    script.watched(50, Some(leader(5, "n1")));
    assert_eq!(script.watched(40, None), vec![]);
}
