use serde_json::json;

use super::*;

fn map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => unreachable!("{other}"),
    }
}

fn names(findings: &[Finding]) -> Vec<&str> {
    findings
        .iter()
        .map(|found| found.setting.as_str())
        .collect()
}

fn of_file(value: Value) -> Audit {
    file(&map(value), &BTreeMap::new(), &[], CodeSource::MemberFile)
}

fn refused_ones() -> Vec<(&'static str, Value)> {
    vec![
        ("etcd3.cacert", json!({"etcd3": {"cacert": "/ca"}})),
        ("etcd3.protocol", json!({"etcd3": {"protocol": "https"}})),
        ("restapi.certfile", json!({"restapi": {"certfile": "/c"}})),
        (
            "restapi.verify_client",
            json!({"restapi": {"verify_client": "required"}}),
        ),
        (
            "restapi.allowlist",
            json!({"restapi": {"allowlist": ["10.0.0.0/8"]}}),
        ),
        (
            "bootstrap.method",
            json!({"bootstrap": {"method": "wal_g", "wal_g": {"command": "x"}}}),
        ),
        (
            "bootstrap.post_init",
            json!({"bootstrap": {"post_init": "x"}}),
        ),
        (
            "bootstrap.users",
            json!({"bootstrap": {"users": {"a": {"password": "x"}}}}),
        ),
        (
            "bootstrap.dcs.slots",
            json!({"bootstrap": {"dcs": {"slots": {"a": {"type": "physical"}}}}}),
        ),
        (
            "bootstrap.dcs.standby_cluster",
            json!({"bootstrap": {"dcs": {"standby_cluster": {"port": 5432}}}}),
        ),
        (
            "bootstrap.dcs.postgresql.callbacks",
            json!({"bootstrap": {"dcs": {"postgresql": {"callbacks": {"on_start": "x"}}}}}),
        ),
        ("watchdog.mode", json!({"watchdog": {"mode": "required"}})),
        (
            "postgresql.pre_promote",
            json!({"postgresql": {"pre_promote": "x"}}),
        ),
        (
            "postgresql.create_replica_methods",
            json!({"postgresql": {"create_replica_methods": ["wal_g", "basebackup"], "wal_g": {"command": "x"}}}),
        ),
        (
            "postgresql.recovery_conf",
            json!({"postgresql": {"recovery_conf": {"restore_command": "x"}}}),
        ),
        (
            "postgresql.authentication.replication.sslmode",
            json!({"postgresql": {"authentication": {"replication": {"sslmode": "verify-ca"}}}}),
        ),
        ("consul", json!({"consul": {"host": "a:1"}})),
        ("citus", json!({"citus": {"group": 1, "database": "a"}})),
    ]
}

#[test]
fn what_protects_or_decides_contents_is_refused_in_the_file() {
    for (path, value) in refused_ones() {
        let audit = of_file(value);
        assert_eq!(names(&audit.refused), [path]);
        assert_eq!(audit.ignored, [], "{path}");
        assert!(
            audit
                .refused
                .iter()
                .all(|found| found.why.contains("not supported")),
            "{path}"
        );
    }
}

#[test]
fn values_that_switch_a_thing_off_are_not_refused() {
    let audit = of_file(json!({
        "etcd3": {"protocol": "http", "cacert": null},
        "restapi": {"verify_client": "none", "allowlist": [], "allowlist_include_members": "off", "certfile": ""},
        "bootstrap": {"method": "initdb", "users": {}, "dcs": {
            "slots": {}, "standby_cluster": {"host": "", "port": null}}},
        "watchdog": {"mode": "automatic"},
        "citus": {},
        "postgresql": {"callbacks": null, "create_replica_methods": ["basebackup"], "pg_ident": [],
            "authentication": {"superuser": {"sslmode": "Prefer"}}},
    }));
    assert_eq!(audit, Audit::default());
    assert_eq!(
        of_file(json!({"watchdog": {"mode": false}})),
        Audit::default()
    );
}

