//! What an agent is told from outside etcd: `patroni.yml` and the `PATRONI_*` environment, as far as
//! this agent uses them.

mod audit;
mod changes;
mod file;
mod listen;
mod mounted;
mod owners;
mod parameters;
mod patroni_keys;
mod slots;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use mrg_base::{Address, InvalidAddress, InvalidName, MemberName, Scope, UnusableName};
use mrg_dcs::{DynamicConfig, InvalidConfig, tags};
use mrg_postgres::{Authentication, Credentials};

pub use audit::Finding;
pub(crate) use audit::{BOOTSTRAP_DCS, dynamic as audit_dynamic};
pub(crate) use listen::Listen;
pub(crate) use mounted::Mounted;
pub(crate) use parameters::{CodeSource, Parameters, of_file, of_store};
pub use patroni_keys::{Key, Place, Refusal, Support};

/// Why the configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("unable to read {path}")]
    Read {
        /// The configuration file.
        path: PathBuf,
        /// The error of the file system.
        source: std::io::Error,
    },
    /// The file is not YAML of the expected structure.
    #[error("{path}: {message}")]
    Parse {
        /// The configuration file.
        path: PathBuf,
        /// The parser's message, with line and column.
        message: String,
    },
    /// A required setting is missing.
    #[error("{field} is not set; give it in the file or as {variable}")]
    Missing {
        /// Its path in the file.
        field: &'static str,
        /// Its environment variable.
        variable: &'static str,
    },
    /// A name has characters that are not allowed in it.
    #[error("{field}: {source}")]
    Name {
        /// Its path in the file.
        field: &'static str,
        /// The rule that it breaks.
        source: InvalidName,
    },
    /// An address is not of the form `host:port`.
    #[error("{field}: `{value}` {source}")]
    Address {
        /// Its path in the file.
        field: &'static str,
        /// The value found there.
        value: String,
        /// What is wrong with it.
        source: InvalidAddress,
    },
    /// What is listened on does not say where others can connect.
    #[error(
        "{field} is not set, and others cannot dial `{listen}`; set this member's own address there or as {variable}"
    )]
    NotDialled {
        /// Its path in the file.
        field: &'static str,
        /// Its environment variable.
        variable: &'static str,
        /// What is listened on.
        listen: String,
    },
    /// Settings are there that would cost data or protection if they were ignored.
    #[error("{path} is refused for what mrg-agent does not support:{}", lines(.settings))]
    Unsupported {
        /// The configuration file.
        path: PathBuf,
        /// All of them.
        settings: Vec<Finding>,
    },
    /// An endpoint of etcd speaks TLS.
    #[error(
        "{field}: `{endpoint}` asks for TLS to etcd, which mrg-agent does not support; reach etcd through a local TLS tunnel or without TLS on the members' own network, and write http"
    )]
    EtcdTls {
        /// Its path in the file.
        field: &'static str,
        /// The endpoint.
        endpoint: String,
    },
    /// A tag that protects has a value without a meaning.
    #[error("tags.{name}: `{value}` is not {expected}; write {expected}")]
    Tag {
        /// The tag.
        name: String,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The dynamic configuration of a new cluster cannot be used.
    #[error("bootstrap.dcs: {0}")]
    Bootstrap(InvalidConfig),
    /// A role's name or password cannot stand in a passfile.
    #[error(
        "postgresql.authentication: the name or the password of `{role}` has a line break or a NUL in it, which libpq cannot read from a passfile; give it another"
    )]
    Unprintable {
        /// The role, escaped.
        role: String,
    },
    /// A database or its owner cannot be made.
    #[error("mrg.databases: {field} {source}")]
    Owner {
        /// `name` or `owner`.
        field: &'static str,
        /// The name, and why not.
        source: UnusableName,
    },
    /// Two members would take one replication slot from each other.
    #[error(
        "name: the members {one} and {other} have the same replication slot `{slot}`, which has lower-case letters, digits and _ only; rename one of them"
    )]
    SameSlot {
        /// A member.
        one: MemberName,
        /// Another.
        other: MemberName,
        /// The slot of both.
        slot: String,
    },
    /// The REST API listens on one address.
    #[error(
        "{field}: `{value}` names more than one address; the REST API listens on one, or on `*`"
    )]
    SeveralAddresses {
        /// Its path in the file.
        field: &'static str,
        /// The value found there.
        value: String,
    },
}

