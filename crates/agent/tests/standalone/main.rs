//! Real etcd, real PostgreSQL, real agents on loopback, and bad days. Each test makes a cluster of
//! three members of its own, keeps writing to it, does something terrible, and asks for three
//! things: nothing acknowledged is lost, one member leads, all members stream again without a
//! human.
//!
//! Needs root (PostgreSQL runs as the user `postgres`), PostgreSQL 15 from Debian and the etcd of
//! the lab's cache; `./dev test` brings both.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

#[path = "../../../bounds/tests/flood/mod.rs"]
mod clients;
mod company;
mod copies;
mod damage;
mod edges;
mod etcd_goes_back;
mod etcd_refuses;
mod executable;
mod flood;
mod harness;
mod heals;
mod keys;
mod long_runs;
mod members;
mod places;
mod pools;
mod seat;
mod secrets;
mod settings;
mod sick;

use std::process::Command;
use std::time::Duration;

use harness::{Cluster, cache, is_alive, pid, wait_until};

#[test]
fn a_killed_postmaster_costs_the_client_less_than_a_few_seconds_and_no_row() {
    let cluster = Cluster::start("quorum");
    for _ in 0..2 {
        let old = cluster.wait_leader();
        let summary = cluster.under_load(8, |cluster| {
            Cluster::signal(cluster.postmaster(old), "KILL");
        });
        assert!(summary.longest_gap_ms < 4_000, "the lease was waited for");
        cluster.wait_healthy();
    }
}

#[test]
fn a_killed_backend_is_a_crash_and_loses_no_row() {
    let cluster = Cluster::start("quorum");
    let old = cluster.wait_leader();
    cluster.under_load(8, |cluster| {
        let postmaster = cluster.postmaster(old);
        let output = Command::new("pgrep")
            .args([
                "-P",
                &postmaster.to_string(),
                "-f",
                "writer|postgres: .* postgres ",
            ])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let backend: i32 = text.lines().next().expect("a backend").parse().unwrap();
        Cluster::signal(backend, "KILL");
        wait_until("the whole server ends with its backend", || {
            !is_alive(postmaster)
        });
    });
    cluster.wait_healthy();
}

#[test]
fn a_switchover_on_request_moves_the_lead_to_the_named_member() {
    let cluster = Cluster::start("on");
    let old = cluster.wait_leader();
    let report = cluster.get(old, "/cluster").unwrap();
    let candidate = report["members"]
        .as_array()
        .unwrap()
        .iter()
        .find(|member| member["role"] == "sync_standby")
        .unwrap()["name"]
        .clone();
    let candidate = candidate.as_str().unwrap().to_owned();
    let summary = cluster.under_load(8, |cluster| {
        let body = format!("{{\"leader\":\"n{old}\",\"candidate\":\"{candidate}\"}}");
        assert_eq!(
            cluster.post(old, "/switchover", &body),
            format!("Successfully switched over to \"{candidate}\"")
        );
    });
    assert!(summary.longest_gap_ms < 4_000);
    assert_eq!(format!("n{}", cluster.wait_leader()), candidate);
    cluster.wait_healthy();
    let refused = cluster.post(old, "/switchover", &format!("{{\"leader\":\"n{old}\"}}"));
    assert_eq!(refused, "leader name does not match");
}

#[test]
fn a_killed_agent_leaves_no_writer_behind() {
    let mut cluster = Cluster::start("quorum");
    let old = cluster.wait_leader();
    let postmaster = cluster.postmaster(old);
    cluster.under_load(14, |cluster| {
        Cluster::signal(pid(cluster.agent_pid(old)), "KILL");
        wait_until("the fence kills postgres", || !is_alive(postmaster));
        wait_until("another leader", || {
            cluster.leader().is_some_and(|leader| leader != old)
        });
    });
    let _ = cluster.agents[old - 1].take().map(|mut child| child.wait());
    cluster.bring_back(old);
}

