//! Addresses, files and statements as people write them, and an etcd that compacts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::harness::{Cluster, as_postgres, wait_until};

#[test]
fn members_that_have_ipv6_addresses_only_stream_vote_and_name_them_in_their_keys() {
    let mut cluster = Cluster::start_on_ipv6("quorum");
    let old = cluster.wait_leader();
    let key: serde_json::Value =
        serde_json::from_str(&cluster.member_key(&format!("n{old}"))).unwrap();
    for (field, begin) in [
        ("api_url", "http://[::1]:"),
        ("conn_url", "postgres://[::1]:"),
    ] {
        let url = key[field].as_str().unwrap();
        assert!(url.starts_with(begin), "{field}: {url}");
    }
    cluster.kill(old);
    cluster.wait_other_leader(old);
    cluster.run(old);
    cluster.wait_healthy();
}

/// What the program says of a member's file, and whether it accepts it.
fn validate(cluster: &Cluster, member: usize) -> (bool, String) {
    let output = as_postgres(&cluster.path("mrg-agent"))
        .arg("--validate-config")
        .arg(cluster.path(&format!("n{member}.yml")))
        .env(
            "PATRONI_REPLICATION_PASSWORD",
            crate::harness::REPLICATION_PASSWORD,
        )
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn a_file_with_tls_or_hooks_is_refused_and_one_that_listens_on_all_interfaces_is_taken() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let [member, _] = cluster.standbys();
    let file = std::fs::read_to_string(cluster.path(&format!("n{member}.yml"))).unwrap();
    cluster.stop(member);
    let refused: [(&str, &str, &[&str]); 2] = [
        (
            "restapi: {",
            "restapi: {certfile: /c, keyfile: /k, cafile: /a, verify_client: required, ",
            &[
                "restapi.certfile",
                "restapi.keyfile",
                "restapi.verify_client",
            ],
        ),
        (
            "postgresql:\n  listen",
            "postgresql:\n  callbacks: {on_role_change: /hook}\n  create_replica_methods: [wal_g]\n  listen",
            &["postgresql.callbacks", "postgresql.create_replica_methods"],
        ),
    ];
    for (from, to, names) in refused {
        cluster.edit_file(member, |_| file.replacen(from, to, 1));
        let (accepted, said) = validate(&cluster, member);
        let began = cluster.log_of(member).len();
        cluster.run(member);
        let ended = cluster.agents[member - 1].take().unwrap().wait().unwrap();
        let logged = cluster.log_since(member, began);
        assert!(!accepted && !ended.success(), "{said}");
        for name in names {
            assert!(
                said.contains(name) && logged.contains(name),
                "{said}\n{logged}"
            );
        }
    }

    cluster.edit_file(member, |_| {
        ["restapi: {", "postgresql:\n  "]
            .iter()
            .fold(file.clone(), |file, section| {
                let listen = format!("{section}listen: '127.0.0.1:");
                assert!(file.contains(&listen), "{file}");
                file.replacen(&listen, &format!("{section}listen: '*:"), 1)
            })
            .replacen(
                "restapi: {",
                &format!(
                    "restapi: {{connect_address: '{}', ",
                    cluster.address(cluster.rest_port(member))
                ),
                1,
            )
            .replacen(
                "postgresql:\n  listen",
                &format!(
                    "postgresql:\n  connect_address: '{}'\n  listen",
                    cluster.address(cluster.postgres_port(member))
                ),
                1,
            )
    });
    let (accepted, said) = validate(&cluster, member);
    assert!(accepted, "{said}");
    cluster.run(member);
    cluster.wait_healthy();
    assert_eq!(cluster.sql(member, "SHOW listen_addresses"), "*");
    assert_eq!(cluster.leader(), Some(leader));
}

#[test]
fn what_alter_system_sets_stays_but_for_parameters_of_the_agent_and_that_is_logged() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let [standby, _] = cluster.standbys();
    let names = cluster.sql(leader, "SHOW synchronous_standby_names");
    assert!(names.contains("ANY"), "{names}");
    for statement in [
        "ALTER SYSTEM SET synchronous_standby_names = ''",
        "ALTER SYSTEM SET work_mem = '33MB'",
        "SELECT pg_reload_conf()",
    ] {
        cluster.sql(leader, statement);
    }
    wait_until("what the agent does not set is in force", || {
        cluster.sql(leader, "SHOW work_mem") == "33MB"
    });
    wait_until("what the agent sets is in force again", || {
        cluster.sql(leader, "SHOW synchronous_standby_names") == names
    });
    let log = cluster.log_of(leader);
    assert!(log.contains("postgresql.auto.conf"), "{log}");
    cluster.wait_healthy();
    // The file is written afresh when a standby goes.
    cluster.stop(standby);
    wait_until("names without the standby", || {
        cluster.sql(leader, "SHOW synchronous_standby_names") != names
    });
    assert_eq!(cluster.sql(leader, "SHOW work_mem"), "33MB");
    cluster.run(standby);
    cluster.wait_healthy();
}

impl Cluster {
    /// Compacts etcd's history to what is now.
    fn compact(&self) {
        self.etcdctl_text(&["put", "/elsewhere", "x"]);
        let status = self.etcdctl(&["get", "/elsewhere", "-w", "json"]);
        let revision = status["header"]["revision"].to_string();
        self.etcdctl_text(&["compact", &revision]);
    }
}

#[test]
fn switchovers_are_seen_by_all_while_etcd_compacts_and_defragments() {
    let cluster = Cluster::start("quorum");
    let ends = AtomicBool::new(false);
    let times = std::thread::scope(|scope| {
        let compactions = scope.spawn(|| {
            let mut times = 0;
            while !ends.load(Ordering::Relaxed) {
                cluster.compact();
                times += 1;
                if times % 10 == 0 {
                    cluster.etcdctl_text(&["defrag"]);
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            times
        });
        // Also when this one fails, the other must end.
        let ended = Ends(&ends);
        for _ in 0..3 {
            let leader = cluster.wait_leader();
            cluster.switch_over(leader % 3 + 1);
            cluster.wait_healthy();
        }
        drop(ended);
        compactions.join().unwrap()
    });
    assert!(times > 10, "{times} compactions");
}

struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
