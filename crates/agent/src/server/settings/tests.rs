use std::path::Path;

use super::*;

const LOCAL: &str = "
scope: demo
name: pg-1
restapi: {listen: '127.0.0.1:8008'}
etcd3: {host: '127.0.0.1:2379'}
postgresql:
  listen: 127.0.0.1:5432
  data_dir: /data/pg
  parameters: {work_mem: 8MB}
  authentication:
    superuser: {username: postgres}
    replication: {username: replicator, password: secret}
";

fn local() -> AgentConfig {
    AgentConfig::parse(LOCAL, Path::new("patroni.yml"), &BTreeMap::new()).unwrap()
}

fn dynamic(json: &str) -> DynamicConfig {
    DynamicConfig::parse(json.as_bytes()).unwrap()
}

fn member(name: &str) -> MemberName {
    MemberName::new(name).unwrap()
}

fn pairs(list: &[(&str, &str)]) -> Parameters {
    list.iter()
        .map(|(name, value)| (ParameterName::new(name).unwrap(), (*value).to_owned()))
        .collect()
}

fn validated(settings: &mut Settings, parameters: Parameters, verdict: Verdict) {
    settings.set_validated(parameters, Surroundings::default(), verdict);
}

fn base() -> Configuration {
    let local = local();
    Configuration {
        cluster_name: "demo".to_owned(),
        listen: "127.0.0.1".to_owned(),
        port: 5432,
        socket_directory: "/data/pg.run".into(),
        authentication: local.authentication,
        ..Configuration::default()
    }
}

const CONNINFO: &str = "host='h2' port='5433' user='replicator' application_name='pg-1' \
        passfile='/data/pg.run/pgpass' connect_timeout='3' keepalives_idle='5' keepalives_interval='1' \
        tcp_user_timeout='5000' sslmode='prefer'";

fn cluster_of_two(settings: &mut Settings) {
    let address = Address {
        host: "h2".to_owned(),
        port: 5433,
    };
    settings.set_cluster(DynamicConfig::default(), [(member("pg-2"), address)].into());
}