#[test]
fn an_agent_that_is_stopped_past_its_lease_is_fenced_before_another_leads() {
    let cluster = Cluster::start("quorum");
    let old = cluster.wait_leader();
    let postmaster = cluster.postmaster(old);
    cluster.under_load(14, |cluster| {
        Cluster::signal(pid(cluster.agent_pid(old)), "STOP");
        wait_until("another leader", || {
            let other = (1..=3).filter(|member| *member != old).find(|member| {
                cluster
                    .get(*member, "/patroni")
                    .is_some_and(|report| report["role"] == "primary")
            });
            assert!(other.is_none() || !is_alive(postmaster), "two writers");
            other.is_some()
        });
        Cluster::signal(pid(cluster.agent_pid(old)), "CONT");
    });
    cluster.wait_healthy();
}

#[test]
fn without_etcd_the_leader_goes_on_by_its_members_promises() {
    let mut cluster = Cluster::start("quorum");
    let old = cluster.wait_leader();
    let mut etcd = cluster.etcd.take().unwrap();
    let summary = cluster.under_load(16, move |cluster| {
        etcd.kill().unwrap();
        etcd.wait().unwrap();
        for _ in 0..24 {
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(cluster.leader(), Some(old), "/primary says who leads");
        }
        let said = cluster.get(old, "/patroni").unwrap();
        assert_eq!(said["failsafe_mode_is_active"], true, "{said}");
    });
    assert!(summary.longest_gap_ms < 3_000, "the leader was demoted");
    cluster.start_etcd();
    cluster.wait_healthy();
    assert_eq!(cluster.wait_leader(), old);
    cluster.under_load(4, |_| {});
}

#[test]
fn stock_patronictl_shows_configures_and_switches_a_running_cluster() {
    let cluster = Cluster::start("quorum");
    let patronictl = |arguments: &[&str]| {
        let program = cache().join("patroni-4.1.5/bin/patronictl");
        let output = Command::new(&program)
            .arg("-c")
            .arg(cluster.path("n1.yml"))
            .args(arguments)
            .output();
        let output = output.unwrap_or_else(|error| {
            panic!(
                "{}: {error}; run `e2e/lab/dependencies patroni`",
                program.display()
            )
        });
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "patronictl {arguments:?}: {text}");
        text
    };
    let old = cluster.wait_leader();
    let list = patronictl(&["list"]);
    assert!(
        list.contains("Leader")
            && list.matches("Quorum Standby").count() == 2
            && list.matches("streaming").count() == 2,
        "{list}"
    );
    let candidate = if old == 1 { 2 } else { 1 };
    let said = patronictl(&[
        "switchover",
        "test",
        "--leader",
        &format!("n{old}"),
        "--candidate",
        &format!("n{candidate}"),
        "--force",
    ]);
    assert!(said.contains("Successfully switched over"), "{said}");
    assert_eq!(cluster.wait_leader(), candidate);
    cluster.wait_healthy();
    let said = patronictl(&[
        "failover",
        "test",
        "--candidate",
        &format!("n{old}"),
        "--force",
    ]);
    assert!(said.contains("Successfully failed over"), "{said}");
    cluster.wait_healthy();
    assert!(patronictl(&["history"]).contains("no recovery target specified"));
    let standby = (1..=3).find(|member| *member != cluster.wait_leader());
    let standby = format!("n{}", standby.unwrap());
    let said = patronictl(&["reinit", "test", &standby, "--force", "--wait"]);
    assert!(
        said.contains("Success: reinitialize") && said.contains("is completed on"),
        "{said}"
    );
    cluster.wait_healthy();
    assert!(patronictl(&["reload", "test", "--force"]).contains("Reload request received"));
    patronictl(&[
        "edit-config",
        "--force",
        "-s",
        "postgresql.parameters.work_mem=7MB",
    ]);
    assert!(patronictl(&["show-config"]).contains("work_mem: 7MB"));
    patronictl(&[
        "edit-config",
        "--force",
        "-s",
        "postgresql.parameters.synchronous_standby_names=ANY 1 (*)",
    ]);
    let leader = cluster.wait_leader();
    let log = cluster.path(&format!("n{leader}.log"));
    wait_until("the warning", || {
        std::fs::read_to_string(&log)
            .is_ok_and(|log| log.contains("synchronous_mode: quorum is its ANY 1"))
    });
    wait_until("the parameter is in force", || {
        cluster.sql(leader, "SHOW work_mem") == "7MB"
    });
}

