//! An etcd that comes back empty, or as an older copy of itself.

use std::path::Path;
use std::process::Command;

use crate::harness::{Cluster, wait_until};

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

impl Cluster {
    /// Puts a directory in the place of etcd's, or none, while etcd is down.
    pub(crate) fn set_back(&mut self, to: Option<&Path>) {
        self.stop_etcd();
        std::fs::remove_dir_all(self.path("etcd")).unwrap();
        if let Some(backup) = to {
            copy(backup, &self.path("etcd"));
        }
        self.start_etcd();
    }

    pub(crate) fn keys_name(&self, leader: usize) -> bool {
        let key = self.etcdctl_text(&["get", "/service/test/leader", "--print-value-only"]);
        key.trim() == format!("n{leader}")
    }

    /// The server that led goes on, without a restart, and with every row; after that a leader that
    /// is killed is replaced.
    fn goes_on(&mut self, leader: usize, postmaster: i32) {
        wait_until("the key names the leader again", || self.keys_name(leader));
        self.wait_healthy();
        assert_eq!(self.leader(), Some(leader));
        assert_eq!(self.postmaster(leader), postmaster, "it was restarted");
        self.replace_leader(leader);
    }

    fn rows(&self, member: usize) -> String {
        self.sql(member, "SELECT count(*) FROM kept")
    }
}

#[test]
fn an_etcd_that_comes_back_empty_costs_neither_the_leader_nor_a_row() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    cluster.sql(
        leader,
        "CREATE TABLE kept AS SELECT generate_series(1, 1000)",
    );
    let postmaster = cluster.postmaster(leader);
    cluster.set_back(None);
    cluster.goes_on(leader, postmaster);
    let next = cluster.wait_leader();
    assert_eq!(cluster.rows(next), "1000");
}

#[test]
fn a_backup_of_etcd_in_which_another_member_leads_brings_it_no_lead() {
    let mut cluster = Cluster::start("quorum");
    let former = cluster.wait_leader();
    cluster.stop_etcd();
    let backup = cluster.path("etcd.backup");
    copy(&cluster.path("etcd"), &backup);
    cluster.start_etcd();
    cluster.wait_healthy();
    let next = former % 3 + 1;
    let body = format!(r#"{{"leader": "n{former}", "candidate": "n{next}"}}"#);
    wait_until("the switchover", || {
        cluster.leader() == Some(next)
            || cluster.leader() == Some(former) && {
                cluster.post(former, "/switchover", &body);
                false
            }
    });
    cluster.wait_healthy();
    cluster.sql(next, "CREATE TABLE kept AS SELECT generate_series(1, 1000)");
    let postmaster = cluster.postmaster(next);
    cluster.set_back(Some(&backup));
    cluster.goes_on(next, postmaster);
    let last = cluster.wait_leader();
    assert_eq!(cluster.rows(last), "1000");
}
