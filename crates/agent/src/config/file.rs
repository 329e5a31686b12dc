//! The structure of `patroni.yml`, and how the environment wins over it. [`super::audit`] judges
//! what is not read here.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::{AgentConfig, Error, Listen, Own, audit};
use mrg_base::{Address, InvalidAddress, InvalidName, MemberName, Scope};
use mrg_dcs::{DynamicConfig, settings, tags};
use mrg_postgres::{Authentication, Credentials};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    scope: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
    restapi: RestApi,
    etcd3: Option<EtcdFile>,
    etcd: Option<EtcdFile>,
    bootstrap: Bootstrap,
    postgresql: Postgresql,
    tags: Map<String, Value>,
    mrg: Own,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RestApi {
    listen: Option<String>,
    connect_address: Option<String>,
    authentication: Option<Credentials>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct EtcdFile {
    host: Option<String>,
    hosts: Option<Hosts>,
    protocol: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Hosts {
    List(Vec<String>),
    Text(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Bootstrap {
    dcs: Map<String, Value>,
    initdb: Vec<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Postgresql {
    listen: Option<String>,
    connect_address: Option<String>,
    data_dir: Option<PathBuf>,
    bin_dir: Option<PathBuf>,
    authentication: AuthenticationFile,
    parameters: Map<String, Value>,
    pg_hba: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthenticationFile {
    superuser: Option<Credentials>,
    replication: Option<Credentials>,
}

/// The variables that have an effect.
const VARIABLES: &[&str] = &[
    "PATRONI_NAME",
    "PATRONI_SCOPE",
    "PATRONI_NAMESPACE",
    "PATRONI_RESTAPI_LISTEN",
    "PATRONI_RESTAPI_CONNECT_ADDRESS",
    "PATRONI_RESTAPI_USERNAME",
    "PATRONI_RESTAPI_PASSWORD",
    "PATRONI_ETCD3_HOST",
    "PATRONI_ETCD3_HOSTS",
    "PATRONI_ETCD3_PROTOCOL",
    "PATRONI_ETCD3_USERNAME",
    "PATRONI_ETCD3_PASSWORD",
    "PATRONI_POSTGRESQL_LISTEN",
    "PATRONI_POSTGRESQL_CONNECT_ADDRESS",
    "PATRONI_POSTGRESQL_DATA_DIR",
    "PATRONI_POSTGRESQL_BIN_DIR",
    "PATRONI_SUPERUSER_USERNAME",
    "PATRONI_SUPERUSER_PASSWORD",
    "PATRONI_REPLICATION_USERNAME",
    "PATRONI_REPLICATION_PASSWORD",
];

/// The `PATRONI_*` environment. An empty variable counts as unset.
struct Environment<'a>(&'a BTreeMap<String, String>);

impl Environment<'_> {
    fn get(&self, variable: &str) -> Option<String> {
        self.0
            .get(variable)
            .filter(|value| !value.is_empty())
            .cloned()
    }

    fn require(
        &self,
        value: Option<String>,
        field: &'static str,
        variable: &'static str,
    ) -> Result<String, Error> {
        self.get(variable)
            .or(value)
            .ok_or(Error::Missing { field, variable })
    }

    /// A role and its password, from the variables `PATRONI_<role>_USERNAME` and `_PASSWORD`.
    fn credentials(&self, file: Option<Credentials>, role: &str, default: &str) -> Credentials {
        let file = file.unwrap_or_else(|| Credentials {
            username: default.to_owned(),
            password: String::new(),
        });
        Credentials {
            username: self
                .get(&format!("PATRONI_{role}_USERNAME"))
                .unwrap_or(file.username),
            password: self
                .get(&format!("PATRONI_{role}_PASSWORD"))
                .unwrap_or(file.password),
        }
    }
}

pub(super) fn parse(
    text: &str,
    path: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<AgentConfig, Error> {
    let wrong = |error: serde_saphyr::Error| Error::Parse {
        path: path.to_owned(),
        message: error.to_string(),
    };
    let content: Option<Map<String, Value>> = serde_saphyr::from_str(text).map_err(wrong)?;
    let audit = audit::file(&content.unwrap_or_default(), environment, VARIABLES);
    if !audit.refused.is_empty() {
        return Err(Error::Unsupported {
            path: path.to_owned(),
            settings: audit.refused,
        });
    }
    let file: File = serde_saphyr::from_str(text).map_err(wrong)?;
    let config = AgentConfig {
        file: path.to_owned(),
        ignored: audit.ignored,
        ..from_file(file, &Environment(environment))?
    };
    if let Some((name, value, expected)) = tags::meaningless(&config.tags) {
        return Err(Error::Tag {
            name: name.to_owned(),
            value: value.to_string(),
            expected,
        });
    }
    settings(&config.bootstrap).map_err(Error::Bootstrap)?;
    Ok(config)
}

fn from_file(file: File, env: &Environment<'_>) -> Result<AgentConfig, Error> {
    let postgresql = file.postgresql;
    let name = env.require(file.name, "name", "PATRONI_NAME")?;
    let scope = env.require(file.scope, "scope", "PATRONI_SCOPE")?;
    let rest = rest_api(file.restapi, env)?;
    let (listen, connect) = listen_and_connect(
        (
            postgresql.listen,
            "postgresql.listen",
            "PATRONI_POSTGRESQL_LISTEN",
        ),
        (
            postgresql.connect_address,
            "postgresql.connect_address",
            "PATRONI_POSTGRESQL_CONNECT_ADDRESS",
        ),
        env,
    )?;
    let data = env.require(
        postgresql
            .data_dir
            .map(|path| path.to_string_lossy().into_owned()),
        "postgresql.data_dir",
        "PATRONI_POSTGRESQL_DATA_DIR",
    )?;
    let etcd = file.etcd3.or(file.etcd).unwrap_or_default();
    let authentication = postgresql.authentication;
    let invalid_name = |field| move |source: InvalidName| Error::Name { field, source };
    Ok(AgentConfig {
        file: PathBuf::new(),
        scope: Scope::new(&scope).map_err(invalid_name("scope"))?,
        name: MemberName::new(&name).map_err(invalid_name("name"))?,
        namespace: env
            .get("PATRONI_NAMESPACE")
            .or(file.namespace)
            .unwrap_or_else(|| "service".to_owned()),
        rest_listen: rest.listen,
        rest_connect: rest.connect,
        rest_credentials: rest.credentials,
        etcd_endpoints: endpoints(&etcd, env)?,
        etcd_user: env
            .get("PATRONI_ETCD3_USERNAME")
            .or(etcd.username)
            .zip(env.get("PATRONI_ETCD3_PASSWORD").or(etcd.password)),
        bootstrap: DynamicConfig(file.bootstrap.dcs),
        initdb: initdb_arguments(&file.bootstrap.initdb),
        listen,
        connect,
        data_directory: PathBuf::from(data),
        bin_directory: env
            .get("PATRONI_POSTGRESQL_BIN_DIR")
            .map(PathBuf::from)
            .or(postgresql.bin_dir),
        authentication: Authentication {
            superuser: env.credentials(authentication.superuser, "SUPERUSER", "postgres"),
            replication: env.credentials(authentication.replication, "REPLICATION", "replicator"),
        },
        parameters: parameters(&postgresql.parameters),
        hba: postgresql.pg_hba,
        tags: file.tags,
        own: file.mrg,
        ignored: Vec::new(),
    })
}

struct Rest {
    listen: Listen,
    connect: Address,
    credentials: Option<Credentials>,
}

fn rest_api(file: RestApi, env: &Environment<'_>) -> Result<Rest, Error> {
    let (listen, connect) = listen_and_connect(
        (file.listen, "restapi.listen", "PATRONI_RESTAPI_LISTEN"),
        (
            file.connect_address,
            "restapi.connect_address",
            "PATRONI_RESTAPI_CONNECT_ADDRESS",
        ),
        env,
    )?;
    if listen.hosts.len() > 1 {
        return Err(Error::SeveralAddresses {
            field: "restapi.listen",
            value: listen.hosts.join(","),
        });
    }
    let user = env
        .get("PATRONI_RESTAPI_USERNAME")
        .zip(env.get("PATRONI_RESTAPI_PASSWORD"))
        .map(|(username, password)| Credentials { username, password });
    Ok(Rest {
        listen,
        connect,
        credentials: user.or(file.authentication),
    })
}

/// A setting's value in the file, its path there, and its environment variable.
type Setting = (Option<String>, &'static str, &'static str);

/// Others connect to where something listens, unless another address is given.
fn listen_and_connect(
    listen: Setting,
    connect: Setting,
    env: &Environment<'_>,
) -> Result<(Listen, Address), Error> {
    let text = env.require(listen.0, listen.1, listen.2)?;
    let parsed = Listen::parse(&text).map_err(invalid(listen.1, &text))?;
    let connect_text = env.get(connect.2).or(connect.0);
    let address = match connect_text {
        Some(text) => text.parse().map_err(invalid(connect.1, &text))?,
        None => parsed.dialled().ok_or(Error::NotDialled {
            field: connect.1,
            variable: connect.2,
            listen: text,
        })?,
    };
    Ok((parsed, address))
}

/// A parameter's value as `postgresql.conf` has it.
pub(crate) fn parameter_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => if *flag { "on" } else { "off" }.to_owned(),
        other => other.to_string(),
    }
}

fn parameters(values: &Map<String, Value>) -> BTreeMap<String, String> {
    values
        .iter()
        .map(|(name, value)| (name.clone(), parameter_text(value)))
        .collect()
}

fn invalid(field: &'static str, value: &str) -> impl FnOnce(InvalidAddress) -> Error {
    let value = value.to_owned();
    move |source| Error::Address {
        field,
        value,
        source,
    }
}

fn endpoints(etcd: &EtcdFile, env: &Environment<'_>) -> Result<Vec<String>, Error> {
    let from_environment = env
        .get("PATRONI_ETCD3_HOSTS")
        .or_else(|| env.get("PATRONI_ETCD3_HOST"));
    let list = |text: &str| -> Vec<String> {
        text.split(',')
            .map(|host| host.trim().trim_matches(['\'', '"']).to_owned())
            .filter(|host| !host.is_empty())
            .collect()
    };
    let hosts = match (from_environment, &etcd.hosts, &etcd.host) {
        (Some(text), _, _) => list(&text),
        (None, Some(Hosts::List(hosts)), _) => hosts.clone(),
        (None, Some(Hosts::Text(text)), _) => list(text),
        (None, None, Some(host)) => vec![host.clone()],
        (None, None, None) => vec![],
    };
    if hosts.is_empty() {
        return Err(Error::Missing {
            field: "etcd3.hosts",
            variable: "PATRONI_ETCD3_HOSTS",
        });
    }
    let protocol = env.get("PATRONI_ETCD3_PROTOCOL");
    let protocol = protocol.or(etcd.protocol.clone());
    let protocol = protocol.as_deref().unwrap_or("http");
    let with_protocol = |host: String| {
        let endpoint = if host.contains("://") {
            host
        } else {
            format!("{protocol}://{host}")
        };
        if endpoint.to_ascii_lowercase().starts_with("https:") {
            let field = "etcd3.hosts";
            return Err(Error::EtcdTls { field, endpoint });
        }
        Ok(endpoint)
    };
    hosts.into_iter().map(with_protocol).collect()
}

/// Flags (`- data-checksums`) and options (`- encoding: UTF8`).
fn initdb_arguments(options: &[Value]) -> Vec<String> {
    let argument = |option: &Value| match option {
        Value::String(flag) => Some(format!("--{flag}")),
        Value::Object(map) => map
            .iter()
            .next()
            .map(|(key, value)| format!("--{key}={}", parameter_text(value))),
        _ => None,
    };
    options.iter().filter_map(argument).collect()
}

#[cfg(test)]
mod tests {
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
        assert_eq!(
            config.unwrap().etcd_user,
            Some(("u".to_owned(), "p".to_owned()))
        );
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
}
