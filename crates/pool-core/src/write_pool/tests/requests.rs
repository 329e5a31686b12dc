//! A leader's request to pause: how it is acknowledged, and how it ends.

use super::*;

#[test]
fn a_request_to_pause_takes_effect_at_once_and_is_acknowledged_when_drained_or_when_that_takes_long()
 {
    let mut script = Script::flowing();
    let pause = PauseRequest {
        id: Revision(20),
        leader: Revision(5),
    };
    let effects = script.on(Event::Pause(Some(pause)));
    // The address stays: transactions end on the server where they began.
    assert_eq!(
        admission_in(&effects),
        Some((Admission::Paused, "10.0.0.1:5432".to_owned()))
    );
    assert_eq!(probe_in(&effects), None);
    assert_eq!(script.pool.wake_at(), Some(script.now + ACKNOWLEDGE_AFTER));
    assert_eq!(
        script.after(100).on(Event::Tick),
        vec![Effect::Acknowledge {
            pause: Revision(20),
            drained: false
        }]
    );
    let number = script.pool.target.number;
    let effects = script.on(Event::Drained { number });
    assert_eq!(
        effects,
        vec![Effect::Acknowledge {
            pause: Revision(20),
            drained: true
        }]
    );
    assert_eq!(script.on(Event::Drained { number }), vec![]);
}

#[test]
fn a_request_ends_with_the_leadership_that_it_is_about() {
    let mut script = Script::flowing();
    let read = read_in(&script.on(Event::Pause(Some(PauseRequest {
        id: Revision(20),
        leader: Revision(5),
    }))))
    .unwrap();
    let effects = script.on(Event::Dcs {
        snapshot: snapshot(30, Some(leader(30, "n2"))),
        read,
    });
    let probe = probe_in(&effects).unwrap();
    let effects = script.on(Event::Probed {
        probe,
        finding: primary(2),
    });
    assert_eq!(
        admission_in(&effects),
        Some((Admission::Open, "10.0.0.2:5432".to_owned()))
    );
    assert_eq!(script.pool.reason(), Reason::Confirmed);
}

#[test]
fn a_request_that_is_taken_back_lets_clients_go_on_where_they_were() {
    let mut script = Script::flowing();
    let read = read_in(&script.on(Event::Pause(Some(PauseRequest {
        id: Revision(20),
        leader: Revision(5),
    }))))
    .unwrap();
    script.on(Event::Dcs {
        snapshot: snapshot(20, Some(leader(5, "n1"))),
        read,
    });
    let probe = probe_in(&script.on(Event::Pause(None))).unwrap();
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
fn a_request_that_is_never_taken_back_pauses_for_the_longest_pause_and_no_longer() {
    let mut script = Script::flowing();
    let pause = PauseRequest {
        id: Revision(20),
        leader: Revision(5),
    };
    let read = read_in(&script.on(Event::Pause(Some(pause)))).unwrap();
    script.on(Event::Dcs {
        snapshot: snapshot(20, Some(leader(5, "n1"))),
        read,
    });
    assert_eq!(probe_in(&script.after(29_999).on(Event::Tick)), None);
    let effects = script.after(1).on(Event::Tick);
    assert_eq!(admission_in(&effects).unwrap().0, Admission::Rejecting);
    let probe = probe_in(&effects).unwrap();
    assert_eq!(
        admission_in(&script.on(Event::Probed {
            probe,
            finding: primary(1)
        }))
        .unwrap()
        .0,
        Admission::Open,
        "it serves all the same"
    );
    script.on(Event::Pause(Some(pause)));
    assert_eq!(
        script.pool.reason(),
        Reason::Confirmed,
        "that request is over"
    );
    script.on(Event::Pause(Some(PauseRequest {
        id: Revision(40),
        ..pause
    })));
    assert_eq!(script.pool.reason(), Reason::PauseAsked);
}
