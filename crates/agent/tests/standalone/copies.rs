//! Members that are copied afresh: because a person asks for it, or because the leader does not have
//! the WAL any more that they need.

use crate::harness::{Cluster, pid, wait_until};

#[test]
fn a_member_is_copied_afresh_on_request_and_a_leader_never() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let standby = (1..=3).find(|member| *member != leader).unwrap();
    assert_eq!(
        cluster.post(leader, "/reinitialize", r#"{"force": true}"#),
        "I am the leader, can not reinitialize"
    );
    let said = cluster.post(standby, "/reinitialize", r#"{"forze": true}"#);
    assert!(said.contains("forze"), "{said}");
    let before = cluster.inode(standby);
    cluster.under_load(8, |cluster| {
        let ask = || cluster.post(standby, "/reinitialize", r#"{"from_leader": true}"#);
        assert_eq!(ask(), "reinitialize started");
        assert_eq!(ask(), "reinitialize already in progress");
        let state = cluster.get(standby, "/patroni").unwrap_or_default();
        assert_eq!(state["state"], "creating replica");
    });
    wait_until("another data directory", || {
        cluster.inode(standby) != before
    });
    cluster.wait_healthy();

    // In a pause it is done, and not kept for later.
    cluster.patch_config(leader, r#"{"pause": true}"#);
    wait_until("the standby knows of the pause", || {
        cluster
            .member_key(&format!("n{standby}"))
            .contains("\"pause\":true")
    });
    let before = cluster.inode(standby);
    let said = cluster.post(standby, "/reinitialize", "");
    assert_eq!(said, "reinitialize started");
    wait_until("another data directory in the pause", || {
        cluster.inode(standby) != before
    });
    cluster.wait_healthy();
    cluster.patch_config(leader, r#"{"pause": null}"#);
    assert_eq!(cluster.wait_leader(), leader);
}

#[test]
fn a_standby_whose_wal_the_leader_has_removed_is_copied_without_a_rewind() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let standby = (1..=3).find(|member| *member != leader).unwrap();
    cluster.patch_config(
        leader,
        r#"{"postgresql": {"parameters": {"max_slot_wal_keep_size": "1MB", "wal_keep_size": "0"}}}"#,
    );
    wait_until("no WAL is kept", || {
        cluster.sql(leader, "SHOW max_slot_wal_keep_size") == "1MB"
    });
    Cluster::signal(pid(cluster.agent_pid(standby)), "TERM");
    cluster.agents[standby - 1].take().unwrap().wait().unwrap();
    for _ in 0..6 {
        cluster.sql(leader, "SELECT pg_switch_wal(); CHECKPOINT");
    }
    let before = cluster.log_of(standby).len();
    let agent = cluster.start_agent(standby);
    cluster.agents[standby - 1] = Some(agent);
    let since = |cluster: &Cluster| cluster.log_of(standby).split_off(before);
    wait_until("the standby is copied", || {
        since(&cluster).contains("BaseBackup")
    });
    cluster.wait_healthy();
    let log = since(&cluster);
    assert!(log.contains("has already been removed"), "{log}");
    assert!(!log.contains("Rewind("), "{log}");
}

#[test]
fn a_member_with_the_slot_of_another_is_refused_by_both_names() {
    let cluster = Cluster::start("quorum");
    cluster.configure(4, "quorum");
    let path = cluster.path("n4.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("name: n4", "name: N2")).unwrap();
    let mut agent = cluster.start_agent(4);
    wait_until("it says with which member", || {
        cluster
            .member_key("N2")
            .contains("n2 and N2 have the same slot n2")
    });
    assert!(!cluster.path("n4/data").exists());
    agent.kill().unwrap();
    agent.wait().unwrap();
}
