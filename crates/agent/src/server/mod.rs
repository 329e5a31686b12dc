//! The local PostgreSQL server: its processes (through the fence), its files, its session.
//!
//! Each subject has its own state, in a module of its own: the postmaster ([`process`]), the shared
//! session ([`connection`]), what the files follow from ([`settings`]), what the probes found
//! ([`observation`]), and what is recorded beside the data ([`data_record`]). Each lock
//! is held for one closure ([`guarded`]); none is taken within another.

mod commands;
mod connection;
mod data_record;
mod disk;
mod executable;
mod guarded;
mod memory;
mod observation;
mod passfile;
mod place;
mod probe;
mod process;
mod programs;
mod provisioning;
mod pulse;
mod receiver;
mod reconfigure;
mod remote;
mod settings;
mod sift;
mod tablespaces;
mod trial;
mod validation;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::mpsc;

use crate::config::AgentConfig;
use crate::credentials::OwnCredentials;
use crate::fence::{self, Exit, Fence};
use connection::{Connection, STATEMENT_TIMEOUT};
use data_record::Recorded;
use disk::Disk;
use guarded::Guarded;
use mrg_base::{Address, MemberName};
use mrg_postgres::{ServerFacts, Session};
use observation::Known;
use place::Place;
use process::Postmaster;
use settings::Settings;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Fence(#[from] fence::Error),
    #[error(transparent)]
    Session(#[from] mrg_postgres::Error),
    #[error("failed to write {what}")]
    File {
        what: String,
        source: std::io::Error,
    },
    /// `output` is the end of what the program printed.
    #[error("{program} ended with {exit}: {output}")]
    Program {
        program: String,
        exit: Exit,
        output: String,
    },
    #[error("unable to log in to the server at {address} as {user}")]
    Login {
        address: Address,
        user: String,
        source: tokio_postgres::Error,
    },
    #[error("there is no room on the volume for what {program} writes: {output}")]
    NoSpace { program: String, output: String },
    #[error("the volume of the data takes no writes; waiting until it does")]
    DiskHangs,
    #[error("{0} took longer than it may")]
    Timeout(&'static str),
    #[error("the address of {0} is not known")]
    NoAddress(MemberName),
    #[error("unable to connect to {address}")]
    Dial {
        address: Address,
        source: std::io::Error,
    },
    /// The server, or another member's, is not in the state that the operation needs.
    #[error("{0}")]
    State(String),
}

impl Error {
    fn file(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File {
            what: what.to_string(),
            source,
        }
    }

    pub(crate) fn state(text: impl Into<String>) -> Self {
        Self::State(text.into())
    }
}

pub(crate) struct Server {
    config: Arc<AgentConfig>,
    credentials: Arc<OwnCredentials>,
    /// The major version of the installed programs; `None` if it cannot be determined.
    major: Option<String>,
    fence: Fence,
    postmaster: Postmaster,
    connection: Connection,
    disk: Disk,
    settings: Guarded<Settings>,
    /// Held while PostgreSQL is asked about parameters.
    trial: tokio::sync::Mutex<()>,
    observation: Guarded<Known>,
    recorded: Recorded,
    /// What a copy replaced may be there still.
    keeps_replaced: AtomicBool,
}

impl Server {
    /// A server that does not run yet. `exits` receives a message for every postmaster that ends.
    pub(crate) fn new(
        config: Arc<AgentConfig>,
        credentials: Arc<OwnCredentials>,
        fence: Fence,
        exits: mpsc::UnboundedSender<()>,
    ) -> Self {
        let major = programs::major_version(&config);
        let place = Place::of_data(&config.data_directory);
        if place.is_fixed() {
            tracing::warn!(
                directory = %place.path().display(),
                "the data directory is a mount point; what the agent writes down beside it, as what this member has promised, is on another volume and must last as long: a directory within the mount point is the better place"
            );
        }
        Self {
            settings: Guarded::new(Settings::new(number(major.as_deref()))),
            trial: tokio::sync::Mutex::default(),
            major,
            postmaster: Postmaster::new(fence.clone(), exits),
            connection: Connection::new(&config),
            disk: Disk::new(place.alive()),
            config,
            credentials,
            fence,
            observation: Guarded::default(),
            recorded: Recorded::default(),
            // A former process may have left it.
            keeps_replaced: AtomicBool::new(true),
        }
    }

    fn major_number(&self) -> Option<u32> {
        number(self.major.as_deref())
    }

    pub(crate) fn data(&self) -> &Path {
        &self.config.data_directory
    }

    /// What the last probe found besides the role; `None` while no server runs.
    pub(crate) fn facts(&self) -> Option<ServerFacts> {
        self.observation.read(|known| known.facts.clone())
    }

    /// Why the data directory cannot be used, if so.
    pub(crate) fn unusable_data(&self) -> Option<String> {
        self.observation.read(|known| known.unusable.clone())
    }

    /// Why the WAL receiver does not stream, in the server's own words, if it should.
    pub(crate) fn receiver_error(&self) -> Option<String> {
        self.observation.read(|known| known.receiver_error.clone())
    }

    /// What the running server says as it refuses the agent's sessions, if it should not.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.observation.read(|known| known.refusal.clone())
    }

    /// Why PostgreSQL refuses the user's parameters, if it does. The last accepted ones are in force
    /// then.
    pub(crate) fn refused_parameters(&self) -> Option<String> {
        self.settings.read(Settings::refusal)
    }

    /// The version of the mounted settings that is in force, and why it is not the one that the
    /// dynamic configuration goes with, if so; `None` without such a file.
    pub(crate) fn mounted_settings(&self) -> Option<(String, Option<String>)> {
        self.config.own.executable_settings_file.as_ref()?;
        let found = self.settings.read(|settings| {
            let executable = settings.executable();
            (executable.version(), executable.difference())
        });
        Some((found.0.unwrap_or_else(|| "none".to_owned()), found.1))
    }

    /// Whether the mounted settings may still become those that the dynamic configuration goes with.
    pub(crate) fn awaits_settings(&self) -> bool {
        self.settings
            .read(|settings| settings.executable().awaits(mrg_clock::now()))
    }

    /// Whether a postmaster runs, as far as the agent's loop knows.
    pub(crate) fn is_running(&self) -> bool {
        self.postmaster.is_running()
    }

    /// Must be called for every message to `exits`, before the next probe.
    pub(crate) fn note_exit(&self) {
        if self.postmaster.note_exit() {
            self.connection.close();
        }
    }

    /// A session besides the shared one, for statements about roles: should another session hold a lock
    /// on them, neither the server is taken for one that does not answer, nor is the lock waited for.
    pub(crate) async fn roles_session(&self) -> Result<Arc<Session>, Error> {
        const LOCK_TIMEOUT: &str = "SET lock_timeout = '2s'";
        let session = self.connection.open_another(STATEMENT_TIMEOUT).await?;
        session
            .execute("limit the wait for locks", LOCK_TIMEOUT, STATEMENT_TIMEOUT)
            .await?;
        Ok(session)
    }

    /// The session, opened if need be.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, Error> {
        Ok(self.connection.session().await?)
    }
}

fn number(major: Option<&str>) -> Option<u32> {
    major?.parse().ok()
}
