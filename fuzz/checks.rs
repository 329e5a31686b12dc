//! What must hold for any bytes at all that come from outside. `just fuzz TARGET` hunts for bytes
//! for which it does not; `tests/fuzz.rs` tries the seeds and some thousand changes to them.

use std::collections::BTreeMap;

use mrg_agent::{AgentConfig, FailsafeRequest, RestBody, VoteAnswer, Withdrawal};
use mrg_base::{Lsn, MemberName, Millis, Moment, Position, Timeline};
use mrg_dcs::wire::Entry;
use mrg_dcs::{ClusterSnapshot, DynamicConfig, Pause, Poolers, Section, settings};
use mrg_election::sync::Names;
use mrg_election::{
    Action, Effect, Event, LeaseId, Mode, Node, Outcome, Postgres, PreviousIncarnation, Primary,
    PromiseRequest, Replication, Revision, Settings, Standby, StopMode, Vote, WalReceiver, decide,
};
use mrg_pool_core::Finding;
use mrg_pooler::read_answer;
use mrg_postgres::ControlFile;
use mrg_proxy::{Line, parse, replay};

/// A check, and the bytes that it begins with.
pub(crate) type Check = (&'static str, fn(&[u8]));

/// All of them, by the names of their folders in `fuzz/seeds`.
pub(crate) const ALL: [Check; 13] = [
    ("proxy_config", proxy_config),
    ("queue_log", queue_log),
    ("dynamic_config", dynamic_config),
    ("control_file", control_file),
    ("dcs_keys", dcs_keys),
    ("rest_switchover", rest_switchover),
    ("rest_restart", rest_restart),
    ("rest_config", rest_config),
    ("rest_failsafe", rest_failsafe),
    ("rest_withdraw", rest_withdraw),
    ("peer_vote", peer_vote),
    ("server_answer", server_answer),
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

fn position() -> Position {
    Position {
        timeline: Timeline(1),
        flushed: Lsn(100),
    }
}

/// A member of a synchronous cluster with such keys and such a server, with its lease just granted;
/// and what it does next.
fn member(keys: &Entries, postgres: Postgres) -> (Node, Moment, Vec<Effect>) {
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
    let dcs = || Event::Dcs {
        cluster: snapshot(1, keys).cluster(),
        linearizable: true,
    };
    let granted = Event::LeaseGranted {
        id: LEASE,
        granted: Millis::seconds(10),
        sent: now,
    };
    let seen = Event::Postgres { probe: 0, postgres };
    let events = [dcs(), granted, seen, dcs()];
    let effects = events.into_iter().flat_map(|event| node.on(now, event));
    let effects = effects.collect();
    (node, now, effects)
}

/// A leader.
fn leader(keys: &Entries) -> (Node, Moment) {
    let primary = Primary {
        system_id: 42,
        position: position(),
        names: Some(Names::Nobody),
        senders: BTreeMap::new(),
    };
    let (node, now, _) = member(keys, Postgres::Primary(primary));
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

/// A body is understood, or refused with a sentence that is not as long as the body.
fn body(kind: RestBody, bytes: &[u8]) {
    if let Err(why) = kind.check(bytes) {
        assert!(!why.is_empty() && why.len() < 20_000, "{why}");
    }
}

/// The body of `POST /switchover` and `POST /failover`.
pub(crate) fn rest_switchover(bytes: &[u8]) {
    body(RestBody::Switchover, bytes);
}

/// The body of `POST /restart`.
pub(crate) fn rest_restart(bytes: &[u8]) {
    body(RestBody::Restart, bytes);
}

/// The body of `PUT /config`. One that is taken is a dynamic configuration with settings.
pub(crate) fn rest_config(bytes: &[u8]) {
    body(RestBody::Config, bytes);
    if RestBody::Config.check(bytes).is_ok() {
        let config = DynamicConfig::parse(bytes).expect("what was taken is JSON");
        assert!(settings(&config).is_ok());
    }
}

/// The body of `POST /failsafe`. No request silences a member for good.
pub(crate) fn rest_failsafe(bytes: &[u8]) {
    body(RestBody::Failsafe, bytes);
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
    let Ok(leader_name) = MemberName::new(&name) else {
        return;
    };
    let (mut node, now) = leader(&Entries::new());
    node.on(
        now,
        Event::PromiseAsked(PromiseRequest {
            reply: 1,
            leader: leader_name,
            lease,
            ttl: ttl_ms.unwrap_or(Millis::seconds(10)),
            round,
        }),
    );
    let promised = node.view(now).memory.promised;
    assert!(
        promised.is_none_or(|promise| promise.until.since(now) <= Millis::seconds(600)),
        "{promised:?}"
    );
}

/// The body of `POST /mrg/withdraw`.
pub(crate) fn rest_withdraw(bytes: &[u8]) {
    body(RestBody::Withdraw, bytes);
    if let Ok(Withdrawal { lease, round }) = serde_json::from_slice(bytes) {
        let (mut node, now) = leader(&Entries::new());
        node.on(now, Event::PromiseWithdrawn { lease, round });
    }
}

/// A member that may race: a standby that `/sync` names, of a cluster whose leader is gone.
fn racer() -> (Node, Moment, Vec<Effect>) {
    let sync = br#"{"leader":"z","quorum":1,"sync_standby":"a,b,c"}"#;
    let keys = Entries::from([
        ("initialize".to_owned(), entry(b"42", LeaseId(0))),
        ("sync".to_owned(), entry(sync, LeaseId(0))),
    ]);
    let standby = Standby {
        system_id: 42,
        position: Some(position()),
        upstream: None,
        receiver: WalReceiver::Stopped,
        fork: None,
    };
    member(&keys, Postgres::Standby(standby))
}

/// The answer to `POST /mrg/vote`, for a member that races. Whatever one voter says, the process
/// goes on, and nothing is acknowledged that was not.
pub(crate) fn peer_vote(bytes: &[u8]) {
    let Ok(VoteAnswer { position, priority }) = serde_json::from_slice(bytes) else {
        return;
    };
    let vote = Vote {
        member: MemberName::new("b").expect("a legal name"),
        position,
        candidate: priority,
    };
    let (mut node, now, mut effects) = racer();
    let mut asked = false;
    for _ in 0..20 {
        let step = effects.iter().rev().find_map(|effect| match effect {
            Effect::Perform(step, action) => Some((*step, action.clone())),
            _ => None,
        });
        let Some((step, action)) = step else { break };
        asked |= matches!(action, Action::AskPeers(_));
        let outcome = match action {
            Action::AskPeers(_) => Outcome::Votes(vec![vote.clone()]),
            Action::StopReceiver => Outcome::At(self::position()),
            _ => Outcome::Done,
        };
        effects = node.on(now, Event::Finished { step, outcome });
    }
    assert!(asked, "the member does not race: {:?}", node.reason());
}

/// Lines as columns of what a server answers a pooler's question. A server that is said to be a
/// primary says on which timeline.
pub(crate) fn server_answer(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let columns: Vec<String> = text.split('\n').map(str::to_owned).collect();
    if let Some(Finding::Primary { timeline, .. }) = read_answer(&columns) {
        let column = columns.get(2).map(String::as_str).unwrap_or_default();
        assert_eq!(u32::from_str_radix(column, 16), Ok(timeline.0));
    }
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
