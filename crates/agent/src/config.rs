//! `patroni.yml` and the `PATRONI_*` environment, as far as this agent uses them. Unknown keys are
//! ignored, as Patroni does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use mrg_base::{InvalidName, MemberName, Scope};
use mrg_dcs::DynamicConfig;
use mrg_postgres::{Authentication, Credentials};

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("unable to read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("{path}: {message}")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        message: String,
    },
    /// A setting is missing.
    #[error("{field} is not set; give it in the file or as {variable}")]
    Missing {
        /// Its place in the file.
        field: &'static str,
        /// Its environment variable.
        variable: &'static str,
    },
    /// A name is not legal.
    #[error("{field}: {source}")]
    Name {
        /// Its place in the file.
        field: &'static str,
        /// Why.
        source: InvalidName,
    },
    /// An address is not of the form `host:port`.
    #[error("{field}: `{value}` is not of the form host:port")]
    Address {
        /// Its place in the file.
        field: &'static str,
        /// The value.
        value: String,
    },
}

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

/// Settings that Patroni does not have.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Own {
    /// Where the incarnation record stands; in a pod, on an `emptyDir`. Beside the data directory
    /// if not given.
    pub incarnation_file: Option<PathBuf>,
    /// Kubernetes' `terminationMessagePath`.
    pub termination_message: Option<PathBuf>,
    /// Whether this process is PID 1 of a container: a former incarnation is then surely dead.
    pub container: bool,
    /// Databases to make when the cluster is made.
    pub databases: Vec<Database>,
    /// Where the owners' passwords stand as `<owner>-password`, and change when they are rotated.
    pub secret_directory: Option<PathBuf>,
    /// How long an orderly stop may take, in seconds; more than Kubernetes would kill for is
    /// pointless.
    pub stop_timeout: Option<u64>,
}

/// A database to make.
#[derive(Clone, Debug, Deserialize)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// Its owner, made as well.
    pub owner: String,
    /// The owner's password.
    #[serde(default)]
    pub password: Option<String>,
    /// The environment variable that holds it.
    #[serde(default)]
    pub password_env: Option<String>,
}

/// `host:port`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Everything an agent is told from outside etcd.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The cluster.
    pub scope: Scope,
    /// This member.
    pub name: MemberName,
    /// The first part of every key.
    pub namespace: String,
    /// Where the REST API listens.
    pub rest_listen: Address,
    /// Where others reach it.
    pub rest_connect: Address,
    /// What unsafe methods ask for.
    pub rest_credentials: Option<Credentials>,
    /// `http://host:port`
    pub etcd_endpoints: Vec<String>,
    /// etcd's user.
    pub etcd_user: Option<(String, String)>,
    /// The dynamic configuration of a new cluster.
    pub bootstrap: DynamicConfig,
    /// Further arguments for initdb.
    pub initdb: Vec<String>,
    /// `listen_addresses` and port.
    pub listen: Address,
    /// Where others reach postgres.
    pub connect: Address,
    /// The data directory.
    pub data_directory: PathBuf,
    /// Where PostgreSQL's programs are; `PATH` if none.
    pub bin_directory: Option<PathBuf>,
    /// The agent's roles.
    pub authentication: Authentication,
    /// Local parameters; they win over the dynamic ones.
    pub parameters: BTreeMap<String, String>,
    /// Local lines of `pg_hba.conf`; they win over the dynamic ones.
    pub hba: Option<Vec<String>>,
    /// This member's tags.
    pub tags: Map<String, Value>,
    /// See [`Own`].
    pub own: Own,
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

fn address(field: &'static str, value: &str) -> Result<Address, Error> {
    let invalid = || Error::Address {
        field,
        value: value.to_owned(),
    };
    let (host, port) = value.rsplit_once(':').ok_or_else(invalid)?;
    Ok(Address {
        host: host.trim_matches(['[', ']']).to_owned(),
        port: port.trim().parse().map_err(|_| invalid())?,
    })
}

