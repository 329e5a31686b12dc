//! What takes minutes, or needs a loop device; `just soak` runs these.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, is_alive, wait_until};
use crate::members::{server_process, succeeds};

/// File systems of the members' own, which can be frozen. Unmounted when this is dropped, which must
/// be after the cluster.
struct Volumes {
    images: tempfile::TempDir,
    homes: Mutex<Vec<PathBuf>>,
}

impl Volumes {
    fn new() -> Self {
        let mut images = tempfile::Builder::new();
        Self {
            images: images.prefix("mrg-standalone-volumes").tempdir().unwrap(),
            homes: Mutex::default(),
        }
    }

    fn mount(&self, home: &Path) {
        let image = self.images.path().join(home.file_name().unwrap());
        let file = std::fs::File::create(&image).unwrap();
        file.set_len(700 << 20).unwrap();
        succeeds(Command::new("mkfs.ext4").arg("-q").arg(&image));
        succeeds(
            Command::new("mount")
                .args(["-o", "loop"])
                .args([&image, home]),
        );
        self.homes.lock().unwrap().push(home.to_owned());
        std::fs::remove_dir(home.join("lost+found")).unwrap();
        succeeds(Command::new("chown").arg("postgres").arg(home));
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        for home in self.homes.get_mut().unwrap() {
            let _ = Command::new("umount").arg("--lazy").arg(&home).status();
            // The cluster's directory could not be removed while something was mounted in it.
            let _ = std::fs::remove_dir_all(home.parent().unwrap());
        }
    }
}

/// A file system that takes no writes until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(home: PathBuf) -> Self {
        succeeds(Command::new("fsfreeze").arg("--freeze").arg(&home));
        Self(home)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let mut thaw = Command::new("fsfreeze");
        let _ = thaw.arg("--unfreeze").arg(&self.0).status();
    }
}

#[test]
#[ignore = "needs loop devices; just soak runs it"]
fn a_leader_whose_disk_hangs_is_replaced_and_streams_once_the_disk_answers() {
    let volumes = Volumes::new();
    let cluster = Cluster::start_with("quorum", &|home, file| {
        volumes.mount(home);
        file
    });
    let leader = cluster.wait_leader();
    cluster.patch_config(leader, r#"{"mrg": {"unresponsive_after": 6}}"#);
    cluster.sql(
        leader,
        "CREATE TABLE kept AS SELECT generate_series(1, 1000)",
    );
    let frozen = Frozen::new(cluster.home(leader));
    let next = cluster.wait_other_leader(leader);
    assert_eq!(cluster.sql(next, "SELECT count(*) FROM kept"), "1000");
    // It does not come back before its disk does.
    std::thread::sleep(Duration::from_secs(20));
    assert_eq!(cluster.leader(), Some(next));
    drop(frozen);
    cluster.wait_healthy();
    assert_eq!(cluster.sql(leader, "SELECT count(*) FROM kept"), "1000");
}

#[test]
#[ignore = "takes minutes; just soak runs it"]
fn a_standby_that_replays_its_own_wal_for_long_is_left_alone_until_it_streams() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let [standby, _] = cluster.standbys();
    cluster.patch_config(
        leader,
        r#"{"postgresql": {"parameters": {"max_wal_size": "4GB", "checkpoint_timeout": "30min"}}}"#,
    );
    wait_until("no restart point in between", || {
        cluster.sql(standby, "SHOW checkpoint_timeout") == "30min"
    });
    cluster.sql(standby, "SELECT pg_wal_replay_pause()");
    cluster.sql(
        leader,
        "CREATE TABLE big AS SELECT repeat(md5(random()::text), 30) FROM generate_series(1, 300000)",
    );
    let written = cluster.sql(leader, "SELECT pg_current_wal_lsn()");
    let received = format!("SELECT pg_last_wal_receive_lsn() >= '{written}'");
    wait_until("the WAL is there", || {
        cluster.sql(standby, &received) == "t"
    });
    cluster.stop(standby);
    let (before, began) = (cluster.inode(standby), cluster.log_of(standby).len());
    cluster.run(standby);
    let mut startup = None;
    wait_until("it replays", || {
        let server = cluster.server(standby);
        startup = server.and_then(|server| server_process(server, "startup"));
        startup.is_some()
    });
    let (postmaster, startup) = (cluster.postmaster(standby), startup.unwrap());
    let until = Instant::now() + Duration::from_secs(70);
    while Instant::now() < until {
        Cluster::signal(startup, "STOP");
        std::thread::sleep(Duration::from_millis(700));
        Cluster::signal(startup, "CONT");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(
        !cluster.streams(leader, standby),
        "the replay was too fast to show anything"
    );
    assert_eq!(cluster.postmaster(standby), postmaster, "it was restarted");
    wait_until("it streams", || cluster.streams(leader, standby));
    cluster.wait_healthy();
    assert_eq!(cluster.postmaster(standby), postmaster, "it was restarted");
    assert_eq!(cluster.inode(standby), before, "it was copied");
    let log = cluster.log_since(standby, began);
    assert!(!log.contains("Rewind("), "{log}");
}

impl Cluster {
    /// Kills a backend of the leader, as the kernel does when a query asks for too much memory.
    fn kill_a_backend(&self) {
        let leader = self.wait_leader();
        let postmaster = self.postmaster(leader);
        let mut client = self.sleeping_client(leader);
        let backend = server_process(postmaster, "SELECT");
        Self::signal(backend.expect("a backend"), "KILL");
        wait_until("the whole server ends with its backend", || {
            !is_alive(postmaster)
        });
        client.kill().unwrap();
        client.wait().unwrap();
    }
}

#[test]
#[ignore = "takes minutes; just soak runs it"]
fn a_query_that_kills_fourteen_servers_costs_no_row_and_leaves_a_cluster_that_serves() {
    let cluster = Cluster::start("quorum");
    cluster.under_load(80, |cluster| {
        for _ in 0..14 {
            cluster.kill_a_backend();
            cluster.wait_leader();
            std::thread::sleep(Duration::from_secs(3));
        }
    });
    cluster.wait_healthy();
}

#[test]
#[ignore = "takes minutes; just soak runs it"]
fn standbys_stream_again_whenever_a_leader_froze_and_etcd_was_away() {
    let mut cluster = Cluster::start("quorum");
    for round in 0..8 {
        cluster.freeze_and_lose_etcd(3_600 + 200 * round, 300 + 250 * round);
    }
}
