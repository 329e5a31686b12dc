//! What comes from etcd is data: no program and no library is taken from there; and parameters are
//! judged by all that a start needs.

use std::process::Command;

use crate::harness::{Cluster, as_postgres, pid, wait_until};

/// The answer to `PATCH /config`, with its status code at the end.
fn patch(cluster: &Cluster, member: usize, body: &str) -> String {
    let url = format!("http://127.0.0.1:{}/config", cluster.rest_port(member));
    let output = Command::new("curl")
        .args([
            "-s",
            "-m",
            "10",
            "-w",
            " %{http_code}",
            "-XPATCH",
            "-d",
            body,
            &url,
        ])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn conf(cluster: &Cluster, member: usize) -> String {
    let file = cluster.path(&format!("n{member}/data/postgresql.conf"));
    std::fs::read_to_string(file).unwrap()
}

fn says(cluster: &Cluster, member: usize, field: &str, text: &str) -> bool {
    let said = cluster.get(member, "/patroni").unwrap_or_default();
    said[field].to_string().contains(text)
}

fn member_key(cluster: &Cluster, member: usize) -> String {
    cluster.value(&format!("members/n{member}"))
}

/// Puts parameters into the `config` key behind the agents' back.
fn put_parameters(cluster: &Cluster, parameters: &serde_json::Value) {
    let mut config: serde_json::Value = serde_json::from_str(&cluster.value("config")).unwrap();
    for (name, value) in parameters.as_object().unwrap() {
        config["postgresql"]["parameters"][name] = value.clone();
    }
    cluster.put("config", &config.to_string());
}

fn sql(cluster: &Cluster, member: usize, statement: &str) {
    let port = cluster.postgres_port(member).to_string();
    let status = Command::new("psql")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "-qAtc",
            statement,
            "postgres",
        ])
        .env("PGPASSWORD", "it's secret")
        .status();
    assert!(status.unwrap().success(), "{statement}");
}

fn edit(cluster: &Cluster, member: usize, change: impl Fn(String) -> String) {
    let path = cluster.path(&format!("n{member}.yml"));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(text)).unwrap();
}

/// A file with another setting in the section `mrg`.
fn with_own(text: &str, setting: &str) -> String {
    let with = text.replacen("mrg: {", &format!("mrg: {{{setting}, "), 1);
    assert_ne!(with, text, "there is no section mrg");
    with
}

#[test]
fn no_program_and_no_library_is_taken_from_etcd() {
    let mut cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let standby = (1..=3).find(|member| *member != leader).unwrap();
    let ran = |member: usize| cluster.path(&format!("n{member}/ran"));
    let run = |member: usize| format!("touch {}; false", ran(member).display());
    put_parameters(
        &cluster,
        &serde_json::json!({
            "Restore_Command": run(standby), "archive_command": run(leader), "archive_mode": "on",
            "shared_preload_libraries": "of_the_attacker", "x.some_command": "id", "work_mem": "7MB",
            "maintenance_work_mem = '1MB'\nrestore_command": run(standby), "include": "/tmp/attacker.conf",
        }),
    );
    for member in 1..=3 {
        wait_until("every member says what it does not take", || {
            let key = member_key(&cluster, member);
            [
                "Restore_Command",
                "archive_command",
                "shared_preload_libraries",
                "x.some_command",
                "include",
            ]
            .iter()
            .all(|name| {
                let setting = format!("postgresql.parameters.{name}");
                key.contains(&setting) && says(&cluster, member, "unsupported_config", &setting)
            })
        });
        wait_until("the others are in force", || {
            conf(&cluster, member).contains("work_mem = '7MB'")
        });
    }
    // A standby looks for WAL by restore_command when it starts.
    cluster.post(standby, "/restart", "{}");
    cluster.wait_healthy();
    for member in 1..=3 {
        let text = conf(&cluster, member).to_ascii_lowercase();
        for name in [
            "restore_command",
            "archive_command",
            "of_the_attacker",
            "some_command",
            "attacker.conf",
        ] {
            assert!(!text.contains(name), "{name} in {text}");
        }
        assert!(
            !ran(member).exists(),
            "a command of the key was run on n{member}"
        );
        let log = std::fs::read_to_string(cluster.path(&format!("n{member}.log"))).unwrap();
        assert_eq!(
            log.matches("are not in force").count(),
            1,
            "it is said once"
        );
    }
    let answer = patch(
        &cluster,
        leader,
        r#"{"postgresql":{"parameters":{"restore_command":"id"}}}"#,
    );
    assert!(
        answer.ends_with(" 422")
            && answer.contains("postgresql.parameters.restore_command")
            && answer.contains("each member's file"),
        "{answer}"
    );

    // Patroni's way, for one member.
    let agent = cluster.agents[standby - 1].take().map(|mut agent| {
        Cluster::signal(pid(agent.id()), "TERM");
        agent.wait().unwrap()
    });
    assert!(agent.is_some());
    edit(&cluster, standby, |text| {
        with_own(&text, "executable_settings_from_dcs: true")
    });
    let agent = cluster.start_agent(standby);
    cluster.agents[standby - 1] = Some(agent);
    wait_until("the commands of the key are taken", || {
        conf(&cluster, standby).contains("restore_command")
    });
    wait_until("it is a standing warning", || {
        says(
            &cluster,
            standby,
            "warnings",
            "mrg.executable_settings_from_dcs",
        )
    });
    wait_until("restore_command is run", || {
        cluster.path(&format!("n{standby}/ran")).exists()
    });
    assert!(conf(&cluster, leader).contains("work_mem = '7MB'"));
}

