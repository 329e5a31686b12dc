//! What must hold for any bytes at all that come from outside. `just fuzz TARGET` hunts for bytes
//! for which it does not; `tests/fuzz.rs` tries the seeds and some thousand changes to them.

use std::collections::BTreeMap;

use mrg_agent::{AgentConfig, FailsafeRequest, SwitchoverBody, VoteAnswer, Withdrawal};
use mrg_base::{Lsn, MemberName, Millis, Moment, Position, Timeline};
use mrg_dcs::wire::Entry;
use mrg_dcs::{ClusterSnapshot, DynamicConfig, Pause, Poolers, Section, settings};
use mrg_election::sync::Names;
use mrg_election::{
    Action, Effect, Event, LeaseId, Mode, Node, Postgres, PreviousIncarnation, Primary,
    PromiseRequest, Replication, Revision, Settings, StopMode, decide,
};
use mrg_postgres::ControlFile;
use mrg_proxy::{Line, parse, replay};

/// A check, and the bytes that it begins with.
pub(crate) type Check = (&'static str, fn(&[u8]));

/// All of them, by the names of their folders in `fuzz/seeds`.
pub(crate) const ALL: [Check; 7] = [
    ("proxy_config", proxy_config),
    ("queue_log", queue_log),
    ("dynamic_config", dynamic_config),
    ("control_file", control_file),
    ("dcs_keys", dcs_keys),
    ("rest_body", rest_body),
    ("patroni_yml", patroni_yml),
];

/// A configuration that the proxy takes is written down so that it takes it again, unchanged.
pub(crate) fn proxy_config(bytes: &[u8]) {
    let Ok(taken) = parse(bytes) else { return };
    let text = serde_json::to_vec(&*taken).expect("a configuration has words");
    let again = parse(&text).expect("what was taken is taken again");
    assert_eq!(*again, *taken);
    for dependency in &taken.dependencies {
        let _ = dependency.breaker.settings();
        // Deadlines are added to clocks.
        assert!(
            dependency.timeout.total.0.duration() <= std::time::Duration::from_secs(24 * 3600),
            "{:?}",
            dependency.timeout
        );
    }
}

/// Reading a log again after its unreadable end was cut off, or after it was written anew, gives
/// the same requests.
pub(crate) fn queue_log(bytes: &[u8]) {
    let read = replay(bytes);
    assert!(read.whole <= bytes.len());
    assert_eq!(replay(&bytes[..read.whole]), read);
    let mut anew = Vec::new();
    for item in read.items.values() {
        let _ = item.is_older_than(
            std::time::Duration::from_secs(1),
            jiff::Timestamp::UNIX_EPOCH,
        );
        serde_json::to_writer(&mut anew, &Line::Put(Box::new(item.clone())))
            .expect("a request has words");
        anew.push(b'\n');
    }
    assert_eq!(replay(&anew).items, read.items);
}

/// Whatever stands in the `config` key, the settings are some, or the reason is told.
pub(crate) fn dynamic_config(bytes: &[u8]) {
    if let Ok(config) = DynamicConfig::parse(bytes) {
        let _ = (
            settings(&config).map_err(|error| error.to_string()),
            config.parameters(),
            config.executable_settings(),
            config.pg_hba(),
        );
        let mut twice = config.clone();
        twice.patch(&config.0);
        let mut again = twice.clone();
        again.patch(&config.0);
        assert_eq!(
            twice, again,
            "a patch that was applied changes nothing more"
        );
    }
}

/// A control file that cannot be understood is told so.
pub(crate) fn control_file(bytes: &[u8]) {
    let _ = ControlFile::parse(bytes).map_err(|error| error.to_string());
}

const LEASE: LeaseId = LeaseId(7);

/// A leader of a synchronous cluster, with its lease just kept.
fn leader(keys: &Entries) -> (Node, Moment) {
    let (me, now) = (
        MemberName::new("a").expect("a legal name"),
        Moment(1_000_000),
    );
    let replication = Replication {
        mode: Mode::Quorum,
        count: 1,
        strict: false,
    };
    let mut node = Node::new(
        me,
        Settings {
            replication,
            ..Settings::default()
        },
        Some(1),
        PreviousIncarnation::Known(None),
        now,
    );
    node.on(
        now,
        Event::Dcs {
            cluster: snapshot(1, keys).cluster(),
            linearizable: true,
        },
    );
    node.on(
        now,
        Event::LeaseGranted {
            id: LEASE,
            granted: Millis::seconds(10),
            sent: now,
        },
    );
    let position = Position {
        timeline: Timeline(1),
        flushed: Lsn(100),
    };
    let primary = Primary {
        system_id: 42,
        position,
        names: Some(Names::Nobody),
        senders: BTreeMap::new(),
    };
    node.on(
        now,
        Event::Postgres {
            probe: 0,
            postgres: Postgres::Primary(primary),
        },
    );
    node.on(
        now,
        Event::Dcs {
            cluster: snapshot(1, keys).cluster(),
            linearizable: true,
        },
    );
    (node, now)
}

type Entries = BTreeMap<String, Entry>;

fn snapshot(revision: i64, entries: &Entries) -> ClusterSnapshot {
    ClusterSnapshot::parse(Revision(revision), entries)
}

fn entry(value: &[u8], lease: LeaseId) -> Entry {
    Entry {
        value: value.to_vec(),
        lease: lease.0,
        created: 5,
        modified: 6,
    }
}

/// Lines of `key value`. Whatever stands in them, a leader that has its key goes on serving,
/// poolers find out what there is, and a decision is made.
pub(crate) fn dcs_keys(bytes: &[u8]) {
    let line = |line: &[u8]| {
        let space = line.iter().position(|byte| *byte == b' ')?;
        Some((
            String::from_utf8_lossy(&line[..space]).into_owned(),
            entry(&line[space + 1..], LeaseId(9)),
        ))
    };
    let mut keys: Entries = bytes
        .split(|byte| *byte == b'\n')
        .filter_map(line)
        .collect();
    keys.insert("leader".to_owned(), entry(b"a", LEASE));
    let known = [
        ("leader".to_owned(), entry(b"a", LEASE)),
        ("initialize".to_owned(), entry(b"42", LeaseId(0))),
    ];
    let (mut node, now) = leader(&Entries::from(known));
    let effects = node.on(
        now,
        Event::Dcs {
            cluster: snapshot(9, &keys).cluster(),
            linearizable: true,
        },
    );
    let killed = effects
        .iter()
        .any(|effect| matches!(effect, Effect::Perform(_, Action::Stop(StopMode::Kill))));
    assert!(!killed, "the leader was stopped: {effects:?}");
    let _ = decide(&node.view(now));
    // A member that sees the same without a leader.
    keys.remove("leader");
    let (mut node, now) = leader(&Entries::new());
    node.on(
        now,
        Event::Dcs {
            cluster: snapshot(9, &keys).cluster(),
            linearizable: true,
        },
    );
    let _ = (decide(&node.view(now)), snapshot(9, &keys).seen());
    let (mut pause, mut poolers) = (Pause::default(), Poolers::default());
    for (key, entry) in &keys {
        pause.put("", entry);
        poolers.put(key, entry);
    }
}

/// Whatever a peer or a person sends, it is understood or refused, and nobody is silenced for good
/// by it.
pub(crate) fn rest_body(bytes: &[u8]) {
    let _ = serde_json::from_slice::<SwitchoverBody>(bytes).map_err(|error| error.to_string());
    let _ = serde_json::from_slice::<VoteAnswer>(bytes).map_err(|error| error.to_string());
    let (mut node, now) = leader(&Entries::new());
    if let Ok(Withdrawal { lease, round }) = serde_json::from_slice(bytes) {
        node.on(now, Event::PromiseWithdrawn { lease, round });
    }
    let Ok(FailsafeRequest {
        name,
        ttl_ms,
        lease,
        round,
        ..
    }) = serde_json::from_slice(bytes)
    else {
        return;
    };
    let Ok(leader) = MemberName::new(&name) else {
        return;
    };
    let ttl = ttl_ms.unwrap_or(Millis::seconds(10));
    node.on(
        now,
        Event::PromiseAsked(PromiseRequest {
            reply: 1,
            leader,
            lease,
            ttl,
            round,
        }),
    );
    let promised = node.view(now).memory.promised;
    assert!(
        promised.is_none_or(|promise| promise.until.since(now) <= Millis::seconds(600)),
        "{promised:?}"
    );
}

/// A `patroni.yml` is understood, or the reason is told.
pub(crate) fn patroni_yml(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match AgentConfig::parse(&text, std::path::Path::new("patroni.yml"), &BTreeMap::new()) {
        Ok(config) => {
            let _ = (
                config.priority(),
                config.promise_file(),
                settings(&config.bootstrap).map_err(|error| error.to_string()),
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
