//! Leaders that are there and do not serve, and data that cannot be used.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{Cluster, SUPERUSER_PASSWORD, wait_until};
use crate::members::{server_process, take_all_places};

/// The time after which a leader that does not serve is replaced, shorter than the default.
const UNRESPONSIVE_AFTER: &str = r#"{"mrg": {"unresponsive_after": 6}}"#;

#[test]
fn a_leader_that_admits_no_client_is_replaced_and_stays_if_it_was_lately() {
    let cluster = Cluster::start("quorum");
    let first = cluster.wait_leader();
    cluster.patch_config(first, UNRESPONSIVE_AFTER);
    let mut next = first;
    cluster.under_load(24, |cluster| {
        Cluster::signal(cluster.postmaster(first), "STOP");
        next = cluster.wait_other_leader(first);
    });
    cluster.wait_healthy();

    // A smart shutdown by hand waits for every session, and admits no other.
    let leader = cluster.wait_leader();
    assert_eq!(leader, next);
    let mut client = cluster.sleeping_client(leader);
    Cluster::signal(cluster.postmaster(leader), "TERM");
    cluster.wait_other_leader(leader);
    client.kill().unwrap();
    client.wait().unwrap();
    cluster.wait_healthy();

    // What ails one server after the other is not the server.
    cluster.switch_over(first);
    cluster.wait_healthy();
    let postmaster = cluster.postmaster(first);
    Cluster::signal(postmaster, "STOP");
    wait_until("it says that it waits", || {
        cluster.reason(first) == "UnresponsiveAgain"
    });
    assert_eq!(cluster.leader(), Some(first));
    Cluster::signal(postmaster, "CONT");
    wait_until("it leads", || cluster.reason(first) == "Leading");
    assert_eq!(cluster.postmaster(first), postmaster);
    cluster.wait_healthy();
}

#[test]
fn a_leader_with_no_place_for_a_session_leads_on_and_one_without_its_data_is_replaced() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    cluster.patch_config(leader, UNRESPONSIVE_AFTER);
    cluster.sql(leader, "CREATE TABLE kept (i int)");
    let port = cluster.postgres_port(leader);
    let mut client = Command::new("psql")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(["-U", "postgres", "-qAt", "postgres"])
        .env("PGPASSWORD", SUPERUSER_PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut session = client.stdin.take().unwrap();
    let mut execute = |statement: &str| writeln!(session, "{statement};").unwrap();
    execute("INSERT INTO kept VALUES (0)");
    let until = Instant::now() + Duration::from_secs(14);
    let crowd = std::thread::spawn(move || take_all_places(port, ["postgres", "postgres"], until));
    wait_until("all places are taken", || {
        cluster.sql(leader, "SELECT 1").contains("too many clients")
    });
    // The agent's own session goes, too.
    execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
    );
    let mut rows = 1;
    while Instant::now() < until {
        execute("INSERT INTO kept VALUES (1)");
        rows += 1;
        assert_eq!(
            cluster.leader(),
            Some(leader),
            "/primary of {}",
            cluster.reason(leader)
        );
        std::thread::sleep(Duration::from_millis(250));
    }
    crowd.join().unwrap();
    drop(session);
    assert!(client.wait().unwrap().success());
    cluster.wait_healthy();
    assert_eq!(cluster.wait_leader(), leader);
    let count = |member| cluster.sql(member, "SELECT count(*) FROM kept");
    assert_eq!(count(leader), rows.to_string());

    // A file that is made meanwhile must not stay behind.
    while std::fs::remove_dir_all(cluster.data(leader)).is_err() {}
    let next = cluster.wait_other_leader(leader);
    assert_eq!(count(next), rows.to_string());
    cluster.wait_healthy();
    assert_eq!(count(leader), rows.to_string());
}

/// Kills a leader's postmaster, and stops the recovery of the next one for good.
fn hang_recovery(cluster: &Cluster, leader: usize) {
    let old = cluster.postmaster(leader);
    Cluster::signal(old, "KILL");
    let deadline = Instant::now() + Duration::from_secs(20);
    let startup = loop {
        assert!(Instant::now() < deadline, "no startup process was seen");
        let new = cluster.server(leader).filter(|server| *server != old);
        if let Some(found) = new.and_then(|server| server_process(server, "startup")) {
            break found;
        }
    };
    Cluster::signal(startup, "STOP");
}

#[test]
fn a_leader_whose_crash_recovery_does_not_end_is_replaced_after_primary_start_timeout() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    cluster.patch_config(
        leader,
        r#"{"primary_start_timeout": 6, "mrg": {"on_crash": "Restart"}}"#,
    );
    cluster.sql(leader, "CHECKPOINT");
    // A recovery that takes long enough to be stopped.
    cluster.sql(
        leader,
        "CREATE TABLE kept AS SELECT repeat('x', 900) FROM generate_series(1, 60000)",
    );
    hang_recovery(&cluster, leader);
    wait_until("the leader is starting", || {
        cluster.reason(leader) == "Starting"
    });
    let next = cluster.wait_other_leader(leader);
    assert!(
        cluster.log_of(leader).contains("StartTimedOut"),
        "another rule replaced it"
    );
    assert_eq!(cluster.sql(next, "SELECT count(*) FROM kept"), "60000");
    cluster.wait_healthy();
}

#[test]
fn a_damaged_control_file_is_named_and_left_alone_and_a_removed_one_costs_a_copy() {
    let cluster = Cluster::start("quorum");
    let first = cluster.wait_leader();
    let control = |member| cluster.data(member).join("global/pg_control");
    let noise = [0x5a; 40];
    std::fs::write(control(first), noise).unwrap();
    Cluster::signal(cluster.postmaster(first), "KILL");
    let next = cluster.wait_other_leader(first);
    let name = format!("n{first}");
    wait_until("the file is named", || {
        let key: serde_json::Value =
            serde_json::from_str(&cluster.member_key(&name)).unwrap_or_default();
        key["unusable_data"]
            .as_str()
            .is_some_and(|why| why.contains("pg_control"))
    });
    assert_eq!(cluster.reason(first), "UnusableData");
    assert_eq!(std::fs::read(control(first)).unwrap(), noise);
    std::fs::rename(cluster.data(first), cluster.home(first).join("aside")).unwrap();
    cluster.wait_healthy();
    std::fs::remove_dir_all(cluster.home(first).join("aside")).unwrap();

    assert_eq!(cluster.leader(), Some(next));
    let before = cluster.inode(next);
    std::fs::remove_file(control(next)).unwrap();
    Cluster::signal(cluster.postmaster(next), "KILL");
    cluster.wait_other_leader(next);
    cluster.wait_healthy();
    assert_ne!(cluster.inode(next), before);
}