#[test]
fn a_value_is_named_only_where_it_cannot_be_a_secret() {
    let audit =
        of_file(json!({"restapi": {"keyfile_password": "hush", "verify_client": "required"}}));
    let said: Vec<String> = audit.refused.iter().map(ToString::to_string).collect();
    assert!(!said.iter().any(|line| line.contains("hush")), "{said:?}");
    assert!(
        said.iter()
            .any(|line| line.starts_with("restapi.verify_client: `required`: ")),
        "{said:?}"
    );
}

#[test]
fn harmless_settings_are_named_once_and_supported_ones_are_not() {
    let audit = of_file(json!({
        "scope": "a", "name": "b", "namespace": "c", "ctl": {"insecure": true},
        "log": {"level": "INFO", "dir": "/var/log"},
        "bootstrap": {"dcs": {"ttl": 30, "primary_start_timeout": 10, "primary_stop_timeout": 10, "mrg": {"on_crash": "Auto", "unresponsive_after": 5, "executable_settings": "x"}}, "initdb": ["data-checksums"]},
        "postgresql": {"parameters": {"work_mem": "4MB"}, "pg_hba": ["local all all peer"], "use_unix_socket": true},
        "tags": {"nofailover": true, "own": "x", "clonefrom": true},
        "mrg": {"container": true},
    }));
    assert_eq!(audit.refused, []);
    let expected = [
        "log",
        "bootstrap.dcs.primary_stop_timeout",
        "postgresql.use_unix_socket",
        "tags.clonefrom",
    ];
    assert_eq!(names(&audit.ignored), expected);
}

#[test]
fn a_typing_error_is_named_with_the_nearest_setting() {
    for (value, setting, meant) in [
        (
            json!({"postgresql": {"lissten": "x"}}),
            "postgresql.lissten",
            Some("postgresql.listen"),
        ),
        (
            json!({"bootstrap": {"dcs": {"synchronus_mode": true}}}),
            "bootstrap.dcs.synchronus_mode",
            Some("synchronous_mode"),
        ),
        (json!({"ttl": 30}), "ttl", Some("bootstrap.dcs.ttl")),
        (json!({"tag": {"nosync": true}}), "tag", Some("tags")),
        (json!({"something_new": 1}), "something_new", None),
        (
            json!({"mrg": {"on_crash": "Auto"}}),
            "mrg.on_crash",
            Some("bootstrap.dcs.mrg.on_crash"),
        ),
    ] {
        let audit = of_file(value);
        let [found] = audit.ignored.as_slice() else {
            unreachable!("{setting}: {audit:?}")
        };
        assert_eq!(found.setting, setting);
        match meant {
            Some(meant) => assert!(
                found.why.contains(&format!("did you mean {meant}?")),
                "{found}"
            ),
            None => assert!(!found.why.contains("did you mean"), "{found}"),
        }
    }
}

#[test]
fn a_dynamic_configuration_is_audited_by_itself() {
    let dynamic = |value| dynamic(&map(value), CodeSource::MemberFile);
    let audit = dynamic(json!({
        "ttl": 30, "pause": true, "slots": {"a": {"type": "physical"}}, "standby_cluster": null,
        "loop_wayt": 3, "postgresql": {"use_slots": true, "pre_promote": "x", "parameters": {"a": 1}},
    }));
    assert_eq!(names(&audit.refused), ["slots", "postgresql.pre_promote"]);
    assert_eq!(names(&audit.ignored), ["loop_wayt"]);
    let audit = dynamic(json!({"postgresql": {"use_slots": false}, "check_timeline": "on"}));
    assert_eq!(names(&audit.ignored), ["postgresql.use_slots"]);
}