type Row = (&'static str, fn(&mut Settings), fn(&mut Configuration));

const ROWS: &[Row] = &[
    ("nothing is known yet", |_| {}, |_| {}),
    (
        "a parameter waits for PostgreSQL's verdict",
        |settings| {
            let json = r#"{"postgresql": {"parameters": {"max_connections": 70}}}"#;
            settings.set_cluster(dynamic(json), BTreeMap::new());
        },
        |_| {},
    ),
    (
        "an accepted parameter is in force",
        |settings| validated(settings, pairs(&[("work_mem", "1MB")]), Verdict::Accepted),
        |expected| expected.parameters = pairs(&[("work_mem", "1MB")]),
    ),
    (
        "a refused one leaves the last accepted in force",
        |settings| {
            validated(settings, pairs(&[("work_mem", "1MB")]), Verdict::Accepted);
            validated(
                settings,
                pairs(&[("work_mem", "x")]),
                Verdict::Refused("why".to_owned()),
            );
        },
        |expected| expected.parameters = pairs(&[("work_mem", "1MB")]),
    ),
    (
        "an upstream has an address and a slot",
        |settings| {
            cluster_of_two(settings);
            settings.set_upstream(Some(member("pg-2")), Moment(1), 0);
        },
        |expected| {
            CONNINFO.clone_into(&mut expected.primary_conninfo);
            "pg_1".clone_into(&mut expected.primary_slot_name);
        },
    ),
    (
        "an upstream without a known address is not followed",
        |settings| settings.set_upstream(Some(member("pg-2")), Moment(1), 0),
        |_| {},
    ),
    (
        "an upstream that was taken away is not followed",
        |settings| {
            cluster_of_two(settings);
            settings.set_upstream(Some(member("pg-2")), Moment(1), 0);
            settings.set_upstream(None, Moment(2), 0);
        },
        |_| {},
    ),
    (
        "names of synchronous standbys",
        |settings| settings.set_names(Names::parse("ANY 1 (\"pg-2\")").unwrap()),
        |expected| {
            "ANY 1 (\"pg-2\")".clone_into(&mut expected.synchronous_standby_names);
        },
    ),
    (
        "minimum standby settings",
        |settings| settings.set_minimums([("max_connections".to_owned(), 60)].into()),
        |expected| expected.minimums = [("max_connections".to_owned(), 60)].into(),
    ),
    (
        "lines of pg_hba.conf from the dynamic configuration",
        |settings| {
            let json = r#"{"postgresql": {"pg_hba": ["local all all peer"]}}"#;
            settings.set_cluster(dynamic(json), BTreeMap::new());
        },
        |expected| expected.hba = Some(vec!["local all all peer".to_owned()]),
    ),
];

#[test]
fn the_files_follow_from_what_is_known() {
    for (case, change, expect) in ROWS {
        let mut settings = Settings::default();
        change(&mut settings);
        let mut expected = base();
        expect(&mut expected);
        assert_eq!(settings.configuration(&local()), expected, "{case}");
    }
}

#[test]
fn local_settings_win_over_dynamic_ones() {
    let mut settings = Settings::default();
    let json = r#"{"postgresql": {
            "parameters": {"work_mem": "4MB", "fsync": true, "max_connections": 70},
            "pg_hba": ["local all all peer"]}}"#;
    settings.set_cluster(dynamic(json), BTreeMap::new());
    let local = AgentConfig {
        hba: Some(vec!["local all all trust".to_owned()]),
        ..local()
    };
    assert_eq!(
        settings.parameters(&local),
        pairs(&[
            ("work_mem", "8MB"),
            ("fsync", "on"),
            ("max_connections", "70")
        ])
    );
    assert_eq!(settings.configuration(&local).hba, local.hba);
}

#[test]
fn a_file_that_is_read_again_takes_the_place_of_the_first() {
    let mut settings = Settings::default();
    let hba = Some(vec!["local all all peer".to_owned()]);
    settings.set_local(Local {
        parameters: pairs(&[("work_mem", "1MB")]),
        hba: hba.clone(),
    });
    assert_eq!(settings.parameters(&local()), pairs(&[("work_mem", "1MB")]));
    assert_eq!(settings.configuration(&local()).hba, hba);
}

#[test]
fn files_are_written_when_they_change_and_after_a_start() {
    let local = local();
    let mut settings = Settings::default();
    let first = settings.unwritten(&local).unwrap();
    settings.note_written(first.clone());
    assert_eq!(settings.unwritten(&local), None);
    settings.set_names(Names::parse("ANY 1 (\"pg-2\")").unwrap());
    assert_ne!(settings.unwritten(&local), None);
    settings.set_names(Names::default());
    assert_eq!(settings.unwritten(&local), None);
    settings.forget_written();
    assert_eq!(settings.unwritten(&local), Some(first));
}

#[test]
fn parameters_are_validated_once() {
    let mut settings = Settings::default();
    let (good, bad) = (pairs(&[("work_mem", "1MB")]), pairs(&[("work_mem", "x")]));
    let is_validated = |settings: &Settings, parameters: &Parameters| {
        settings.is_validated(parameters, &Surroundings::default())
    };
    assert!(
        !is_validated(&settings, &Parameters::new()),
        "not even none"
    );
    let refused = Verdict::Refused("invalid value".to_owned());
    validated(&mut settings, bad.clone(), refused);
    assert!(is_validated(&settings, &bad) && !is_validated(&settings, &good));
    assert_eq!(settings.refusal().as_deref(), Some("invalid value"));
    validated(&mut settings, good, Verdict::Accepted);
    assert!(!is_validated(&settings, &bad));
    assert_eq!(settings.refusal(), None);
}

