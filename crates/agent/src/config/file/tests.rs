use super::*;

const YAML: &str = "
scope: mrg-postgres-cluster
name: pg-node-1
restapi:
  listen: 0.0.0.0:8008
  connect_address: pg-node-1:8008
etcd3:
  hosts: [etcd1:2379, etcd2:2379, etcd3:2379]
bootstrap:
  dcs:
    ttl: 30
    postgresql:
      parameters: {max_connections: 500, hot_standby: 'on'}
  initdb:
  - encoding: UTF8
  - data-checksums
postgresql:
  listen: 0.0.0.0:5432
  connect_address: pg-node-1:5432
  data_dir: /data/pg
  authentication:
    superuser: {username: postgres, password: secret}
tags: {nofailover: false}
something_new: 1
";

fn load(text: &str, environment: &[(&str, &str)]) -> Result<AgentConfig, Error> {
    let environment = environment
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    parse(text, Path::new("patroni.yml"), &environment)
}

#[test]
fn the_analysis_own_patroni_yml_is_understood() {
    let config = load(YAML, &[]).unwrap();
    assert_eq!(
        config.etcd_endpoints,
        [
            "http://etcd1:2379",
            "http://etcd2:2379",
            "http://etcd3:2379"
        ]
    );
    assert_eq!(config.initdb, ["--encoding=UTF8", "--data-checksums"]);
    assert_eq!(config.connect.to_string(), "pg-node-1:5432");
    assert_eq!(config.bootstrap.parameters().len(), 2);
    assert_eq!(config.priority(), Some(1));
}

#[test]
fn the_environment_wins_over_the_file() {
    let config = load(
        YAML,
        &[
            ("PATRONI_NAME", "other"),
            ("PATRONI_SUPERUSER_PASSWORD", "changed"),
        ],
    )
    .unwrap();
    assert_eq!(config.name.as_str(), "other");
    assert_eq!(config.authentication.superuser.password, "changed");
}

#[test]
fn all_refused_settings_are_in_one_message_and_ignored_ones_are_kept() {
    let config = load(YAML, &[]).unwrap();
    let ignored: Vec<&str> = config
        .ignored
        .iter()
        .map(|found| found.setting.as_str())
        .collect();
    assert_eq!(ignored, ["something_new"]);
    let text = YAML
        .replace(
            "something_new: 1",
            "watchdog: {mode: required}\nconsul: {host: a}",
        )
        .replace("etcd3:\n", "etcd3:\n  cacert: /ca\n");
    let message = load(&text, &[]).unwrap_err().to_string();
    for setting in ["watchdog.mode", "consul", "etcd3.cacert"] {
        assert!(message.contains(&format!("\n  {setting}: ")), "{message}");
    }
    let message = load("consul: {host: a}", &[]).unwrap_err().to_string();
    assert!(message.contains("set etcd3.hosts"), "{message}");
}

#[test]
fn tls_to_etcd_is_refused_wherever_it_is_asked_for() {
    let by_url = YAML.replace("[etcd1:2379,", "['https://etcd1:2379',");
    assert!(matches!(load(&by_url, &[]), Err(Error::EtcdTls { .. })));
    let by_variable = load(YAML, &[("PATRONI_ETCD3_PROTOCOL", "https")]);
    assert!(matches!(by_variable, Err(Error::EtcdTls { .. })));
    let config = load(
        YAML,
        &[
            ("PATRONI_ETCD3_USERNAME", "u"),
            ("PATRONI_ETCD3_PASSWORD", "p"),
        ],
    );
    let user = config.unwrap().etcd_user.unwrap();
    assert_eq!((user.username.as_str(), user.password.as_str()), ("u", "p"));
}

#[test]
fn tags_may_be_text_but_must_mean_something() {
    let tagged = |tags: &str| load(&YAML.replace("{nofailover: false}", tags), &[]);
    for tags in [
        "{nofailover: 'true'}",
        "{nofailover: yes}",
        "{failover_priority: '0'}",
        "{nofailover: 1}",
    ] {
        assert_eq!(tagged(tags).unwrap().priority(), None, "{tags}");
    }
    assert_eq!(tagged("{nofailover: 'no'}").unwrap().priority(), Some(1));
    let message = tagged("{nofailover: maybe}").unwrap_err().to_string();
    assert!(
        message.contains("tags.nofailover") && message.contains("true or false"),
        "{message}"
    );
}

#[test]
fn the_dynamic_configuration_of_a_new_cluster_is_checked() {
    let message = load(&YAML.replace("ttl: 30", "ttl: soon"), &[])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("bootstrap.dcs") && message.contains("ttl"),
        "{message}"
    );
}

#[test]
fn what_is_missing_is_named_with_both_its_places() {
    let message = load("scope: a", &[]).unwrap_err().to_string();
    assert_eq!(
        message,
        "name is not set; give it in the file or as PATRONI_NAME"
    );
    let message = load(&YAML.replace("0.0.0.0:5432", "5432"), &[])
        .unwrap_err()
        .to_string();
    assert!(message.contains("postgresql.listen"), "{message}");
}

#[test]
fn no_password_is_in_what_is_said_of_a_file() {
    let broken = YAML.replace("password: secret}", "password: secret]");
    let message = load(&broken, &[]).unwrap_err().to_string();
    assert!(
        message.contains("line") && !message.contains("secret"),
        "{message}"
    );
    let etcd = [
        ("PATRONI_ETCD3_USERNAME", "u"),
        ("PATRONI_ETCD3_PASSWORD", "etcd-secret"),
        ("PATRONI_RESTAPI_USERNAME", "u"),
        ("PATRONI_RESTAPI_PASSWORD", "rest-secret"),
    ];
    let database =
        "something_new: 1\nmrg: {databases: [{name: a, owner: b, password: app-secret}]}";
    let text = YAML.replace("something_new: 1", database);
    let printed = format!("{:?}", load(&text, &etcd).unwrap());
    assert!(!printed.contains("-secret"), "{printed}");
}

#[test]
fn a_password_that_no_passfile_can_hold_is_refused_and_not_shown() {
    let text = YAML.replace("password: secret}", r#"password: "two\nlines"}"#);
    let message = load(&text, &[]).unwrap_err().to_string();
    assert!(
        message.contains("`postgres`") && !message.contains("lines"),
        "{message}"
    );
}

#[test]
fn paths_do_not_depend_on_where_a_program_runs() {
    let text = YAML.replace("/data/pg", "data/pg").replace(
        "  listen: 0.0.0.0:5432",
        "  pgpass: pass\n  listen: 0.0.0.0:5432",
    );
    let config = load(&text, &[]).unwrap();
    assert!(config.data_directory.is_absolute() && config.passfile().is_absolute());
}
