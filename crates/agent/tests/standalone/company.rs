//! The database in bad company: processes, files and settings that are not the agent's.

use std::path::Path;
use std::process::Command;

use crate::harness::{Cluster, as_postgres, is_alive, pid, wait_until};

/// The agent and its fence: the processes of its program, the agent itself included.
fn programs(agent: i32) -> Vec<i32> {
    let children = Command::new("pgrep")
        .args(["-P", &agent.to_string()])
        .output();
    let children = String::from_utf8_lossy(&children.unwrap().stdout).into_owned();
    let children = children.lines().filter_map(|line| line.parse().ok());
    std::iter::once(agent).chain(children).collect()
}

fn member_key(cluster: &Cluster, member: usize) -> String {
    let key = format!("/service/test/members/n{member}");
    cluster.etcdctl_text(&["get", "--print-value-only", &key])
}

fn stop(cluster: &mut Cluster, member: usize) {
    Cluster::signal(pid(cluster.agent_pid(member)), "TERM");
    let mut agent = cluster.agents[member - 1].take().unwrap();
    agent.wait().unwrap();
}

fn start(cluster: &mut Cluster, member: usize) {
    let agent = cluster.start_agent(member);
    cluster.agents[member - 1] = Some(agent);
}

fn a_standby(cluster: &Cluster) -> usize {
    let leader = cluster.wait_leader();
    (1..=3).find(|member| *member != leader).unwrap()
}

#[test]
fn an_agent_and_its_fence_that_are_killed_together_leave_no_server_behind() {
    let mut cluster = Cluster::start("quorum");
    let old = cluster.wait_leader();
    let postmaster = cluster.postmaster(old);
    cluster.under_load(14, |cluster| {
        for program in programs(pid(cluster.agent_pid(old))) {
            Cluster::signal(program, "KILL");
        }
        wait_until("the kernel kills postgres", || !is_alive(postmaster));
        wait_until("another leader", || {
            cluster.leader().is_some_and(|leader| leader != old)
        });
    });
    let _ = cluster.agents[old - 1].take().map(|mut child| child.wait());
    start(&mut cluster, old);
    cluster.wait_healthy();
}

#[test]
fn what_the_agent_did_not_make_or_start_is_left_alone_and_named() {
    let mut cluster = Cluster::start("quorum");
    let member = a_standby(&cluster);
    let data = cluster.path(&format!("n{member}/data"));
    let aside = cluster.path(&format!("n{member}/aside"));
    stop(&mut cluster, member);

    // A directory with something else, and no record that it is this cluster's.
    std::fs::rename(&data, &aside).unwrap();
    let record = cluster.path(&format!("n{member}/data.system"));
    let kept = std::fs::read(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("dump.sql"), "the only copy").unwrap();
    start(&mut cluster, member);
    wait_until("the directory is named", || {
        member_key(&cluster, member).contains("dump.sql")
    });
    assert_eq!(
        std::fs::read_to_string(data.join("dump.sql")).unwrap(),
        "the only copy"
    );

    // The data again, with a server that somebody started by hand.
    stop(&mut cluster, member);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&aside, &data).unwrap();
    std::fs::write(&record, kept).unwrap();
    let bin = Path::new("/usr/lib/postgresql/15/bin");
    let by_hand = |action: &[&str]| {
        as_postgres(&bin.join("pg_ctl"))
            .args(["-s", "-w", "-D"])
            .arg(&data)
            .args(["-l", "/dev/null"])
            .args(action)
            .status()
            .unwrap()
    };
    assert!(by_hand(&["start"]).success());
    let server = cluster.postmaster(member);
    start(&mut cluster, member);
    wait_until("the server is named", || {
        member_key(&cluster, member).contains(&format!("process {server}"))
    });
    assert!(is_alive(server), "a server of another was ended");
    assert!(by_hand(&["-m", "fast", "stop"]).success());
    cluster.wait_healthy();
}

#[test]
fn a_wrong_line_of_pg_hba_is_refused_where_it_is_sent_and_harmless_where_it_is_stored() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let config = |lines: &str| format!(r#"{{"postgresql": {{"pg_hba": [{lines}]}}}}"#);
    let good = r#""host all all 127.0.0.1/32 scram-sha-256""#;
    let wrong = config(&format!(r#"{good}, "hots all all 10.0.0.0/8 md5""#));
    let url = format!("http://127.0.0.1:{}/config", cluster.rest_port(leader));
    let answer = Command::new("curl")
        .args(["-s", "-w", " %{http_code}", "-XPATCH", "-d", &wrong, &url])
        .output()
        .unwrap();
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(
        answer.contains("`hots`") && answer.ends_with("400"),
        "{answer}"
    );

    // As another program would store it.
    let key = "/service/test/config";
    let mut stored = cluster.etcdctl_text(&["get", "--print-value-only", key]);
    stored = stored.trim().replacen(
        r#""postgresql":{"#,
        &format!(r#""postgresql":{{"pg_hba":[{good},"hots all all 10.0.0.0/8 md5"],"#),
        1,
    );
    cluster.etcdctl_text(&["put", key, &stored]);
    let standby = a_standby(&cluster);
    wait_until("the line is named", || {
        member_key(&cluster, standby).contains("`hots`")
    });
    let old = cluster.postmaster(standby);
    cluster.post(standby, "/restart", "{}");
    assert_ne!(cluster.postmaster(standby), old, "nothing was restarted");
    cluster.wait_healthy();
}
