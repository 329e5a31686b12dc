//! Clients of the REST API that ask for more than is good.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::clients::{Flood, memory_kib};
use crate::harness::{Cluster, pid, wait_until};

const RECEIVED: &str = "GET /mrg/received?lsn=18446744073709551614&within_ms=10000";

const FLOOD: Flood = Flood {
    // The first of them wait for WAL that never comes, the others make pages.
    asked: &[RECEIVED, RECEIVED, RECEIVED, "GET /cluster", "GET /metrics"],
    requests: 100_000,
    lasts: Duration::from_secs(10),
};

/// Each of these has the loop ask for a read of etcd.
const VOTES: Flood = Flood {
    asked: &["POST /mrg/vote"],
    requests: 100_000,
    lasts: Duration::from_secs(12),
};

/// What an agent may need more while it lasts.
const MEMORY_KIB: u64 = 64 << 10;

#[test]
fn a_flood_of_requests_costs_the_leader_neither_its_lease_nor_its_writes_nor_its_probes() {
    let cluster = Cluster::start_alone("quorum");
    let leader = cluster.wait_leader();
    let standby = (1..=3).find(|member| *member != leader).unwrap();
    let key = || cluster.etcdctl(&["get", "/service/test/leader", "-w", "json"])["kvs"][0].clone();
    let before = key();
    let flooded = [leader, standby].map(|member| (member, cluster.agent_pid(member)));
    let memory = flooded.map(|(_, pid)| memory_kib(pid));
    let summary = cluster.under_load(16, |cluster| {
        let floods = [leader, standby].map(|member| {
            let to = SocketAddr::from(([127, 0, 0, 1], cluster.rest_port(member)));
            std::thread::spawn(move || FLOOD.pour(to))
        });
        let end = Instant::now() + FLOOD.lasts;
        while Instant::now() < end {
            for path in ["/primary", "/liveness"] {
                wait_until("a probe is answered", || {
                    cluster
                        .get(leader, path)
                        .is_some_and(|report| report["role"] == "primary")
                });
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let sent = floods.map(|flood| flood.join().unwrap());
        println!("requests that were sent: {sent:?}");
    });
    let after = key();
    for field in ["create_revision", "lease", "value"] {
        assert_eq!(after[field], before[field], "the leadership is the same");
    }
    let gap = summary.longest_gap_ms;
    assert!(gap < 3_000, "writes stopped for {gap} ms");
    for ((member, pid), before) in flooded.into_iter().zip(memory) {
        let after = memory_kib(pid);
        println!("n{member}: at most {before} KiB before the flood, {after} KiB after it");
        assert!(after < before + MEMORY_KIB, "n{member} grew to {after} KiB");
        let log = std::fs::read_to_string(cluster.path(&format!("n{member}.log"))).unwrap();
        assert!(
            !log.contains("too many clients"),
            "n{member} filled its server"
        );
        assert!(log.contains("too many connections"), "n{member} says why");
    }
    cluster.wait_healthy();
}

#[test]
fn votes_that_are_asked_for_while_etcd_hangs_do_not_hold_up_a_leader_that_lives_by_promises() {
    let cluster = Cluster::start_alone("quorum");
    let leader = cluster.wait_leader();
    // From here on the others know what they promised.
    std::thread::sleep(Duration::from_secs(6));
    let etcd = pid(cluster.etcd.as_ref().unwrap().id());
    let summary = cluster.under_load(18, |cluster| {
        Cluster::signal(etcd, "STOP");
        std::thread::sleep(Duration::from_secs(1));
        let to = SocketAddr::from(([127, 0, 0, 1], cluster.rest_port(leader)));
        println!("{} requests were sent", VOTES.pour(to));
        let leads = cluster.leader() == Some(leader);
        Cluster::signal(etcd, "CONT");
        assert!(leads, "the leader was fenced");
    });
    let gap = summary.longest_gap_ms;
    assert!(gap < 3_000, "writes stopped for {gap} ms");
    cluster.wait_healthy();
    assert_eq!(cluster.wait_leader(), leader);
}