#[test]
fn a_variable_is_as_bad_as_the_setting_that_it_stands_for() {
    let environment: BTreeMap<String, String> = [
        ("HOME", "/"),
        ("PATRONI_NAME", "a"),
        ("PATRONI_RESTAPI_CERTFILE", "/c"),
        ("PATRONI_RESTAPI_VERIFY_CLIENT", "none"),
        ("PATRONI_ETCD3_CACERT", "/c"),
        ("PATRONI_CONSUL_HOST", "a:1"),
        ("PATRONI_REPLICATION_SSLMODE", "verify-full"),
        ("PATRONI_POSTGRESQL_BIN_PG_CTL", "pg_ctl-17"),
        ("PATRONI_LOG_LEVEL", "INFO"),
        ("PATRONI_REWIND_USERNAME", "rewind"),
        ("PATRONI_ETCD_HOSTS", "a:1"),
        ("PATRONI_CTL_INSECURE", "on"),
        ("PATRONI_CONSUL_SERVICE_HOST", "10.0.0.1"),
        ("PATRONI_CONSUL_PORT", "tcp://10.0.0.1:8500"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let audit = file(
        &Map::new(),
        &environment,
        &["PATRONI_NAME"],
        CodeSource::MemberFile,
    );
    assert_eq!(
        names(&audit.refused),
        [
            "PATRONI_CONSUL_HOST",
            "PATRONI_ETCD3_CACERT",
            "PATRONI_POSTGRESQL_BIN_PG_CTL",
            "PATRONI_REPLICATION_SSLMODE",
            "PATRONI_RESTAPI_CERTFILE",
        ]
    );
    assert_eq!(
        names(&audit.ignored),
        [
            "PATRONI_ETCD_HOSTS",
            "PATRONI_LOG_LEVEL",
            "PATRONI_REWIND_USERNAME"
        ]
    );
}

#[test]
fn any_number_of_unknown_settings_with_names_of_any_length_is_said_in_few_words() {
    let name = |number: usize| format!("{}{number}", "é".repeat(2_000));
    let many: Map<String, Value> = (0..1_000).map(|n| (name(n), json!(1))).collect();
    let audit = dynamic(&many, CodeSource::Mounted);
    assert_eq!(audit.ignored.len(), NAMED_MOST + 1);
    assert_eq!(
        audit.ignored[NAMED_MOST].why,
        "and 950 more settings like these"
    );
    let said: usize = audit.ignored.iter().map(|it| it.to_string().len()).sum();
    assert!(said < 20_000, "{said}");
    let few = json!({"max_connection": 1, "ttll": 1});
    let ignored = dynamic(&map(few), CodeSource::Mounted).ignored;
    assert!(ignored[1].why.ends_with("did you mean ttl?"), "{ignored:?}");
}

#[test]
fn what_executes_or_loads_code_is_not_taken_from_the_store() {
    let parameters = json!({"work_mem": "4MB", "Restore_Command": "id", "x.a_library": "y", "archive_command": null});
    let config = json!({"postgresql": {"parameters": parameters}});
    let audit = dynamic(&map(config.clone()), CodeSource::Mounted);
    let expected = [
        "postgresql.parameters.Restore_Command",
        "postgresql.parameters.x.a_library",
    ];
    assert_eq!(names(&audit.executing), expected);
    assert!(
        audit.executing[0]
            .why
            .contains("spec.postgresql.parameters")
    );
    assert_eq!((audit.refused, audit.ignored), (vec![], vec![]));
    let audit = dynamic(&map(config.clone()), CodeSource::Store);
    assert_eq!(audit, Audit::default());

    let in_file = |code| {
        let content =
            map(json!({"bootstrap": {"dcs": config}, "postgresql": {"parameters": parameters}}));
        file(&content, &BTreeMap::new(), &[], code)
    };
    let audit = in_file(CodeSource::MemberFile);
    assert_eq!(
        names(&audit.executing),
        expected.map(|path| format!("bootstrap.dcs.{path}"))
    );
    assert!(
        audit.executing[0]
            .why
            .contains("postgresql.parameters of each member's file")
    );
    assert_eq!(in_file(CodeSource::Store), Audit::default());
}

#[test]
fn a_name_that_postgresql_conf_cannot_have_is_refused_from_the_store_and_ignored_in_a_file() {
    let config = json!({"postgresql": {"parameters": {"include": "/tmp/x", "a b": 1, "ok": 1}}});
    let audit = dynamic(&map(config.clone()), CodeSource::Store);
    let expected = ["postgresql.parameters.include", "postgresql.parameters.a b"];
    assert_eq!(names(&audit.refused), expected);
    let audit = of_file(json!({"bootstrap": {"dcs": config}}));
    assert_eq!(
        names(&audit.ignored),
        expected.map(|path| format!("bootstrap.dcs.{path}"))
    );
    assert_eq!(names(&of_file(config).ignored), expected);
}
