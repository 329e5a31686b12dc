//! Keys that somebody deleted by hand, or wrote nonsense into: the leader goes on, and what can be
//! known is written again.

use std::process::Command;

use crate::harness::{Cluster, wait_until};

impl Cluster {
    pub(crate) fn value(&self, key: &str) -> String {
        self.etcdctl_text(&["get", &format!("/service/test/{key}"), "--print-value-only"])
            .trim()
            .to_owned()
    }

    fn delete(&self, key: &str) {
        assert_eq!(
            self.etcdctl_text(&["del", &format!("/service/test/{key}")])
                .trim(),
            "1",
            "{key}"
        );
    }

    pub(crate) fn put(&self, key: &str, value: &str) {
        self.etcdctl_text(&["put", &format!("/service/test/{key}"), "--", value]);
    }

    /// Where a member's WAL ends, on which timeline.
    fn position(&self, member: usize) -> (u64, u64) {
        let said = self.get(member, "/patroni").unwrap();
        let xlog = &said["xlog"];
        let at = xlog["received_location"]
            .as_u64()
            .max(xlog["replayed_location"].as_u64())
            .or(xlog["location"].as_u64());
        (said["timeline"].as_u64().unwrap_or(0), at.unwrap())
    }
}

#[test]
fn keys_that_were_deleted_are_written_again_and_the_leader_goes_on() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let url = format!("http://127.0.0.1:{}/config", cluster.rest_port(leader));
    Command::new("curl")
        .args([
            "-sf",
            "-XPATCH",
            "-d",
            r#"{"maximum_lag_on_failover": 7777}"#,
            &url,
        ])
        .status()
        .unwrap();
    let (config, system) = (cluster.value("config"), cluster.value("initialize"));
    assert!(config.contains("7777"), "{config}");
    let names = |cluster: &Cluster| cluster.value("sync").matches('n').count();
    let summary = cluster.under_load(15, |cluster| {
        cluster.delete("config");
        wait_until("the configuration as it was", || {
            cluster.value("config") == config
        });
        cluster.delete("initialize");
        wait_until("the system identifier", || {
            cluster.value("initialize") == system
        });
        cluster.delete("sync");
        wait_until("a /sync with both standbys", || {
            names(cluster) >= 3 && cluster.is_healthy()
        });
        cluster.delete("failsafe");
        wait_until("the failsafe key", || {
            cluster.value("failsafe").matches("http").count() == 3
        });
    });
    assert_eq!(cluster.wait_leader(), leader);
    assert!(
        summary.longest_gap_ms < 1_500,
        "a client waited {} ms",
        summary.longest_gap_ms
    );
}

#[test]
fn nonsense_in_any_key_leaves_the_leader_where_it_is() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let summary = cluster.under_load(20, |cluster| {
        for key in [
            "sync",
            "status",
            "history",
            "failsafe",
            "failover",
            "config",
            "initialize",
        ] {
            for nonsense in [
                "\u{1}\u{1f}",
                "{",
                "[[]]",
                "-9223372036854775809",
                r#"{"leader":7,"ttl":"x","optime":[]}"#,
            ] {
                cluster.put(key, nonsense);
                std::thread::sleep(std::time::Duration::from_millis(250));
                assert_eq!(cluster.leader(), Some(leader), "{key} is {nonsense}");
            }
            if key == "config" {
                let status = cluster.get(leader, "/patroni").unwrap();
                assert!(
                    status["config_error"].is_string(),
                    "nobody says what is wrong with it: {status}"
                );
                cluster.delete(key);
            }
        }
    });
    assert!(
        summary.longest_gap_ms < 1_500,
        "a client waited {} ms",
        summary.longest_gap_ms
    );
    cluster.wait_healthy();
    assert_eq!(cluster.wait_leader(), leader);
}

#[test]
fn without_any_key_nobody_guesses_who_has_every_commit_and_the_documented_way_out_loses_none() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    cluster.under_load(30, |cluster| {
        cluster.delete("leader");
        wait_until("a leader again", || cluster.leader().is_some());
        cluster.wait_healthy();
        cluster.etcdctl_text(&["del", "--prefix", "/service/test/"]);
        wait_until("all say what is missing", || {
            (1..=3).all(|member| cluster.reason(member) == "SyncStateMissing")
        });
        let says_so = |member| {
            cluster
                .value(&format!("members/n{member}"))
                .contains("/sync is missing")
        };
        wait_until(
            "all say it in their keys, for those who read the status",
            || (1..=3).all(says_so),
        );
        let furthest = (1..=3)
            .max_by_key(|member| cluster.position(*member))
            .unwrap();
        cluster.put(
            "sync",
            &format!(r#"{{"leader":"n{furthest}","quorum":0,"sync_standby":null}}"#),
        );
        wait_until("the chosen one leads", || {
            cluster.leader() == Some(furthest)
        });
    });
    cluster.wait_healthy();
    assert!(
        cluster.value("config").contains("synchronous_mode"),
        "{leader}"
    );
    assert!(cluster.value("initialize").parse::<u64>().is_ok());
}
