//! The structure of `patroni.yml`, and how the environment wins over it. [`super::audit`] judges
//! what is not read here.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::owners::check_owners;
use crate::config::parameters::{CodeSource, of_file, parameter_text};
use crate::config::slots::check_slots;
use crate::config::{AgentConfig, Error, Listen, Mounted, Own, audit};
use mrg_base::{Address, InvalidAddress, InvalidName, MemberName, Scope};
use mrg_dcs::{DynamicConfig, settings, tags};
use mrg_postgres::{Authentication, Credentials, fits_passfile};

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
    pgpass: Option<PathBuf>,
    parameters: Map<String, Value>,
    pg_hba: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthenticationFile {
    superuser: Option<Credentials>,
    replication: Option<Credentials>,
    rewind: Option<Credentials>,
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
    "PATRONI_POSTGRESQL_PGPASS",
    "PATRONI_SUPERUSER_USERNAME",
    "PATRONI_SUPERUSER_PASSWORD",
    "PATRONI_REPLICATION_USERNAME",
    "PATRONI_REPLICATION_PASSWORD",
    "PATRONI_REWIND_USERNAME",
    "PATRONI_REWIND_PASSWORD",
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
        // Without the lines around it, which may be those with the passwords.
        message: error.without_snippet().to_string(),
    };
    let content: Option<Map<String, Value>> = serde_saphyr::from_str(text).map_err(wrong)?;
    let content = content.unwrap_or_default();
    let file: Result<File, Error> = serde_saphyr::from_str(text).map_err(wrong);
    let own = file.as_ref().map(|file| file.mrg.code_source());
    let code = own.unwrap_or(CodeSource::MemberFile);
    let audit = audit::file(&content, environment, VARIABLES, code);
    let refused = [audit.refused, audit.executing].concat();
    if !refused.is_empty() {
        return Err(Error::Unsupported {
            path: path.to_owned(),
            settings: refused,
        });
    }
    let file = file?;
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
    check_slots(&config.name, &config.bootstrap)?;
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
    let mut authentication = authentication(postgresql.authentication, env);
    let mut rest_credentials = rest.credentials;
    let mounted = Mounted::new(file.mrg.secret_directory.clone());
    mounted.fill(&mut authentication, rest_credentials.as_mut());
    check_credentials(&authentication, rest_credentials.as_ref())?;
    check_owners(&file.mrg.databases, &authentication)?;
    let etcd = file.etcd3.or(file.etcd).unwrap_or_default();
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
        rest_credentials,
        etcd_endpoints: endpoints(&etcd, env)?,
        etcd_user: etcd_user(etcd, env),
        bootstrap: DynamicConfig(file.bootstrap.dcs),
        initdb: initdb_arguments(&file.bootstrap.initdb),
        listen,
        connect,
        data_directory: absolute(PathBuf::from(data)),
        bin_directory: env
            .get("PATRONI_POSTGRESQL_BIN_DIR")
            .map(PathBuf::from)
            .or(postgresql.bin_dir),
        authentication,
        pgpass: env
            .get("PATRONI_POSTGRESQL_PGPASS")
            .map(PathBuf::from)
            .or(postgresql.pgpass)
            .map(absolute),
        parameters: of_file(&postgresql.parameters).0,
        hba: postgresql.pg_hba,
        tags: file.tags,
        warnings: file.mrg.warnings(),
        own: file.mrg,
        ignored: Vec::new(),
    })
}

/// Postgres runs in its data directory, where a relative path would mean another file.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
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
    // What is missing may be mounted, or else is found missing.
    let username = env.get("PATRONI_RESTAPI_USERNAME");
    let password = env.get("PATRONI_RESTAPI_PASSWORD");
    let is_set = username.is_some() || password.is_some() || file.authentication.is_some();
    let credentials = is_set.then(|| {
        let file = file.authentication.unwrap_or_default();
        Credentials {
            username: username.unwrap_or(file.username),
            password: password.unwrap_or(file.password),
        }
    });
    Ok(Rest {
        listen,
        connect,
        credentials,
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

fn etcd_user(etcd: EtcdFile, env: &Environment<'_>) -> Option<Credentials> {
    let user = env.get("PATRONI_ETCD3_USERNAME").or(etcd.username);
    let password = env.get("PATRONI_ETCD3_PASSWORD").or(etcd.password);
    user.zip(password)
        .map(|(username, password)| Credentials { username, password })
}

fn authentication(file: AuthenticationFile, env: &Environment<'_>) -> Authentication {
    let rewind = file.rewind.is_some() || env.get("PATRONI_REWIND_USERNAME").is_some();
    Authentication {
        superuser: env.credentials(file.superuser, "SUPERUSER", "postgres"),
        replication: env.credentials(file.replication, "REPLICATION", "replicator"),
        rewind: rewind.then(|| env.credentials(file.rewind, "REWIND", "rewind_user")),
    }
}

/// Refuses what libpq could not read, and a REST API that anybody could use.
fn check_credentials(
    authentication: &Authentication,
    rest: Option<&Credentials>,
) -> Result<(), Error> {
    let unfit =
        |role: &&Credentials| !fits_passfile(&role.username) || !fits_passfile(&role.password);
    if let Some(role) = authentication.roles().find(unfit) {
        return Err(Error::Unprintable {
            role: role.username.escape_debug().to_string(),
        });
    }
    let missing = |field, variable| Err(Error::Missing { field, variable });
    match rest {
        Some(rest) if rest.username.is_empty() => missing(
            "restapi.authentication.username",
            "PATRONI_RESTAPI_USERNAME",
        ),
        Some(rest) if rest.password.is_empty() => missing(
            "restapi.authentication.password",
            "PATRONI_RESTAPI_PASSWORD",
        ),
        _ => Ok(()),
    }
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
mod tests;