#[test]
fn a_replica_whose_data_is_destroyed_is_copied_afresh() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let victim = (1..=3).find(|member| *member != leader).unwrap();
    cluster.under_load(10, |cluster| {
        std::fs::remove_dir_all(cluster.path(&format!("n{victim}/data/global"))).unwrap();
        Cluster::signal(cluster.postmaster(victim), "KILL");
    });
    cluster.wait_healthy();
}

#[test]
fn a_leader_dead_for_longer_than_its_standbys_patience_costs_none_of_them_its_data() {
    let mut cluster = Cluster::start("quorum");
    let old = cluster.wait_leader();
    let url = format!("http://127.0.0.1:{}/config", cluster.rest_port(old));
    let body = r#"{"ttl": 18, "loop_wait": 5, "retry_timeout": 5}"#;
    Command::new("curl")
        .args(["-sf", "-XPATCH", "-d", body, &url])
        .status()
        .unwrap();
    wait_until("a lease of the longer ttl", || {
        let lease =
            cluster.etcdctl(&["get", "/service/test/leader", "-w", "json"])["kvs"][0]["lease"]
                .as_i64()
                .unwrap_or(0);
        cluster.etcdctl(&["lease", "timetolive", &format!("{lease:x}"), "-w", "json"])["granted-ttl"]
            == 18
    });
    let standbys: Vec<usize> = (1..=3).filter(|member| *member != old).collect();
    let directories = |cluster: &Cluster| {
        let inode = |member: &usize| {
            std::os::unix::fs::MetadataExt::ino(
                &std::fs::metadata(cluster.path(&format!("n{member}/data"))).unwrap(),
            )
        };
        standbys.iter().map(inode).collect::<Vec<_>>()
    };
    let before = directories(&cluster);
    cluster.under_load(32, |cluster| {
        Cluster::signal(pid(cluster.agent_pid(old)), "KILL");
        wait_until("another leader", || {
            cluster.leader().is_some_and(|leader| leader != old)
        });
        assert_eq!(
            directories(cluster),
            before,
            "a standby gave up its data for a leader that was dead"
        );
    });
    let _ = cluster.agents[old - 1].take().map(|mut child| child.wait());
    cluster.bring_back(old);
}

#[test]
fn a_changed_ttl_reaches_a_leader_that_goes_on() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let leader_key =
        || cluster.etcdctl(&["get", "/service/test/leader", "-w", "json"])["kvs"][0].clone();
    let before = leader_key();
    let summary = cluster.under_load(8, |cluster| {
        let url = format!("http://127.0.0.1:{}/config", cluster.rest_port(leader));
        let body = r#"{"ttl": 9, "loop_wait": 2}"#;
        Command::new("curl")
            .args([
                "-sf",
                "-XPATCH",
                "-H",
                "content-type: application/json",
                "-d",
                body,
                &url,
            ])
            .status()
            .unwrap();
        wait_until("the leader key stands under another lease", || {
            leader_key()["lease"] != before["lease"]
        });
    });
    let after = leader_key();
    assert_eq!(
        after["create_revision"], before["create_revision"],
        "it is the same leadership"
    );
    let lease = format!("{:x}", after["lease"].as_i64().unwrap());
    assert_eq!(
        cluster.etcdctl(&["lease", "timetolive", &lease, "-w", "json"])["granted-ttl"],
        9
    );
    assert!(summary.longest_gap_ms < 1_000, "nobody noticed");
    assert_eq!(cluster.wait_leader(), leader);
    cluster.wait_healthy();
}

#[test]
fn data_of_another_major_version_is_left_alone_until_the_right_programs_come() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let victim = (1..=3).find(|member| *member != leader).unwrap();
    Cluster::signal(i32::try_from(cluster.agent_pid(victim)).unwrap(), "TERM");
    cluster.agents[victim - 1].take().unwrap().wait().unwrap();
    let version = cluster.path(&format!("n{victim}/data/PG_VERSION"));
    std::fs::write(&version, "14\n").unwrap();
    let agent = cluster.start_agent(victim);
    cluster.agents[victim - 1] = Some(agent);
    let key = format!("/service/test/members/n{victim}");
    wait_until("the member says why it does not start", || {
        let text = cluster.etcdctl_text(&["get", &key, "--print-value-only"]);
        text.contains("made by PostgreSQL 14, and the programs here are of 15")
    });
    std::fs::write(&version, "15\n").unwrap();
    cluster.wait_healthy();
}
