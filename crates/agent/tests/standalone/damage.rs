//! Files of a member's data that are deleted or damaged while its server runs.

use std::path::Path;

use crate::harness::{Cluster, wait_until};

/// What is done to one of the files, below the data directory.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Deleted,
    Emptied,
    /// A line that no parser takes.
    Garbage,
}

const DAMAGES: [(&str, Damage); 9] = [
    ("postgresql.conf", Damage::Deleted),
    ("postgresql.conf", Damage::Garbage),
    ("pg_hba.conf", Damage::Deleted),
    ("pg_hba.conf", Damage::Garbage),
    ("postgresql.auto.conf", Damage::Garbage),
    ("postgresql.base.conf", Damage::Emptied),
    ("standby.signal", Damage::Deleted),
    ("PG_VERSION", Damage::Deleted),
    ("pg_wal", Damage::Deleted),
];

fn inflict(path: &Path, damage: Damage) {
    match damage {
        Damage::Deleted if path.is_dir() => std::fs::remove_dir_all(path).unwrap(),
        Damage::Deleted => std::fs::remove_file(path).unwrap(),
        Damage::Emptied => std::fs::write(path, "").unwrap(),
        Damage::Garbage => std::fs::write(path, "\u{0}nonsense = = 'x\n").unwrap(),
    }
}

/// Damages a standby's file and kills its server.
fn damage(cluster: &Cluster, standby: usize, file: &str, damage: Damage) -> i32 {
    inflict(&cluster.data(standby).join(file), damage);
    let old = cluster.postmaster(standby);
    Cluster::signal(old, "KILL");
    old
}

#[test]
fn a_standby_streams_again_whichever_of_its_files_was_deleted_or_damaged() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let [standby, _] = cluster.standbys();
    for (file, what) in DAMAGES {
        println!("{file}: {what:?}");
        let old = damage(&cluster, standby, file, what);
        wait_until("another server", || {
            cluster.server(standby).is_some_and(|new| new != old)
                && cluster.streams(leader, standby)
        });
        cluster.wait_healthy();
        // So that the next one is not taken for a copy that did not help.
        wait_until("its own agent sees it stream", || {
            cluster.reason(standby) == "Following"
                && cluster
                    .get(standby, "/patroni")
                    .is_some_and(|said| said["replication_state"] == "streaming")
        });
    }
    assert_eq!(cluster.wait_leader(), leader);
}

#[test]
fn a_standby_whose_server_admits_no_session_says_why_and_is_copied_on_request() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let [standby, _] = cluster.standbys();
    let key = || cluster.member_key(&format!("n{standby}"));
    for (file, words) in [
        ("global/pg_filenode.map", "global/pg_filenode.map"),
        ("base", "does not exist"),
    ] {
        damage(&cluster, standby, file, Damage::Deleted);
        wait_until("the member key says why", || {
            key().contains("refuses the sessions") && key().contains(words)
        });
        let said = cluster.post(standby, "/reinitialize", "");
        assert_eq!(said, "reinitialize started");
        wait_until("the copy streams", || cluster.streams(leader, standby));
        cluster.wait_healthy();
        wait_until("nothing is in the way", || !key().contains("obstacle"));
    }
    assert_eq!(cluster.wait_leader(), leader);
}
