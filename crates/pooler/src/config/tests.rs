use super::*;

fn config(settings: &str) -> PoolerConfig {
    let text = format!(
        r#"{{"scope":"a","etcd":["http://e:2379"],"pool":"w","mode":"Write","port":6432,
        "http_port":8009,"processes":2,"databases":[{{"alias":"d","name":"d"}}],
        "users":["u","v"],"secret_directory":"/s","run_directory":"/r",
        "pool_mode":"transaction","max_client_connections":10000,"default_pool_size":20,
        "settings":{settings},"max_hold_ms":30000,"max_wait_ms":5000,"drain_ms":1000}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn administrator() -> Login {
    Login {
        user: "mrg-pooler".to_owned(),
        password: String::new(),
    }
}

#[test]
fn clients_that_do_not_fit_into_the_limit_of_open_files_are_not_let_in() {
    let fitting = |limit| {
        let config = config("{}").within_open_files(limit)?;
        Ok::<_, Error>(config.max_client_connections)
    };
    // Two pools with 20 server connections and an anchor, and what the process itself opens.
    let own = 2 * 22 + OWN_FILES;
    assert_eq!(fitting(1 << 20).unwrap(), 10_000);
    assert_eq!(fitting(own + 5_000).unwrap(), 10_000);
    assert_eq!(fitting(own + 400).unwrap(), 800);
    let refused = fitting(own).unwrap_err().to_string();
    assert!(refused.starts_with("default_pool_size: "), "{refused}");
    let reserved = config(r#"{"reserve_pool_size":"5"}"#).within_open_files(own + 410);
    assert_eq!(reserved.unwrap().max_client_connections, 800);
}

#[test]
fn a_client_that_does_not_log_in_keeps_its_place_for_ten_seconds() {
    let timeout = |settings: &str| {
        let files = config(settings).bouncer(1, Vec::new(), administrator());
        files.settings[LOGIN_TIMEOUT].clone()
    };
    assert_eq!(timeout("{}"), "10");
    assert_eq!(timeout(r#"{"client_login_timeout":"60"}"#), "60");
}

#[test]
fn a_hold_of_any_length_is_waited_for() {
    let mut config = config(r#"{"query_wait_timeout":"18446744073709551615"}"#);
    assert_eq!(config.patience(), Millis(u64::MAX).duration());
    config.settings.clear();
    config.max_hold_ms = Millis(u64::MAX);
    assert_eq!(config.patience(), Millis(u64::MAX).duration());
}

#[test]
fn what_pgbouncers_files_cannot_hold_is_refused_by_its_field() {
    let refusal = |change: fn(&mut PoolerConfig)| {
        let mut config = config("{}");
        config.pod = "p".to_owned();
        config.check().unwrap();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    for (change, named) in [
        (
            (|config| config.databases[0].alias = "pgbouncer".to_owned()) as fn(&mut PoolerConfig),
            "databases: `pgbouncer`",
        ),
        (
            |config| config.databases[0].name = "x\ny".to_owned(),
            "line break",
        ),
        (
            |config| config.run_directory = "/a,b".into(),
            "run_directory",
        ),
        (
            |config| {
                let value = "select 1 ".to_owned();
                config
                    .settings
                    .insert("server_check_query".to_owned(), value);
            },
            "settings.server_check_query",
        ),
    ] {
        let refusal = refusal(change);
        assert!(refusal.contains(named), "{refusal}");
    }
}

#[test]
fn a_password_that_pgbouncer_would_misread_is_refused_with_its_user() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = config("{}");
    config.secret_directory = directory.path().to_owned();
    let put = |user: &str, password: &str| {
        std::fs::write(directory.path().join(format!("{user}-password")), password).unwrap();
    };
    put("u", "it's \"right\"\n");
    put("v", "right");
    assert_eq!(config.logins().unwrap()[0].password, "it's \"right\"");
    put("v", "a\0b");
    let refusal = config.logins().unwrap_err().to_string();
    assert!(refusal.starts_with("users: `v`"), "{refusal}");
}
