//! Members that come back by themselves after what would keep PostgreSQL from its start, or from
//! following the leader.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, as_postgres, is_alive, pid, wait_until};
use crate::members::{children, family, succeeds};

/// As after a power cut and a boot, in which the number of the server's process went to another.
fn leave_stale_locks(cluster: &Cluster, member: usize, other: u32) {
    let file = cluster.data(member).join("postmaster.pid");
    let text = std::fs::read_to_string(&file).unwrap();
    let number = text.lines().next().unwrap();
    let directory = Path::new(text.lines().nth(4).unwrap());
    let socket = format!(".s.PGSQL.{}.lock", cluster.postgres_port(member));
    for lock in [file.clone(), directory.join(socket)] {
        let text = std::fs::read_to_string(&lock).unwrap();
        std::fs::write(&lock, text.replacen(number, &other.to_string(), 1)).unwrap();
    }
}

#[test]
fn neither_a_deleted_base_conf_nor_locks_of_before_a_boot_keep_a_standby_from_its_start() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let [standby, _] = cluster.standbys();
    let (before, began) = (cluster.inode(standby), cluster.log_of(standby).len());
    std::fs::remove_file(cluster.data(standby).join("postgresql.base.conf")).unwrap();
    let old = cluster.postmaster(standby);
    let said = cluster.post(standby, "/restart", "{}");
    assert_ne!(cluster.postmaster(standby), old, "{said}");
    cluster.wait_healthy();

    cluster.kill(standby);
    leave_stale_locks(&cluster, standby, cluster.agent_pid(leader));
    cluster.run(standby);
    wait_until("it streams", || cluster.streams(leader, standby));
    cluster.wait_healthy();
    assert_eq!(cluster.inode(standby), before, "it was copied");
    let log = cluster.log_since(standby, began);
    assert!(!log.contains("Rewind("), "{log}");
}

#[test]
fn lowered_max_connections_are_in_force_once_all_were_restarted_the_standbys_first() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let standbys = cluster.standbys();
    cluster.patch_config(
        leader,
        r#"{"postgresql": {"parameters": {"max_connections": 30, "max_worker_processes": 4}}}"#,
    );
    let restart = |member: usize| {
        let old = cluster.postmaster(member);
        let said = cluster.post(member, "/restart", "{}");
        assert_ne!(cluster.postmaster(member), old, "{said}");
        cluster.wait_healthy();
    };
    let shown = |member| cluster.sql(member, "SHOW max_connections");
    wait_until("the leader waits for a restart", || {
        cluster
            .get(leader, "/patroni")
            .is_some_and(|said| said["pending_restart"] == true)
    });
    for standby in standbys {
        restart(standby);
        assert_eq!(
            shown(standby),
            "50",
            "with less than its leader has it would not start"
        );
    }
    restart(leader);
    assert_eq!(cluster.wait_leader(), leader);
    assert_eq!(shown(leader), "30");
    for standby in standbys {
        restart(standby);
        assert_eq!(shown(standby), "30");
    }
}

#[test]
fn a_prepared_transaction_outlives_its_leader_and_a_power_cut_of_everything() {
    let with_prepared = |_: &Path, file: String| {
        file.replace(
            "{max_connections: 50",
            "{max_prepared_transactions: 5, max_connections: 50",
        )
    };
    let mut cluster = Cluster::start_with("quorum", &with_prepared);
    let first = cluster.wait_leader();
    let prepare = |cluster: &Cluster, leader: usize, name: &str, value: usize| {
        let statement =
            format!("BEGIN; INSERT INTO kept VALUES ({value}); PREPARE TRANSACTION '{name}'");
        assert_eq!(cluster.sql(leader, &statement), "");
    };
    cluster.sql(first, "CREATE TABLE kept (i int)");
    prepare(&cluster, first, "first", 1);
    cluster.kill(first);
    let next = cluster.wait_other_leader(first);
    assert_eq!(cluster.sql(next, "COMMIT PREPARED 'first'"), "");
    cluster.run(first);
    cluster.wait_healthy();
    let leader = cluster.wait_leader();
    let [one, other] = cluster.standbys();
    cluster.sql(leader, "INSERT INTO kept SELECT generate_series(3, 100)");
    prepare(&cluster, leader, "second", 2);

    let agents = [one, other, leader];
    let mut all: Vec<i32> = agents
        .iter()
        .flat_map(|member| family(pid(cluster.agent_pid(*member))))
        .collect();
    all.push(pid(cluster.etcd.as_ref().unwrap().id()));
    for process in &all {
        Cluster::signal(*process, "KILL");
    }
    cluster.stop_etcd();
    for member in agents {
        cluster.agents[member - 1].take().unwrap().wait().unwrap();
    }
    wait_until("nothing is left", || !all.iter().any(|pid| is_alive(*pid)));
    for member in agents {
        cluster.run(member);
    }
    std::thread::sleep(Duration::from_secs(2));
    cluster.start_etcd();
    cluster.wait_healthy();
    let leader = cluster.wait_leader();
    assert_eq!(cluster.sql(leader, "COMMIT PREPARED 'second'"), "");
    assert_eq!(
        cluster.sql(leader, "SELECT count(*), sum(i) FROM kept"),
        "100|5050"
    );
}

