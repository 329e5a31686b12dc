//! The store in memory does what etcd does: the same operations on both, by the thousand.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

use std::fmt::Debug;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd_client::{Client, LeaseGrantOptions};

use mrg_base::{MemberName, Millis, Scope};
use mrg_dcs::memory::MemoryStore;
use mrg_dcs::poolers::PoolerRecord;
use mrg_dcs::wire::{FailoverData, HistoryLine, MemberData, StatusData};
use mrg_dcs::{
    Attempt, ClusterSnapshot, DynamicConfig, Key, Keys, NAMESPACE, Pause, Poolers, Section, Store,
    Transaction,
};
use mrg_dcs_etcd::{Connection, Etcd};
use mrg_election::{LeaseId, Revision, Stored};

const WITHIN: Duration = Duration::from_secs(10);
/// Longer than the test, so that no lease ends by itself.
const TTL: Millis = Millis::seconds(3600);
const STEPS: usize = 3000;

struct Server {
    process: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn start() -> Server {
    let home = std::env::var("HOME").unwrap_or_default();
    let cache = std::env::var_os("MRG_CACHE").map_or_else(
        || Path::new(&home).join(".cache/mrg-operator"),
        PathBuf::from,
    );
    let program = cache.join("lab/bin/etcd");
    let directory = tempfile::tempdir().unwrap();
    let (client, peer) = (free_url(), free_url());
    let process = Command::new(&program)
        .args(["--data-dir".as_ref(), directory.path().as_os_str()])
        .args(["--listen-client-urls", &client])
        .args(["--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer])
        .args(["--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .arg("--unsafe-no-fsync")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let process = process.unwrap_or_else(|error| {
        let program = program.display();
        panic!("{program} does not start ({error}); run `e2e/lab/dependencies etcd`")
    });
    Server {
        process,
        url: client,
        _directory: directory,
    }
}

/// Both stores, with the same leases and at the same revision.
struct Pair {
    etcd: Etcd,
    raw: Client,
    memory: MemoryStore,
    random: u64,
}

impl Pair {
    async fn new(server: &Server) -> Self {
        let deadline = Instant::now() + Duration::from_secs(30);
        let raw = loop {
            if let Ok(mut client) = Client::connect([&server.url], None).await
                && client.status().await.is_ok()
            {
                break client;
            }
            assert!(Instant::now() < deadline, "etcd does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let connection = Connection {
            endpoints: vec![server.url.clone()],
            user: None,
        };
        let keys = Keys::new(NAMESPACE, &Scope::new("s").unwrap());
        let mut pair = Self {
            etcd: Etcd::new(connection, keys, 0),
            raw,
            memory: MemoryStore::default(),
            random: 0x9E37_79B9_7F4A_7C15,
        };
        pair.level().await;
        pair
    }

    /// etcd's first revision is 1: the store in memory needs one write more to get as far.
    async fn level(&mut self) {
        let lease = self.grant().await;
        let acquire = || Transaction::acquire_leader(lease, &names()[0]);
        let (ask, release) = (
            Transaction::ask_poolers(lease, Revision(1)),
            Transaction::release_leader(lease, None),
        );
        for transaction in [acquire(), release.clone()] {
            let done = self.etcd.execute(transaction, WITHIN).await;
            assert!(done.is_done(), "{done:?}");
        }
        for transaction in [acquire(), ask, release] {
            let done = self.memory.execute(transaction, WITHIN).await;
            assert!(done.is_done(), "{done:?}");
        }
        self.same_state("levelling").await;
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % limit
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        let index = self.below(of.len() as u64);
        of[usize::try_from(index).unwrap()].clone()
    }

    /// The revision that wrote a key, or one that did not, or none.
    fn over(&mut self, key: &Key) -> Option<Revision> {
        let right = self.memory.memory().get(key).map(|key| key.modified);
        match self.below(4) {
            0 => None,
            1 => Some(Revision(1)),
            _ => right,
        }
    }

    async fn grant(&mut self) -> LeaseId {
        let id = self.memory.memory().grant(TTL);
        let options = LeaseGrantOptions::new().with_id(id.0);
        self.raw.lease_grant(3600, Some(options)).await.unwrap();
        id
    }

    fn leader_operation(&mut self, lease: LeaseId, other: LeaseId) -> Transaction {
        let member = self.one(&names());
        let line = HistoryLine {
            timeline: u32::try_from(self.below(9)).unwrap(),
            ended_at: 256,
            reason: "no recovery target specified".to_owned(),
            time: "2026-01-01T00:00:00Z".to_owned(),
            leader: member.to_string(),
        };
        match self.below(10) {
            0 => Transaction::acquire_leader(lease, &member),
            1 => Transaction::move_leader(lease, other, &member),
            2 => {
                let status = (self.below(2) > 0).then(StatusData::default);
                Transaction::release_leader(lease, status)
            }
            3 => {
                let over = self.over(&Key::Sync);
                let stored = Stored {
                    voters: names().into_iter().collect(),
                    ..Stored::only(member)
                };
                Transaction::write_sync(lease, over, stored)
            }
            4 => Transaction::write_history(lease, self.over(&Key::History), vec![line]),
            5 => {
                let members = [(member, "http://a:8008/patroni".to_owned())].into();
                let members = (self.below(3) > 0).then_some(members);
                Transaction::write_failsafe(lease, self.over(&Key::Failsafe), members)
            }
            6 => Transaction::ask_poolers(lease, Revision(7)),
            7 => Transaction::resume_poolers(lease),
            8 => Transaction::store_system_id(lease, self.below(9), StatusData::default()),
            _ => Transaction::acquire_leader(other, &member),
        }
    }

    fn operation(&mut self, leases: &[LeaseId]) -> Transaction {
        let (lease, other) = (self.one(leases), self.one(leases));
        let member = self.one(&names());
        let request = FailoverData {
            member: Some(member.to_string()),
            ..FailoverData::default()
        };
        let config = DynamicConfig(
            [("ttl".to_owned(), self.below(99).into())]
                .into_iter()
                .collect(),
        );
        match self.below(18) {
            0 => Transaction::claim_initialize(lease),
            1 => Transaction::abandon_initialize(lease),
            2 => Transaction::create_config(config),
            3 => Transaction::write_config(self.over(&Key::Config), config),
            4 => Transaction::request_failover(request),
            5 => Transaction::withdraw_failover(),
            6 => {
                let expected = self.over(&Key::Failover).unwrap_or_default();
                Transaction::take_failover(expected)
            }
            7 => {
                let optime = self.below(1 << 40);
                Transaction::put_status(StatusData {
                    optime,
                    ..StatusData::default()
                })
            }
            8 => {
                let record = PoolerRecord {
                    clients: self.below(99),
                    ..PoolerRecord::default()
                };
                Transaction::publish_pooler("w-1", record, lease)
            }
            9 => {
                let former = (self.below(2) > 0).then_some(other);
                let data = MemberData {
                    state: "running".into(),
                    xlog_location: Some(self.below(1 << 40)),
                    ..MemberData::default()
                };
                Transaction::publish_member(&member, data, lease, former)
            }
            _ => self.leader_operation(lease, other),
        }
    }

    async fn same_state(&self, after: &str) {
        self.same_section::<ClusterSnapshot>(after).await;
        self.same_section::<Poolers>(after).await;
        self.same_section::<Pause>(after).await;
    }

    async fn same_section<S: Section + Debug + PartialEq>(&self, after: &str) {
        let in_etcd: S = self.etcd.read(WITHIN).await.unwrap();
        let in_memory: S = self.memory.read(WITHIN).await.unwrap();
        assert_eq!(in_etcd, in_memory, "after {after}");
    }
}

fn names() -> [MemberName; 2] {
    ["a", "b"].map(|name| MemberName::new(name).unwrap())
}

fn outcome(attempt: Attempt<Revision>) -> Result<Option<Revision>, ()> {
    match attempt {
        Attempt::Done(revision) => Ok(Some(revision)),
        Attempt::Conflict => Ok(None),
        Attempt::Failed(_) => Err(()),
        Attempt::InDoubt(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn the_same_operations_have_the_same_outcomes() {
    let server = start();
    let mut pair = Box::pin(Pair::new(&server)).await;
    let mut leases = vec![pair.grant().await, pair.grant().await];
    let (mut done, mut conflicts, mut failed) = (0, 0, 0);
    for step in 0..STEPS {
        let transaction = pair.operation(&leases);
        let what = format!("step {step}: {transaction:?}");
        let in_etcd = outcome(pair.etcd.execute(transaction.clone(), WITHIN).await);
        let in_memory = outcome(pair.memory.execute(transaction, WITHIN).await);
        assert_eq!(in_etcd, in_memory, "{what}");
        match in_etcd {
            Ok(Some(_)) => done += 1,
            Ok(None) => conflicts += 1,
            Err(()) => failed += 1,
        }
        if pair.below(12) == 0 {
            let gone = pair.one(&leases);
            pair.etcd.revoke(gone, WITHIN).await.unwrap();
            pair.memory.revoke(gone, WITHIN).await.unwrap();
            assert!(pair.etcd.keep_alive(gone, WITHIN).await.is_err(), "{what}");
            assert!(
                pair.memory.keep_alive(gone, WITHIN).await.is_err(),
                "{what}"
            );
            let fresh = pair.grant().await;
            // Most of the time one that has ended is still tried.
            if pair.below(9) == 0 {
                leases.retain(|lease| *lease != gone);
            }
            leases.push(fresh);
            if leases.len() > 4 {
                leases.remove(0);
            }
        }
        if step % 10 == 0 {
            pair.same_state(&what).await;
        }
    }
    let all = (done, conflicts, failed);
    assert!(done > 500 && conflicts > 500 && failed > 50, "{all:?}");
}
