//! Settings that have no effect are said, and a file that is read again is taken over.

use crate::harness::{Cluster, wait_until};

impl Cluster {
    fn says(&self, member: usize, field: &str, text: &str) -> bool {
        let said = self.get(member, "/patroni").unwrap_or_default();
        said[field].to_string().contains(text)
    }

    fn has_parameter(&self, member: usize, line: &str) -> bool {
        let file = self.path(&format!("n{member}/data/postgresql.conf"));
        std::fs::read_to_string(file).is_ok_and(|text| text.contains(line))
    }
}

#[test]
fn a_setting_that_another_program_stored_is_said_and_not_in_force() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let config = cluster.value("config");
    let with = config.replacen(
        '{',
        r#"{"slots":{"a":{"type":"physical"}},"loop_wayt":1,"#,
        1,
    );
    cluster.put("config", &with);
    for member in 1..=3 {
        wait_until("every member says it", || {
            let key = cluster.value(&format!("members/n{member}"));
            key.contains("config: slots: not supported")
                && cluster.says(member, "unsupported_config", "config: slots: not supported")
                && cluster.says(member, "ignored_settings", "did you mean loop_wait?")
        });
    }
    assert_eq!(cluster.value("config"), with, "it stays where it is");
    let answer = cluster.post(leader, "/switchover", r#"{"leader":"x","now":true}"#);
    assert!(answer.contains("now"), "{answer}");
    assert_eq!(cluster.wait_leader(), leader);
    cluster.put("config", &config);
    wait_until("no member says it", || {
        (1..=3).all(|member| !cluster.says(member, "unsupported_config", "slots"))
    });
}

#[test]
fn a_file_is_read_again_on_request_and_a_refused_one_changes_nothing() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    cluster.wait_healthy();
    let path = cluster.path(&format!("n{leader}.yml"));
    let first = std::fs::read_to_string(&path).unwrap();
    let write = |more: &str| std::fs::write(&path, format!("{first}{more}")).unwrap();
    write("  parameters: {work_mem: 7MB}\n  pgpass: /run/elsewhere\n");
    assert_eq!(
        cluster.post(leader, "/reload", ""),
        "reload scheduled; these need a restart of the agent: postgresql.pgpass"
    );
    wait_until("the parameter", || {
        cluster.has_parameter(leader, "work_mem = '7MB'")
    });
    write("  parameters: {work_mem: 9MB}\nwatchdog: {mode: required}\n");
    let answer = cluster.post(leader, "/reload", "");
    assert!(answer.contains("watchdog.mode: `required`"), "{answer}");
    write("  parameters: {work_mem: 8MB}\n");
    let agent = i32::try_from(cluster.agent_pid(leader)).unwrap();
    Cluster::signal(agent, "HUP");
    wait_until("the parameter by SIGHUP", || {
        cluster.has_parameter(leader, "work_mem = '8MB'")
    });
    assert_eq!(cluster.wait_leader(), leader);
}

#[test]
fn tags_and_credentials_of_the_rest_api_are_taken_over_without_a_restart() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let standby = (1..=3).find(|member| *member != leader).unwrap();
    let name = format!("n{standby}");
    let path = |member: usize| cluster.path(&format!("n{member}.yml"));
    let first = std::fs::read_to_string(path(standby)).unwrap();
    std::fs::write(path(standby), format!("{first}tags: {{nosync: true}}\n")).unwrap();
    assert_eq!(cluster.post(standby, "/reload", ""), "reload scheduled");
    wait_until("the standby is no candidate any more", || {
        cluster.member_key(&name).contains("nosync") && !cluster.value("sync").contains(&name)
    });
    std::fs::write(path(standby), &first).unwrap();
    cluster.post(standby, "/reload", "");
    cluster.wait_healthy();

    // One member after the other: they go on with each other meanwhile.
    for member in 1..=3 {
        let text = std::fs::read_to_string(path(member)).unwrap();
        let with = "', authentication: {username: rest, password: rest-pass}}";
        let text = text.replacen("'}", with, 1);
        std::fs::write(path(member), text).unwrap();
        assert_eq!(cluster.post(member, "/reload", ""), "reload scheduled");
    }
    wait_until("a request without credentials is refused", || {
        cluster
            .post(leader, "/reload", "")
            .contains("no auth header")
    });
    let old = cluster.postmaster(leader);
    cluster.under_load(8, |_| Cluster::signal(old, "KILL"));
    cluster.wait_healthy();
}