/// A server that is started by hand, and stopped when it is dropped.
struct ByHand(PathBuf);

impl ByHand {
    fn ctl(&self, action: &[&str]) -> Command {
        let mut command = as_postgres(Path::new("/usr/lib/postgresql/15/bin/pg_ctl"));
        command
            .args(["-s", "-w", "-D"])
            .arg(&self.0)
            .args(["-l", "/dev/null"])
            .args(action);
        command
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = self.ctl(&["-m", "fast", "stop"]).status();
    }
}

impl Cluster {
    /// Has the leader send nothing while rows are written to it, and kills it: its WAL ends behind the
    /// point at which another one begins a timeline.
    fn fork_by_a_crash(&mut self, leader: usize) {
        for (process, title) in children(self.postmaster(leader)) {
            if title.contains("walsender") {
                Self::signal(process, "STOP");
            }
        }
        let rows = "INSERT INTO story SELECT 'lost' FROM generate_series(1, 1000)";
        assert_eq!(self.sql(leader, rows), "");
        self.kill(leader);
    }

    /// Without these nothing can tell where the member's WAL left that of the others.
    fn remove_segments_of_the_first_timeline(&self, member: usize) {
        for entry in std::fs::read_dir(self.data(member).join("pg_wal")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_string_lossy().starts_with("00000001") {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }

    /// Has a member's server begin a timeline and write a row, without its agent.
    fn promote_by_hand(&self, member: usize) {
        let server = ByHand(self.data(member));
        let mark = self.data(member).join("standby.signal");
        std::fs::write(&mark, "").unwrap();
        succeeds(Command::new("chown").arg("postgres").arg(&mark));
        succeeds(&mut server.ctl(&["start"]));
        succeeds(&mut server.ctl(&["promote"]));
        let rows = "INSERT INTO story VALUES ('by hand')";
        assert_eq!(self.sql(member, rows), "");
        assert_eq!(self.sql(member, "CHECKPOINT"), "");
    }

    fn story(&self, member: usize) -> String {
        self.sql(
            member,
            "SELECT string_agg(DISTINCT part, ',' ORDER BY part) FROM story",
        )
    }

    /// Waits until these members have how the story begins.
    fn await_beginning(&self, members: [usize; 2]) {
        wait_until("the standbys have it", || {
            members.iter().all(|member| self.story(*member) == "all")
        });
    }

    fn timeline(&self, member: usize) -> String {
        self.sql(
            member,
            "CHECKPOINT; SELECT timeline_id FROM pg_control_checkpoint()",
        )
    }
}

#[test]
fn a_former_leader_that_cannot_be_rewound_is_copied() {
    let mut cluster = Cluster::start("off");
    let first = cluster.wait_leader();
    cluster.sql(
        first,
        "CREATE TABLE story AS SELECT 'all' AS part; CHECKPOINT",
    );
    let before = cluster.inode(first);
    cluster.fork_by_a_crash(first);
    let next = cluster.wait_other_leader(first);
    cluster.remove_segments_of_the_first_timeline(first);
    cluster.sql(next, "SELECT pg_switch_wal()");
    cluster.run(first);
    cluster.wait_healthy();
    assert_ne!(cluster.inode(first), before);
    assert_eq!(cluster.story(first), "all");
}

#[test]
fn a_member_that_was_promoted_by_hand_to_the_clusters_timeline_is_copied() {
    let mut cluster = Cluster::start("off");
    let leader = cluster.wait_leader();
    let [standby, third] = cluster.standbys();
    cluster.sql(leader, "CREATE TABLE story AS SELECT 'all' AS part");
    cluster.await_beginning([standby, third]);
    cluster.stop(third);
    cluster.kill(standby);
    cluster.stop(leader);
    cluster.promote_by_hand(leader);

    cluster.run(standby);
    assert_eq!(cluster.wait_leader(), standby);
    cluster.sql(
        standby,
        "INSERT INTO story SELECT 'the cluster' FROM generate_series(1, 5000)",
    );
    assert_eq!(cluster.timeline(standby), "2");
    let before = cluster.inode(leader);
    cluster.run(leader);
    cluster.run(third);
    cluster.wait_healthy();
    for member in 1..=3 {
        assert_eq!(cluster.story(member), "all,the cluster");
    }
    assert_ne!(cluster.inode(leader), before);
}

#[test]
fn a_member_that_lacks_the_newest_timeline_does_not_lead_until_the_one_that_has_it_is_back() {
    let mut cluster = Cluster::start("off");
    let first = cluster.wait_leader();
    let [second, third] = cluster.standbys();
    cluster.sql(first, "CREATE TABLE story AS SELECT 'all' AS part");
    cluster.await_beginning([second, third]);
    cluster.stop(third);
    cluster.kill(first);
    wait_until("the second leads", || cluster.leader() == Some(second));
    cluster.sql(second, "INSERT INTO story VALUES ('of the second')");
    cluster.kill(second);
    cluster.run(first);
    wait_until("the first waits for the second", || {
        cluster.reason(first) == "OldTimeline"
    });
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        assert_eq!(cluster.leader(), None);
        std::thread::sleep(Duration::from_millis(200));
    }
    cluster.run(second);
    wait_until("the second leads again", || {
        cluster.leader() == Some(second)
    });
    cluster.run(third);
    cluster.wait_healthy();
    for member in 1..=3 {
        assert_eq!(cluster.story(member), "all,of the second");
    }
}

#[test]
fn a_first_copy_that_is_cut_by_a_crash_begins_again_and_leaves_nothing_behind() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let [member, _] = cluster.standbys();
    cluster.sql(
        leader,
        "CREATE TABLE big AS SELECT repeat('x', 900) FROM generate_series(1, 60000)",
    );
    cluster.stop(member);
    std::fs::remove_dir_all(cluster.data(member)).unwrap();
    cluster.run(member);
    let agent = pid(cluster.agent_pid(member));
    let deadline = Instant::now() + Duration::from_secs(30);
    let copy = loop {
        assert!(Instant::now() < deadline, "no copy was begun");
        let mut below = children(agent)
            .into_iter()
            .flat_map(|(child, words)| children(child).into_iter().chain([(child, words)]));
        if let Some((pid, _)) = below.find(|(_, words)| words.contains("pg_basebackup")) {
            break pid;
        }
    };
    // Without a pause between two looks: it takes a fraction of a second.
    while !cluster.home(member).join("data.new/base").exists() {
        assert!(Instant::now() < deadline, "nothing was copied");
    }
    Cluster::signal(copy, "STOP");
    assert!(!cluster.data(member).exists(), "the copy was too fast");
    let mut agent = cluster.agents[member - 1].take().unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    wait_until("the copy ends with its agent", || !is_alive(copy));
    cluster.run(member);
    cluster.wait_healthy();
    assert_eq!(cluster.sql(member, "SELECT count(*) FROM big"), "60000");
    wait_until("nothing is left", || !cluster.has_leftovers(member));
}