impl AgentConfig {
    /// Reads a file; the environment wins over it, as in Patroni.
    pub fn load(path: &Path, environment: &BTreeMap<String, String>) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path, environment)
    }

    /// The same of a text that stands in a file of this name.
    pub fn parse(
        text: &str,
        path: &Path,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| Error::Parse {
            path: path.to_owned(),
            message: error.to_string(),
        })?;
        Self::from_file(file, environment)
    }

    fn from_file(file: File, environment: &BTreeMap<String, String>) -> Result<Self, Error> {
        let env = |variable: &str| {
            environment
                .get(variable)
                .filter(|value| !value.is_empty())
                .cloned()
        };
        let need = |value: Option<String>, field: &'static str, variable: &'static str| {
            env(variable)
                .or(value)
                .ok_or(Error::Missing { field, variable })
        };
        let RestApi {
            listen: rest_listen,
            connect_address: rest_connect,
            authentication: rest_credentials,
        } = file.restapi;
        let postgresql = file.postgresql;
        let name = need(file.name, "name", "PATRONI_NAME")?;
        let scope = need(file.scope, "scope", "PATRONI_SCOPE")?;
        let rest_listen = need(rest_listen, "restapi.listen", "PATRONI_RESTAPI_LISTEN")?;
        let rest_connect = need(
            rest_connect.or(Some(rest_listen.clone())),
            "restapi.connect_address",
            "PATRONI_RESTAPI_CONNECT_ADDRESS",
        )?;
        let listen = need(
            postgresql.listen,
            "postgresql.listen",
            "PATRONI_POSTGRESQL_LISTEN",
        )?;
        let connect = need(
            postgresql.connect_address.or(Some(listen.clone())),
            "postgresql.connect_address",
            "PATRONI_POSTGRESQL_CONNECT_ADDRESS",
        )?;
        let data = need(
            postgresql
                .data_dir
                .map(|path| path.to_string_lossy().into_owned()),
            "postgresql.data_dir",
            "PATRONI_POSTGRESQL_DATA_DIR",
        )?;
        let credentials = |file: Option<Credentials>, user: &str, password: &str, default: &str| {
            let file = file.unwrap_or_else(|| Credentials {
                username: default.to_owned(),
                password: String::new(),
            });
            Credentials {
                username: env(user).unwrap_or(file.username),
                password: env(password).unwrap_or(file.password),
            }
        };
        let rest_user = env("PATRONI_RESTAPI_USERNAME").zip(env("PATRONI_RESTAPI_PASSWORD"));
        let rest_user = rest_user.map(|(username, password)| Credentials { username, password });
        let etcd = file.etcd3.or(file.etcd).unwrap_or_default();
        Ok(Self {
            scope: Scope::new(&scope).map_err(|source| Error::Name {
                field: "scope",
                source,
            })?,
            name: MemberName::new(&name).map_err(|source| Error::Name {
                field: "name",
                source,
            })?,
            namespace: env("PATRONI_NAMESPACE")
                .or(file.namespace)
                .unwrap_or_else(|| "service".to_owned()),
            rest_listen: address("restapi.listen", &rest_listen)?,
            rest_connect: address("restapi.connect_address", &rest_connect)?,
            rest_credentials: rest_user.or(rest_credentials),
            etcd_user: etcd.username.clone().zip(etcd.password.clone()),
            etcd_endpoints: endpoints(
                &etcd,
                env("PATRONI_ETCD3_HOSTS").or(env("PATRONI_ETCD3_HOST")),
            )?,
            bootstrap: DynamicConfig(file.bootstrap.dcs),
            initdb: file
                .bootstrap
                .initdb
                .iter()
                .filter_map(initdb_argument)
                .collect(),
            listen: address("postgresql.listen", &listen)?,
            connect: address("postgresql.connect_address", &connect)?,
            data_directory: PathBuf::from(data),
            bin_directory: env("PATRONI_POSTGRESQL_BIN_DIR")
                .map(PathBuf::from)
                .or(postgresql.bin_dir),
            authentication: Authentication {
                superuser: credentials(
                    postgresql.authentication.superuser,
                    "PATRONI_SUPERUSER_USERNAME",
                    "PATRONI_SUPERUSER_PASSWORD",
                    "postgres",
                ),
                replication: credentials(
                    postgresql.authentication.replication,
                    "PATRONI_REPLICATION_USERNAME",
                    "PATRONI_REPLICATION_PASSWORD",
                    "replicator",
                ),
            },
            parameters: parameters(&postgresql.parameters),
            hba: postgresql.pg_hba,
            tags: file.tags,
            own: file.mrg,
        })
    }

    /// `failover_priority`, or `None` if the tags forbid this member to lead.
    pub fn priority(&self) -> Option<i32> {
        let forbidden = matches!(self.tags.get("nofailover"), Some(Value::Bool(true)));
        let priority = self
            .tags
            .get("failover_priority")
            .and_then(Value::as_i64)
            .unwrap_or(1);
        (!forbidden && priority > 0).then(|| i32::try_from(priority).unwrap_or(i32::MAX))
    }

    /// The path of one of PostgreSQL's programs.
    pub fn program(&self, name: &str) -> String {
        match &self.bin_directory {
            Some(directory) => directory.join(name).to_string_lossy().into_owned(),
            None => name.to_owned(),
        }
    }

    /// A path beside the data directory, for what must not be part of it.
    pub fn beside_data(&self, suffix: &str) -> PathBuf {
        let mut name = self
            .data_directory
            .file_name()
            .unwrap_or_default()
            .to_os_string();
        name.push(suffix);
        self.data_directory.with_file_name(name)
    }

    /// Where postgres puts its socket; only its own user may enter.
    pub fn socket_directory(&self) -> PathBuf {
        self.beside_data(".run")
    }

    /// Where the record of promises stands: on the data volume.
    pub fn promise_file(&self) -> PathBuf {
        self.beside_data(".promise")
    }

    /// Where this member's REST API is, as Patroni's keys have it.
    pub fn api_url(&self) -> String {
        format!("http://{}/patroni", self.rest_connect)
    }

    /// Where it is written down which cluster the data is of.
    pub fn system_file(&self) -> PathBuf {
        self.beside_data(".system")
    }

    /// Where the incarnation record stands.
    pub fn incarnation_file(&self) -> PathBuf {
        self.own
            .incarnation_file
            .clone()
            .unwrap_or_else(|| self.beside_data(".incarnation"))
    }
}

fn endpoints(etcd: &EtcdFile, from_environment: Option<String>) -> Result<Vec<String>, Error> {
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
    let protocol = etcd.protocol.as_deref().unwrap_or("http");
    Ok(hosts
        .into_iter()
        .map(|host| {
            if host.contains("://") {
                host
            } else {
                format!("{protocol}://{host}")
            }
        })
        .collect())
}

fn initdb_argument(value: &Value) -> Option<String> {
    match value {
        Value::String(flag) => Some(format!("--{flag}")),
        Value::Object(map) => map
            .iter()
            .next()
            .map(|(key, value)| format!("--{key}={}", parameter_text(value))),
        _ => None,
    }
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
        AgentConfig::from_file(serde_saphyr::from_str(text).unwrap(), &environment)
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
