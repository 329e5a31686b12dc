//! Directories that cannot be replaced by a rename: a data directory that something is mounted on,
//! and the location of a tablespace.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::harness::{Cluster, REPLICATION_PASSWORD, pid, wait_until};

/// A standby with a mount namespace of its own: its data directory is a mount point there, and it
/// has its own files where the leader has those of the tablespace.
struct Mounted<'a> {
    cluster: &'a Cluster,
    member: usize,
    agent: Option<Child>,
}

impl Mounted<'_> {
    fn home(&self) -> PathBuf {
        self.cluster.path(&format!("n{}", self.member))
    }

    fn disk(&self) -> PathBuf {
        self.home().join("disk")
    }

    fn start(&mut self) {
        const MOUNT: &str = r#"mount --bind "$1/disk" "$1/data" && mount --bind "$1/ts" "$2" &&
            exec setpriv --reuid=postgres --regid=postgres --clear-groups "$3" "$1.yml""#;
        let log = std::fs::OpenOptions::new()
            .append(true)
            .open(self.cluster.path(&format!("n{}.log", self.member)))
            .unwrap();
        let agent = Command::new("unshare")
            .args(["--mount", "sh", "-c", MOUNT, "sh"])
            .args([
                self.home(),
                location(self.cluster),
                self.cluster.path("mrg-agent"),
            ])
            .env("MRG_LOG_TEXT", "1")
            .env("PATRONI_REPLICATION_PASSWORD", REPLICATION_PASSWORD)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(agent);
    }

    fn stop(&mut self) {
        let mut agent = self.agent.take().unwrap();
        Cluster::signal(pid(agent.id()), "TERM");
        agent.wait().unwrap();
    }

    fn streams(&self, leader: usize) -> bool {
        let question = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'n{}' AND state = 'streaming'",
            self.member
        );
        self.cluster.sql(leader, &question) == "1"
    }

    fn has_the_row(&self) -> bool {
        self.cluster
            .sql(self.member, "SELECT sum(i) FROM elsewhere")
            == "7"
    }

    /// Waits for the copy, and until nothing is left of what it replaced.
    fn await_copy(&self, leader: usize) {
        wait_until("the copy streams, with the tablespace", || {
            self.streams(leader) && self.has_the_row()
        });
        let own = [self.disk(), self.home().join("ts")]
            .map(|place| [place.join(".mrg-new"), place.join(".mrg-replaced")]);
        wait_until("nothing is left of what the copy replaced", || {
            own.iter().flatten().all(|path| !path.exists())
        });
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

fn location(cluster: &Cluster) -> PathBuf {
    cluster.path("elsewhere")
}

fn make_directory(path: &Path) {
    std::fs::create_dir(path).unwrap();
    let owned = Command::new("chown").arg("postgres").arg(path).status();
    assert!(owned.unwrap().success());
}

fn empty(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn a_mount_point_and_a_tablespace_of_its_own_are_copied_into_and_a_foreign_one_is_named() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let [member, other] = [1, 2].map(|after| (leader - 1 + after) % 3 + 1);
    for standby in [member, other] {
        Cluster::signal(pid(cluster.agent_pid(standby)), "TERM");
        cluster.agents[standby - 1].take().unwrap().wait().unwrap();
    }
    let cluster = &cluster;
    let mut mounted = Mounted {
        cluster,
        member,
        agent: None,
    };
    std::fs::rename(mounted.home().join("data"), mounted.disk()).unwrap();
    for directory in [mounted.home().join("data"), mounted.home().join("ts")] {
        make_directory(&directory);
    }
    make_directory(&location(cluster));
    mounted.start();
    wait_until("the standby streams", || mounted.streams(leader));
    let create = format!(
        "CREATE TABLESPACE t LOCATION '{}'",
        location(cluster).display()
    );
    cluster.sql(leader, &create);
    cluster.sql(
        leader,
        "CREATE TABLE elsewhere (i int) TABLESPACE t; INSERT INTO elsewhere VALUES (7)",
    );
    wait_until("the row is there", || mounted.has_the_row());
    let record = cluster.path(&format!("n{member}/data.system"));
    wait_until("the tablespace is written down", || {
        std::fs::read_to_string(&record).is_ok_and(|text| text.contains("elsewhere"))
    });

    let said = cluster.post(member, "/reinitialize", "");
    assert_eq!(said, "reinitialize started");
    wait_until("the former directory is kept aside", || {
        mounted.disk().join(".mrg-replaced/PG_VERSION").exists()
    });
    mounted.await_copy(leader);

    // The data is gone; the record says whose the tablespace is.
    mounted.stop();
    empty(&mounted.disk());
    mounted.start();
    mounted.await_copy(leader);

    mounted.stop();
    empty(&mounted.disk());
    std::fs::remove_file(&record).unwrap();
    mounted.start();
    let key = || cluster.member_key(&format!("n{member}"));
    wait_until(
        "the location that is not known to be its own is named",
        || key().contains("elsewhere") && key().contains("not empty"),
    );
    let files = std::fs::read_dir(mounted.home().join("ts")).unwrap();
    assert_eq!(files.count(), 1, "it is left alone");
}