fn lines(settings: &[Finding]) -> String {
    let line = |finding: &Finding| format!("\n  {finding}");
    settings.iter().map(line).collect()
}

/// The section `mrg`: settings that Patroni does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Own {
    /// The incarnation record; in a pod on an `emptyDir`. Beside the data directory if `None`.
    pub incarnation_file: Option<PathBuf>,
    /// Kubernetes' `terminationMessagePath`.
    pub termination_message: Option<PathBuf>,
    /// Whether this process is PID 1 of a container: a former incarnation is then surely dead.
    pub container: bool,
    /// Databases to create when the cluster is bootstrapped.
    pub databases: Vec<Database>,
    /// A directory with passwords that change when they are rotated: the owners' as
    /// `<owner>-password`, and the agent's own as `superuser-password`, `replication-password`,
    /// `rewind-password` and `rest-password`, which win over the file and the environment.
    pub secret_directory: Option<PathBuf>,
    /// How long an orderly stop may take, in seconds; 30 if `None`. More than Kubernetes waits
    /// before it kills is pointless.
    pub stop_timeout: Option<u64>,
    /// Environment variables, besides the usual ones, that postgres and the commands that it runs
    /// inherit from the agent.
    pub environment: Vec<String>,
    /// A file with the settings that execute or load code, and their version. The operator mounts it;
    /// outside Kubernetes `postgresql.parameters` of the member's file has them.
    pub executable_settings_file: Option<PathBuf>,
    /// Whether settings that execute or load code are taken from the dynamic configuration, too, as
    /// Patroni does. Without effect beside `executable_settings_file`.
    pub executable_settings_from_dcs: bool,
}

impl Own {
    fn code_source(&self) -> CodeSource {
        match (
            &self.executable_settings_file,
            self.executable_settings_from_dcs,
        ) {
            (Some(_), _) => CodeSource::Mounted,
            (None, true) => CodeSource::Store,
            (None, false) => CodeSource::MemberFile,
        }
    }

    /// What its settings weaken.
    fn warnings(&self) -> Vec<Finding> {
        let from_store = self.code_source() == CodeSource::Store;
        let warning = from_store.then(|| Finding {
            setting: "mrg.executable_settings_from_dcs".to_owned(),
            why: "anyone who can write to etcd can run programs as the user of postgres on this member; restrict etcd, or move archive_command, shared_preload_libraries and the like to postgresql.parameters of each member's file and remove this setting".to_owned(),
        });
        warning.into_iter().collect()
    }
}

/// A database to create when the cluster is bootstrapped. `Debug` hides the password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Database {
    /// The name of the database.
    pub name: String,
    /// The role that owns it, created as well.
    pub owner: String,
    /// The owner's password.
    #[serde(default)]
    pub password: Option<String>,
    /// The environment variable that has the password if `password` is `None`.
    #[serde(default)]
    pub password_env: Option<String>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.name, self.owner)
    }
}