#[test]
fn standbys_stream_again_after_a_frozen_leader_and_an_etcd_that_was_away() {
    let mut cluster = Cluster::start("quorum");
    cluster.freeze_and_lose_etcd(4_600, 1_500);
}

impl Cluster {
    /// Stops the leader's agent and then etcd, for so many milliseconds each: around the end of a
    /// lease, in which members may or may not take part in an election.
    pub(crate) fn freeze_and_lose_etcd(&mut self, frozen: u64, away: u64) {
        let agent = pid(self.agent_pid(self.wait_leader()));
        Self::signal(agent, "STOP");
        std::thread::sleep(Duration::from_millis(frozen));
        Self::signal(agent, "CONT");
        std::thread::sleep(Duration::from_secs(2));
        self.stop_etcd();
        std::thread::sleep(Duration::from_millis(away));
        self.start_etcd();
        self.wait_healthy();
    }

    /// Makes a standby one that replays an hour late, and never leads.
    fn delay(&mut self, standby: usize) {
        self.edit_file(standby, |file| {
            file + "  parameters: {recovery_min_apply_delay: 1h}\ntags: {nofailover: true, nosync: true}\n"
        });
        assert_eq!(self.post(standby, "/reload", ""), "reload scheduled");
        self.voters = 1;
        wait_until("it replays late, and is no candidate", || {
            self.sql(standby, "SHOW recovery_min_apply_delay") == "1h" && self.is_healthy()
        });
    }

    /// Whether a standby's server streams from a leader, or would.
    fn is_turned_to(&self, leader: usize, standby: usize) -> bool {
        let port = format!("port={}", self.postgres_port(leader));
        self.sql(standby, "SHOW primary_conninfo")
            .replace('\'', "")
            .contains(&port)
    }
}

#[test]
fn a_standby_that_is_late_by_order_is_turned_to_the_next_leader_and_left_alone() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let [delayed, _] = cluster.standbys();
    cluster.delay(delayed);
    cluster.sql(
        leader,
        "CREATE TABLE kept AS SELECT generate_series(1, 1000)",
    );
    cluster.post(delayed, "/restart", "{}");
    wait_until("the delayed one admits clients", || {
        cluster.sql(delayed, "SELECT 1") == "1"
    });
    let before = cluster.inode(delayed);
    cluster.kill(leader);
    let next = cluster.wait_other_leader(leader);
    assert_ne!(next, delayed);
    wait_until("the delayed one is turned to it", || {
        cluster.is_turned_to(next, delayed)
    });
    let postmaster = cluster.postmaster(delayed);
    // Longer than a standby that cannot follow would be left as it is: 32 s at most.
    std::thread::sleep(Duration::from_secs(36));
    assert_eq!(cluster.postmaster(delayed), postmaster, "it was restarted");
    assert_eq!(cluster.inode(delayed), before, "it was copied");
    assert!(
        cluster
            .sql(delayed, "SELECT count(*) FROM kept")
            .contains("does not exist")
    );
    assert_eq!(cluster.leader(), Some(next));
}
