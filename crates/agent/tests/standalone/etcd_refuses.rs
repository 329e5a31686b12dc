//! An etcd that answers, and does not do what it is asked: it is full, it wants a login, it is not
//! there. What it says is reported at once, in its own words.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::harness::{Cluster, cache, pid, wait_until};

/// Enough for the keys of a cluster.
const QUOTA: &str = "16777216";

impl Cluster {
    /// Puts a mebibyte; whether etcd took it.
    fn put_mebibyte(&self) -> bool {
        let mut etcdctl = Command::new(cache().join("lab/bin/etcdctl"))
            .args([
                "--endpoints",
                &format!("http://127.0.0.1:{}", self.etcd_port()),
            ])
            .args(["put", "/filler"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let value = vec![b'x'; 1 << 20];
        etcdctl.stdin.take().unwrap().write_all(&value).unwrap();
        etcdctl.wait().unwrap().success()
    }

    /// What a member says of one kind of request to etcd that fails; empty if it does not.
    fn etcd_error(&self, member: usize, request: &str) -> String {
        self.get(member, "/patroni")
            .and_then(|said| Some(said["dcs_errors"][request].as_str()?.to_owned()))
            .unwrap_or_default()
    }

    fn metrics(&self, member: usize) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.rest_port(member));
        let output = Command::new("curl").args(["-s", &url]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The lines of a member's log that say that etcd does not do what it is asked, in these words.
    fn logged(&self, member: usize, words: &str) -> usize {
        let log = std::fs::read_to_string(self.path(&format!("n{member}.log"))).unwrap();
        log.lines()
            .filter(|line| line.contains("does not do what it is asked") && line.contains(words))
            .count()
    }
}

#[test]
fn a_full_etcd_is_named_and_a_crash_is_answered_in_place_until_there_is_space() {
    let mut cluster = Cluster::start("quorum");
    cluster.stop_etcd();
    cluster.start_etcd_with(&["--quota-backend-bytes", QUOTA]);
    cluster.wait_healthy();
    let leader = cluster.wait_leader();
    let full = "database space exceeded";
    let summary = cluster.under_load(20, |cluster| {
        wait_until("etcd is full", || !cluster.put_mebibyte());
        wait_until("the leader says so", || {
            cluster.etcd_error(leader, "write").contains(full)
        });
        let old = cluster.postmaster(leader);
        Cluster::signal(old, "KILL");
        wait_until("the same member leads again", || {
            cluster.leader() == Some(leader) && cluster.postmaster(leader) != old
        });
    });
    assert!(
        summary.longest_gap_ms < 10_000,
        "a client waited {} ms",
        summary.longest_gap_ms
    );
    assert_eq!(cluster.etcd_error(leader, "read"), "");
    let counted = format!("name=\"n{leader}\",request=\"write\",kind=\"no_space\"}}");
    let metrics = cluster.metrics(leader);
    assert!(metrics.contains(&counted), "{metrics}");
    let lines = cluster.logged(leader, full);
    assert!((1..=4).contains(&lines), "{lines} lines");

    cluster.etcdctl_text(&["del", "/filler"]);
    let status = cluster.etcdctl(&["endpoint", "status", "-w", "json"]);
    let revision = status[0]["Status"]["header"]["revision"].as_i64().unwrap();
    cluster.etcdctl_text(&["compact", "--physical", &revision.to_string()]);
    cluster.etcdctl_text(&["defrag"]);
    cluster.etcdctl_text(&["alarm", "disarm"]);
    wait_until("nothing fails any more", || {
        cluster.etcd_error(leader, "write").is_empty()
    });
    cluster.wait_healthy();
    let leader = cluster.wait_leader();
    cluster.under_load(8, |cluster| {
        Cluster::signal(cluster.postmaster(leader), "KILL");
        wait_until("another member leads", || {
            cluster.leader().is_some_and(|now| now != leader)
        });
    });
    cluster.wait_healthy();
}

#[test]
fn an_etcd_that_wants_a_login_or_is_not_there_is_quoted_at_once() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    for command in [
        &["user", "add", "root:pw"][..],
        &["role", "add", "root"],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        cluster.etcdctl_text(command);
    }
    let nameless = "user name is empty";
    wait_until("the leader quotes etcd", || {
        cluster.etcd_error(leader, "read").contains(nameless)
    });
    wait_until("its log does, too", || cluster.logged(leader, nameless) > 0);
    cluster.etcdctl_text(&["--user", "root:pw", "auth", "disable"]);
    wait_until("nothing fails any more", || {
        cluster.etcd_error(leader, "read").is_empty()
    });
    cluster.wait_healthy();

    // A member that never had an answer.
    let member = (1..=3).find(|member| *member != leader).unwrap();
    Cluster::signal(pid(cluster.agent_pid(member)), "TERM");
    cluster.agents[member - 1].take().unwrap().wait().unwrap();
    cluster.stop_etcd();
    let before = cluster.logged(member, "Connection refused");
    let agent = cluster.start_agent(member);
    cluster.agents[member - 1] = Some(agent);
    wait_until("the member says that nothing listens there", || {
        cluster.logged(member, "Connection refused") > before
    });
    let said = cluster.etcd_error(member, "read");
    let endpoint = format!(
        "unable to reach etcd at http://127.0.0.1:{}",
        cluster.etcd_port()
    );
    assert!(said.starts_with(&endpoint), "{said}");
    cluster.start_etcd();
    cluster.wait_healthy();
}

#[test]
fn an_endpoint_that_fails_beside_one_that_answers_is_named_and_changes_nothing_else() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let member = (1..=3).find(|member| *member != leader).unwrap();
    Cluster::signal(pid(cluster.agent_pid(member)), "TERM");
    cluster.agents[member - 1].take().unwrap().wait().unwrap();
    let alive = format!("127.0.0.1:{}", cluster.etcd_port());
    let dead = format!("127.0.0.1:{}", cluster.etcd_port() + 2);
    // Members begin with different endpoints: this one with the dead one.
    let hosts = if member % 2 == 0 {
        format!("{dead},{alive}")
    } else {
        format!("{alive},{dead}")
    };
    let file = cluster.path(&format!("n{member}.yml"));
    let yaml = std::fs::read_to_string(&file).unwrap();
    let yaml = yaml.replace(&format!("hosts: '{alive}'"), &format!("hosts: '{hosts}'"));
    assert!(yaml.contains(&dead), "{yaml}");
    std::fs::write(&file, yaml).unwrap();
    let agent = cluster.start_agent(member);
    cluster.agents[member - 1] = Some(agent);
    cluster.wait_healthy();
    let log = std::fs::read_to_string(cluster.path(&format!("n{member}.log"))).unwrap();
    let named = log
        .lines()
        .find(|line| line.contains("an endpoint of etcd fails"))
        .expect("a line about the dead endpoint");
    assert!(
        named.contains(&dead) && named.contains("Connection refused"),
        "{named}"
    );
    assert_eq!(cluster.etcd_error(member, "read"), "");
}