#[test]
fn a_file_that_would_store_a_command_in_etcd_is_refused_with_the_way_out() {
    let cluster = Cluster::start("quorum");
    let path = cluster.path("n1.yml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text.replace(
        "max_connections: 50,",
        "max_connections: 50, archive_command: 'cp %p /a/%f',",
    );
    std::fs::write(&path, &text).unwrap();
    let validate = || {
        let mut command = as_postgres(&cluster.path("mrg-agent"));
        let output = command
            .arg("--validate-config")
            .arg(&path)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (valid, said) = validate();
    assert!(!valid, "{said}");
    assert!(
        said.contains("bootstrap.dcs.postgresql.parameters.archive_command")
            && said.contains("move it to postgresql.parameters of each member's file"),
        "{said}"
    );
    let text = with_own(&text, "executable_settings_from_dcs: true");
    std::fs::write(&path, text).unwrap();
    let (valid, said) = validate();
    assert!(
        valid && said.contains("warning: mrg.executable_settings_from_dcs"),
        "{said}"
    );
}

#[test]
fn parameters_that_a_start_would_fail_on_are_refused_one_by_one() {
    let cluster = Cluster::start("quorum");
    let leader = cluster.wait_leader();
    let standby = (1..=3).find(|member| *member != leader).unwrap();
    edit(&cluster, standby, |text| {
        text + "  parameters: {shared_preload_libraries: nope, session_preload_libraries: nope2, work_mem: 9MB}\n"
    });
    assert!(
        cluster
            .post(standby, "/reload", "")
            .starts_with("reload scheduled")
    );
    put_parameters(
        &cluster,
        &serde_json::json!({
            "superuser_reserved_connections": 60, "maintenance_work_mem": "33MB", "shared_buffers": "4TB", "ssl": "on",
        }),
    );
    for member in 1..=3 {
        wait_until("the good ones are in force", || {
            let text = conf(&cluster, member);
            text.contains("maintenance_work_mem = '33MB'")
                && text.contains("shared_buffers = '16MB'")
        });
        wait_until("the others are named", || {
            let all = [
                "superuser_reserved_connections: ",
                "shared_buffers: ",
                "ssl: ",
            ];
            let key = member_key(&cluster, member);
            all.iter().all(|text| {
                key.contains(text) && says(&cluster, member, "refused_parameters", text)
            })
        });
    }
    wait_until("the libraries of the file are named", || {
        ["shared_preload_libraries: ", "session_preload_libraries: "]
            .iter()
            .all(|text| says(&cluster, standby, "refused_parameters", text))
    });
    assert!(conf(&cluster, standby).contains("work_mem = '9MB'"));
    // What a person has set there is said before a restart fails on it, and takes nothing away.
    sql(
        &cluster,
        leader,
        "ALTER SYSTEM SET shared_preload_libraries = nope3",
    );
    wait_until("what ALTER SYSTEM has set is named", || {
        let named = ["ALTER SYSTEM", "nope3", "shared_buffers: "];
        let mut named = named.iter();
        named.all(|text| says(&cluster, leader, "refused_parameters", text))
    });
    assert!(conf(&cluster, leader).contains("maintenance_work_mem = '33MB'"));
    sql(
        &cluster,
        leader,
        "ALTER SYSTEM RESET shared_preload_libraries",
    );
    wait_until("it is forgotten", || {
        !says(&cluster, leader, "refused_parameters", "ALTER SYSTEM")
    });
    cluster.post(standby, "/restart", "{}");
    Cluster::signal(cluster.postmaster(leader), "KILL");
    cluster.wait_healthy();
    assert!(conf(&cluster, standby).contains("work_mem = '9MB'"));
}

#[test]
fn a_mounted_command_is_in_force_once_the_file_is_the_one_that_the_key_goes_with() {
    let mut cluster = Cluster::start("quorum");
    let mounted =
        |cluster: &Cluster, member: usize| cluster.path(&format!("n{member}/executable.json"));
    // A kubelet replaces the file whole.
    let mount = |cluster: &Cluster, member: usize, version: &str| {
        let text = format!(
            r#"{{"version":"{version}","parameters":{{"archive_command":"true {version}"}}}}"#
        );
        let path = mounted(cluster, member);
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    };
    let name_version = |cluster: &Cluster, version: &str| {
        let mut config: serde_json::Value = serde_json::from_str(&cluster.value("config")).unwrap();
        config["mrg"]["executable_settings"] = version.into();
        cluster.put("config", &config.to_string());
    };
    let in_force = |cluster: &Cluster, member: usize, version: &str| {
        conf(cluster, member).contains(&format!("archive_command = 'true {version}'"))
    };
    name_version(&cluster, "a");
    for member in 1..=3 {
        mount(&cluster, member, "a");
        let file = mounted(&cluster, member);
        let setting = format!("executable_settings_file: {}", file.display());
        edit(&cluster, member, |text| with_own(&text, &setting));
        let mut agent = cluster.agents[member - 1].take().unwrap();
        Cluster::signal(pid(agent.id()), "TERM");
        agent.wait().unwrap();
        cluster.agents[member - 1] = Some(cluster.start_agent(member));
        cluster.wait_healthy();
        wait_until("the mounted command is in force", || {
            in_force(&cluster, member, "a")
        });
    }
    name_version(&cluster, "b");
    let newest = cluster.etcdctl(&["get", "/service/test/config", "-w", "json"]);
    let newest = newest["kvs"][0]["mod_revision"].as_u64().unwrap();
    let configured = |cluster: &Cluster, member: usize| {
        let key = serde_json::from_str(&member_key(cluster, member));
        let key: serde_json::Value = key.unwrap_or_default();
        key["configured"].as_u64().unwrap_or_default() >= newest
    };
    for member in 1..=3 {
        wait_until("the member says what it waits for", || {
            let awaited = "version a, and the dynamic configuration goes with b";
            says(&cluster, member, "awaited_settings", awaited)
                && member_key(&cluster, member).contains(awaited)
        });
    }
    for member in 1..=3 {
        assert!(in_force(&cluster, member, "a") && !configured(&cluster, member));
        mount(&cluster, member, "b");
        wait_until(
            "the new command is in force, and the member counts as configured",
            || in_force(&cluster, member, "b") && configured(&cluster, member),
        );
    }
    for member in 1..=3 {
        assert!(says(&cluster, member, "executable_settings", "b"));
        assert!(says(&cluster, member, "awaited_settings", "null"));
    }
    let answer = patch(
        &cluster,
        1,
        r#"{"postgresql":{"parameters":{"archive_command":"id"}}}"#,
    );
    assert!(answer.contains("spec.postgresql.parameters"), "{answer}");
}