/// Everything an agent is told from outside etcd.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The file that this was read from.
    pub file: PathBuf,
    /// The cluster's name.
    pub scope: Scope,
    /// This member's name.
    pub name: MemberName,
    /// The first part of every etcd key.
    pub namespace: String,
    /// The address that the REST API listens on.
    pub rest_listen: Listen,
    /// The address at which other members reach the REST API.
    pub rest_connect: Address,
    /// What unsafe methods of the REST API require, if anything.
    pub rest_credentials: Option<Credentials>,
    /// `http://host:port` of every etcd endpoint; at least one.
    pub etcd_endpoints: Vec<String>,
    /// etcd's user and password.
    pub etcd_user: Option<Credentials>,
    /// The dynamic configuration of a new cluster.
    pub bootstrap: DynamicConfig,
    /// Further arguments for `initdb`.
    pub initdb: Vec<String>,
    /// `listen_addresses` and `port` of postgres.
    pub listen: Listen,
    /// The address at which others reach postgres.
    pub connect: Address,
    /// PostgreSQL's data directory. Paths beside it, on the same volume, must be free.
    pub data_directory: PathBuf,
    /// The directory of PostgreSQL's programs; they are looked up in `PATH` if `None`.
    pub bin_directory: Option<PathBuf>,
    /// The agent's roles in postgres.
    pub authentication: Authentication,
    /// The file from which libpq takes their passwords; see [`AgentConfig::passfile`].
    pub pgpass: Option<PathBuf>,
    /// Local parameters; they win over the dynamic ones.
    pub(crate) parameters: Parameters,
    /// Local lines of `pg_hba.conf`; they win over the dynamic ones.
    pub hba: Option<Vec<String>>,
    /// This member's tags.
    pub tags: Map<String, Value>,
    /// Settings that Patroni does not have.
    pub own: Own,
    /// Settings that have no effect.
    pub ignored: Vec<Finding>,
    /// Settings that weaken what protects the members.
    pub warnings: Vec<Finding>,
}

impl AgentConfig {
    /// Reads a file. The environment wins over it; settings without an effect are in
    /// [`AgentConfig::ignored`].
    ///
    /// # Errors
    /// If the file cannot be read, and as [`AgentConfig::parse`].
    pub fn load(path: &Path, environment: &BTreeMap<String, String>) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path, environment)
    }

    /// Reads the text of a file; `path` is for error messages.
    ///
    /// # Errors
    /// If it is not YAML of the expected structure, or a setting is missing or invalid, or is one that
    /// is not supported and must not be ignored.
    pub fn parse(
        text: &str,
        path: &Path,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        file::parse(text, path, environment)
    }

    /// Where settings that execute or load code are taken from.
    pub(crate) fn code_source(&self) -> CodeSource {
        self.own.code_source()
    }

    /// `failover_priority`, or `None` if the tags forbid this member to lead.
    pub fn priority(&self) -> Option<i32> {
        tags::priority(&self.tags)
    }

    /// The passwords that are mounted.
    pub(crate) fn mounted(&self) -> Mounted {
        Mounted::new(self.own.secret_directory.clone())
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

    /// The directory of postgres' socket; only its own user may enter.
    pub fn socket_directory(&self) -> PathBuf {
        self.beside_data(".run")
    }

    /// The file from which libpq takes the passwords of the agent's roles; beside the socket if the
    /// configuration names none.
    pub fn passfile(&self) -> PathBuf {
        let beside_socket = || self.socket_directory().join("pgpass");
        self.pgpass.clone().unwrap_or_else(beside_socket)
    }

    /// The record of promises, on the data volume.
    pub fn promise_file(&self) -> PathBuf {
        self.beside_data(".promise")
    }

    /// The URL of this member's REST API, as Patroni's keys have it.
    pub fn api_url(&self) -> String {
        format!("http://{}/patroni", self.rest_connect)
    }

    /// The record of which cluster the data is of.
    pub fn system_file(&self) -> PathBuf {
        self.beside_data(".system")
    }

    /// The record of how far etcd had come, on the data volume.
    pub fn dcs_file(&self) -> PathBuf {
        self.beside_data(".dcs")
    }

    /// The incarnation record.
    pub fn incarnation_file(&self) -> PathBuf {
        self.own
            .incarnation_file
            .clone()
            .unwrap_or_else(|| self.beside_data(".incarnation"))
    }
}