#[test]
fn parameters_that_the_agent_sets_are_reported() {
    let parameters = pairs(&[
        ("port", "1"),
        ("synchronous_standby_names", "*"),
        ("work_mem", "1MB"),
    ]);
    assert_eq!(
        ineffective(&parameters).collect::<Vec<_>>(),
        [
            ("port", ""),
            (
                "synchronous_standby_names",
                "; synchronous_mode: quorum is its ANY 1"
            ),
        ]
    );
}

#[test]
fn the_store_names_no_program_and_the_mounted_file_does() {
    let json = r#"{"mrg": {"executable_settings": "v1"}, "postgresql": {"parameters": {
        "work_mem": "4MB", "Archive_Command": "id >/tmp/x", "shared_preload_libraries": "evil"}}}"#;
    let mut settings = Settings::default();
    settings.set_cluster(dynamic(json), BTreeMap::new());
    let mut local = AgentConfig {
        parameters: Parameters::new(),
        ..local()
    };
    assert_eq!(settings.parameters(&local), pairs(&[("work_mem", "4MB")]));

    let mounted = r#"{"version": "v1", "parameters": {"archive_command": "cp %p /archive/%f"}}"#;
    local.own.executable_settings_file = Some("/etc/mrg/executable.json".into());
    assert_eq!(
        settings.set_mounted(Mounted::parse(mounted), Moment(1)),
        None
    );
    let expected = pairs(&[
        ("archive_command", "cp %p /archive/%f"),
        ("work_mem", "4MB"),
    ]);
    assert_eq!(settings.parameters(&local), expected);

    local.own.executable_settings_file = None;
    local.own.executable_settings_from_dcs = true;
    let all = Settings {
        dynamic: dynamic(json),
        ..Settings::default()
    };
    assert_eq!(all.parameters(&local).len(), 3, "Patroni's way");
}

#[test]
fn a_standby_logs_in_by_scram_where_libpq_can_be_told_so() {
    let conninfo = |major, local: &AgentConfig| {
        let mut settings = Settings::new(major);
        cluster_of_two(&mut settings);
        settings.set_upstream(Some(member("pg-2")), Moment(1), 0);
        settings.configuration(local).primary_conninfo
    };
    let local = local();
    for (major, asks) in [
        (None, false),
        (Some(15), false),
        (Some(16), true),
        (Some(18), true),
    ] {
        let text = conninfo(major, &local);
        assert_eq!(
            text.contains("require_auth='scram-sha-256'"),
            asks,
            "{major:?}: {text}"
        );
    }
    let mut without = local;
    without.authentication.replication.password = String::new();
    let text = conninfo(Some(17), &without);
    assert!(
        !text.contains("require_auth"),
        "there is nothing to keep: {text}"
    );
}

#[test]
fn lines_of_the_store_stand_after_the_agents_own_and_read_no_file() {
    let hostile = r#"{"postgresql": {"pg_hba": [
        "local all all trust", "host replication all all reject", "host all all all trust", " # x"]}}"#;
    let mut settings = Settings::default();
    settings.set_cluster(dynamic(hostile), BTreeMap::new());
    assert_eq!(settings.validate_hba(&local(), || None), None);
    let text = settings.configuration(&local()).render_hba();
    let rules: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .collect();
    assert_eq!(
        rules[..3],
        [
            "local all \"postgres\" trust",
            "host replication \"replicator\" all scram-sha-256",
            "host all \"postgres\" all scram-sha-256",
        ]
    );
    assert_eq!(rules.len(), 6);

    let includes = r#"{"postgresql": {"pg_hba": ["include /dev/zero"]}}"#;
    settings.set_cluster(dynamic(includes), BTreeMap::new());
    assert!(settings.validate_hba(&local(), || None).is_some());
    assert!(
        !settings
            .configuration(&local())
            .render_hba()
            .contains("include")
    );
}
