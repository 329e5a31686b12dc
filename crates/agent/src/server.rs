//! The local PostgreSQL server: its processes (through the fence), its files, its session.

mod provision;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::{mpsc, watch};

use crate::config::{AgentConfig, parameter_text};
use crate::fence::{self, Exit, Fence, Process};
use mrg_base::{MemberName, Moment, Position};
use mrg_dcs::DynamicConfig;
use mrg_election::sync::Names;
use mrg_election::{DataDirectory, Postgres, Standby, StartAs, WalReceiver};
use mrg_postgres::{
    self, Configuration, ConnectTo, Credentials, DataState, Look, RESERVED_PARAMETERS,
    Server as ServerFacts, Session, SessionSettings, conninfo, fork_of, look_at, timeline_at,
};

/// What went wrong with the local server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The fence did not do it.
    #[error(transparent)]
    Fence(#[from] fence::Error),
    /// A statement failed.
    #[error(transparent)]
    Session(#[from] mrg_postgres::Error),
    /// A file could not be written.
    #[error("failed to write {what}")]
    File {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A program failed.
    #[error("{program} ended with {exit}: {output}")]
    Program {
        /// Which.
        program: String,
        /// How.
        exit: Exit,
        /// The end of what it printed.
        output: String,
    },
    /// There is no room for what it would write.
    #[error("there is no room on the volume for what {program} writes: {output}")]
    NoSpace {
        /// Which.
        program: String,
        /// The end of what it printed.
        output: String,
    },
    /// It took too long.
    #[error("{0} took longer than it may")]
    Timeout(&'static str),
    /// The state is not the one that was expected.
    #[error("{0}")]
    State(String),
}

#[derive(Clone, Debug, Default)]
struct Running {
    program: u64,
    gone: bool,
}

#[derive(Default)]
struct Inner {
    running: Option<Running>,
    session: Option<Arc<Session>>,
    upstream: Option<MemberName>,
    broken_since: Option<Moment>,
    names: Names,
    floors: BTreeMap<String, u64>,
    dynamic: DynamicConfig,
    addresses: BTreeMap<MemberName, ConnectTo>,
    facts: Option<ServerFacts>,
    written: Option<Configuration>,
    vetting: Vetting,
    unusable: Option<String>,
    recorded: Option<u64>,
}

/// The user's parameters, as far as PostgreSQL itself has judged them.
#[derive(Default)]
struct Vetting {
    judged: Option<BTreeMap<String, String>>,
    good: BTreeMap<String, String>,
    refused: Option<String>,
}

/// The local server.
pub(crate) struct Server {
    config: Arc<AgentConfig>,
    major: Option<String>,
    fence: Fence,
    inner: Mutex<Inner>,
    exits: mpsc::UnboundedSender<()>,
    exited: watch::Sender<u64>,
}

/// Postgres may take this long to accept connections before starting counts as under way rather
/// than done.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// A statement on the local socket.
const STATEMENT_WITHIN: Duration = Duration::from_secs(3);
/// Between two looks at something that announces nothing.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

impl Server {
    /// A server that does not run yet. `exits` is told when the postmaster ends.
    pub(crate) fn new(
        config: Arc<AgentConfig>,
        fence: Fence,
        exits: mpsc::UnboundedSender<()>,
    ) -> Self {
        let major = major_of(&config.program("postgres"));
        Self {
            config,
            major,
            fence,
            inner: Mutex::new(Inner::default()),
            exits,
            exited: watch::Sender::new(0),
        }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.config.data_directory
    }

    fn log(&self, program: &str) -> PathBuf {
        self.config.beside_data(&format!(".{program}.log"))
    }

    fn socket_directory(&self) -> PathBuf {
        self.config.beside_data(".run")
    }

    /// What was last learned of the server besides its role.
    pub(crate) fn facts(&self) -> Option<ServerFacts> {
        self.inner().facts.clone()
    }

    /// Whether a postmaster of ours runs.
    pub(crate) fn is_running(&self) -> bool {
        self.inner()
            .running
            .as_ref()
            .is_some_and(|running| !running.gone)
    }

    /// Takes over the dynamic configuration and the members' addresses; reloads the server if that
    /// changes its files.
    pub(crate) async fn configure(
        &self,
        dynamic: &DynamicConfig,
        addresses: BTreeMap<MemberName, ConnectTo>,
    ) -> Result<(), Error> {
        {
            let mut inner = self.inner();
            inner.dynamic = dynamic.clone();
            inner.addresses = addresses;
        }
        if !self.is_running() {
            return Ok(());
        }
        self.vet().await?;
        self.rewrite().await
    }

    /// What PostgreSQL refuses of the user's parameters; the last good ones are in force then.
    pub(crate) fn refused_parameters(&self) -> Option<String> {
        self.inner().vetting.refused.clone()
    }

    fn wanted_parameters(&self) -> BTreeMap<String, String> {
        let dynamic = self.inner().dynamic.parameters();
        let mut parameters: BTreeMap<String, String> = dynamic
            .iter()
            .map(|(name, value)| (name.clone(), parameter_text(value)))
            .collect();
        parameters.extend(self.config.parameters.clone());
        parameters
    }

    /// Lets PostgreSQL itself judge the parameters before they reach the file that a restart would
    /// fail on.
    async fn vet(&self) -> Result<(), Error> {
        let parameters = self.wanted_parameters();
        if self.inner().vetting.judged.as_ref() == Some(&parameters)
            || look_at(self.data()) == DataState::Absent
        {
            return Ok(());
        }
        for name in parameters
            .keys()
            .filter(|name| RESERVED_PARAMETERS.contains(&name.as_str()))
        {
            let instead = if name == "synchronous_standby_names" {
                "; synchronous_mode: quorum is its ANY 1"
            } else {
                ""
            };
            tracing::warn!(
                parameter = name,
                "the agent sets this parameter itself; the value in the configuration has no effect{instead}"
            );
        }
        let candidate = Configuration {
            parameters: parameters.clone(),
            ..self.configuration()
        };
        let file = self.config.beside_data(".check.conf");
        // What initdb wrote is good; only the user's part is judged.
        let text = candidate
            .render()
            .replace("include 'postgresql.base.conf'", "");
        std::fs::write(&file, text).map_err(|source| Error::File {
            what: file.display().to_string(),
            source,
        })?;
        let arguments = [
            format!("--config-file={}", file.display()),
            format!("-D{}", self.data().display()),
            "-Cport".to_owned(),
        ];
        let judged = self.run_program("postgres", arguments.to_vec(), None).await;
        let mut inner = self.inner();
        inner.vetting.refused = match judged {
            Ok(()) => {
                inner.vetting.good.clone_from(&parameters);
                None
            }
            Err(Error::Program { output, .. }) => {
                tracing::error!(%output, "PostgreSQL refuses the parameters; the last good ones stay in force");
                Some(output)
            }
            Err(error) => return Err(error),
        };
        inner.vetting.judged = Some(parameters);
        Ok(())
    }

    fn configuration(&self) -> Configuration {
        let inner = self.inner();
        let me = &self.config.name;
        let primary_conninfo = inner
            .upstream
            .as_ref()
            .and_then(|name| inner.addresses.get(name))
            .map(|address| {
                let more = [
                    ("application_name", me.as_str()),
                    ("connect_timeout", "3"),
                    ("keepalives_idle", "5"),
                    ("keepalives_interval", "1"),
                    ("tcp_user_timeout", "5000"),
                    ("sslmode", "prefer"),
                ];
                conninfo(address, &self.config.authentication.replication, &more)
            });
        Configuration {
            cluster_name: self.config.scope.to_string(),
            listen: self.config.listen.host.clone(),
            port: self.config.listen.port,
            socket_directory: self.socket_directory(),
            parameters: inner.vetting.good.clone(),
            floors: inner.floors.clone(),
            hba: self.config.hba.clone().or_else(|| inner.dynamic.pg_hba()),
            authentication: self.config.authentication.clone(),
            synchronous_standby_names: inner.names.to_string(),
            primary_slot_name: if primary_conninfo.is_some() {
                me.slot_name()
            } else {
                String::new()
            },
            primary_conninfo: primary_conninfo.unwrap_or_default(),
        }
    }

    fn write_configuration(&self) -> Result<bool, Error> {
        let configuration = self.configuration();
        if self.inner().written.as_ref() == Some(&configuration) {
            return Ok(false);
        }
        let failed = |source| Error::File {
            what: "the configuration".to_owned(),
            source,
        };
        configuration.write(self.data()).map_err(failed)?;
        self.inner().written = Some(configuration);
        Ok(true)
    }

    async fn rewrite(&self) -> Result<(), Error> {
        if self.write_configuration()? {
            self.reload()?;
        }
        Ok(())
    }

    fn reload(&self) -> Result<(), Error> {
        let program = self.inner().running.as_ref().map(|running| running.program);
        program.map_or(Ok(()), |program| {
            self.fence
                .signal(program, Signal::SIGHUP)
                .map_err(Error::from)
        })
    }

    /// The session, opened if need be.
    pub(crate) async fn session(&self) -> Result<Arc<Session>, Error> {
        if let Some(session) = self
            .inner()
            .session
            .clone()
            .filter(|session| !session.is_closed())
        {
            return Ok(session);
        }
        let settings = SessionSettings {
            socket_directory: self.socket_directory(),
            port: self.config.listen.port,
            user: self.config.authentication.superuser.username.clone(),
            within: STATEMENT_WITHIN,
        };
        let session = Arc::new(Session::open(&settings).await?);
        self.inner().session = Some(session.clone());
        Ok(session)
    }

    async fn try_look(&self) -> Result<Look, Error> {
        let look = self.session().await?.look().await;
        if look.is_err() {
            self.inner().session = None;
        }
        let mut look = look?;
        if let Look::Replica(replica, _) = &mut look
            && !replica.streaming
            && let Some(flushed) = replica.flushed
        {
            // The server itself forgets the timeline that it received last.
            let on_disk = timeline_at(self.data(), flushed).unwrap_or_default();
            replica.timeline = replica.timeline.max(on_disk);
        }
        Ok(look)
    }

    /// Looks at the server and at its data directory.
    pub(crate) async fn look(&self) -> Postgres {
        if !self.is_running() {
            self.inner().facts = None;
            if self.is_half_rewound() {
                return Postgres::NoData;
            }
            return match look_at(self.data()) {
                DataState::Absent => Postgres::NoData,
                DataState::Present(control) => match self.misfit() {
                    None => {
                        self.inner().unusable = None;
                        Postgres::Stopped(DataDirectory {
                            unfinished: self.is_unfinished(),
                            ..control.data
                        })
                    }
                    Some(why) => self.leave_alone(why),
                },
                DataState::Unreadable(why) => self.leave_alone(why),
            };
        }
        match self.try_look().await {
            Ok(Look::Primary(primary, facts)) => {
                self.inner().facts = Some(facts);
                Postgres::Primary(primary)
            }
            Ok(Look::Replica(replica, facts)) => {
                let mut inner = self.inner();
                inner.facts = Some(facts);
                let receiver = match (&inner.upstream, replica.streaming) {
                    (None, _) => WalReceiver::Stopped,
                    (Some(_), true) => WalReceiver::Streaming,
                    (Some(_), false) => {
                        WalReceiver::Broken(*inner.broken_since.get_or_insert_with(mrg_clock::now))
                    }
                };
                if !matches!(receiver, WalReceiver::Broken(_)) {
                    inner.broken_since = None;
                }
                Postgres::Standby(Standby {
                    system_id: replica.system_id,
                    position: replica.flushed.map(|flushed| Position {
                        timeline: replica.timeline,
                        flushed,
                    }),
                    upstream: inner.upstream.clone(),
                    receiver,
                    fork: fork_of(self.data(), replica.timeline),
                })
            }
            Err(Error::Session(mrg_postgres::Error::Connect(_))) => Postgres::Starting,
            Err(error) => {
                tracing::debug!(%error, "postgres does not answer");
                Postgres::Unknown
            }
        }
    }

    /// Why the programs that are here cannot run on the data that is here.
    fn misfit(&self) -> Option<String> {
        let made_by = std::fs::read_to_string(self.data().join("PG_VERSION")).ok()?;
        let (made_by, programs) = (made_by.trim(), self.major.as_deref()?);
        (made_by != programs).then(|| {
            format!(
                "the data was made by PostgreSQL {made_by}, and the programs here are of {programs}; use an image with PostgreSQL {made_by}, or restore a dump into a new cluster"
            )
        })
    }

    fn leave_alone(&self, why: String) -> Postgres {
        if self.inner().unusable.replace(why.clone()).as_ref() != Some(&why) {
            tracing::error!(%why, directory = %self.data().display(), "the data directory cannot be used; it is left alone");
        }
        Postgres::Unknown
    }

    /// Why the data directory cannot be used, if so.
    pub(crate) fn unusable_data(&self) -> Option<String> {
        self.inner().unusable.clone()
    }

    /// How far the server has replayed and received, while in recovery.
    pub(crate) async fn replica(&self) -> Option<mrg_postgres::Replica> {
        match self.try_look().await {
            Ok(Look::Replica(replica, _)) => Some(replica),
            _ => None,
        }
    }

    /// Starts postgres. Returns when it accepts connections, when it ended, or when it is still
    /// busy after a while.
    pub(crate) async fn start(&self, as_: &StartAs) -> Result<(), Error> {
        if self.is_running() {
            return Err(Error::State("postgres runs already".to_owned()));
        }
        let writer = *as_ == StartAs::Primary;
        let floors = if writer {
            BTreeMap::new()
        } else {
            self.read_floors().await?
        };
        self.inner().floors = floors;
        self.vet().await?;
        self.prepare_start(as_)?;
        let process = Process {
            argv: vec![
                self.config.program("postgres"),
                "-D".to_owned(),
                self.data().to_string_lossy().into_owned(),
            ],
            env: vec![],
            log: None,
            writer,
            whole: true,
        };
        let (program, pid, exit) = self.fence.spawn(process).await?;
        tracing::info!(
            pid,
            role = if writer { "primary" } else { "standby" },
            "postgres started"
        );
        self.watch_exit(program, exit);
        let deadline = tokio::time::Instant::now() + START_PATIENCE;
        loop {
            if !self.is_running() {
                return Err(Error::State(
                    "postgres ended while starting; its log says why".to_owned(),
                ));
            }
            if self.try_look().await.is_ok() || tokio::time::Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(LOOK_AGAIN * 4).await;
        }
    }

    /// What the primary had at least, as of the last checkpoint that is here.
    async fn read_floors(&self) -> Result<BTreeMap<String, u64>, Error> {
        let data = self.data().to_string_lossy().into_owned();
        self.run_program("pg_controldata", vec![data], None).await?;
        Ok(mrg_postgres::floors(
            &std::fs::read_to_string(self.log("pg_controldata")).unwrap_or_default(),
        ))
    }

    fn prepare_start(&self, as_: &StartAs) -> Result<(), Error> {
        let file = |what: &str| {
            let what = what.to_owned();
            move |source| Error::File { what, source }
        };
        let socket = self.socket_directory();
        std::fs::create_dir_all(&socket).map_err(file("the socket directory"))?;
        let signal = self.data().join("standby.signal");
        {
            let mut inner = self.inner();
            inner.upstream = if let StartAs::Standby { upstream } = as_ {
                upstream.clone()
            } else {
                None
            };
            inner.broken_since = None;
            inner.written = None;
            inner.session = None;
        }
        match as_ {
            StartAs::Primary => remove_if_there(&signal).map_err(file("standby.signal"))?,
            StartAs::Standby { .. } => {
                std::fs::write(&signal, "").map_err(file("standby.signal"))?;
            }
        }
        // Left by a postmaster that was killed; the fence has shown that it is gone.
        remove_if_there(&self.data().join("postmaster.pid")).map_err(file("postmaster.pid"))?;
        self.write_configuration()?;
        Ok(())
    }

    fn watch_exit(&self, program: u64, exit: tokio::sync::oneshot::Receiver<Exit>) {
        self.inner().running = Some(Running {
            program,
            gone: false,
        });
        let exits = self.exits.clone();
        let exited = self.exited.clone();
        tokio::spawn(async move {
            if let Ok(exit) = exit.await {
                tracing::warn!(%exit, "the postmaster ended, and every process of it")
            } else {
                tracing::warn!("the fence ended, and postgres with it")
            }
            exited.send_replace(program);
            let _ = exits.send(());
        });
    }

    /// Must be called when `exits` was told something, before the next look.
    pub(crate) fn note_exit(&self) {
        let ended = *self.exited.borrow();
        let mut inner = self.inner();
        if let Some(running) = inner
            .running
            .as_mut()
            .filter(|running| running.program <= ended)
        {
            running.gone = true;
            inner.session = None;
        }
    }

    /// Shuts postgres down in order, within a time; a kill ends it otherwise. Gives the end of its
    /// WAL.
    pub(crate) async fn stop(&self, within: Duration) -> Result<Option<Position>, Error> {
        let program = self
            .inner()
            .running
            .as_ref()
            .filter(|running| !running.gone)
            .map(|running| running.program);
        if let Some(program) = program {
            let mut exited = self.exited.subscribe();
            self.fence.signal(program, Signal::SIGINT)?;
            let late = tokio::time::timeout(within, exited.wait_for(|ended| *ended >= program))
                .await
                .is_err();
            if late {
                tracing::warn!("postgres did not stop in time; killing it");
                self.kill().await?;
            }
            self.note_exit();
        }
        Ok(match look_at(self.data()) {
            DataState::Present(control) if control.data.clean => Some(Position {
                timeline: control.data.timeline,
                flushed: control.data.checkpoint,
            }),
            _ => None,
        })
    }

    /// Kills everything, and returns when nothing runs.
    pub(crate) async fn kill(&self) -> Result<(), Error> {
        let program = self
            .inner()
            .running
            .as_ref()
            .filter(|running| !running.gone)
            .map(|running| running.program);
        self.fence.kill().await?;
        if let Some(program) = program {
            let mut exited = self.exited.subscribe();
            let _ = tokio::time::timeout(
                Duration::from_secs(1),
                exited.wait_for(|ended| *ended >= program),
            )
            .await;
            let mut inner = self.inner();
            inner.running = None;
            inner.session = None;
        }
        Ok(())
    }

    /// Streams from this member from now on.
    pub(crate) async fn follow(&self, leader: &MemberName) -> Result<(), Error> {
        {
            let mut inner = self.inner();
            if !inner.addresses.contains_key(leader) {
                return Err(Error::State(format!(
                    "the address of {leader} is not known"
                )));
            }
            inner.upstream = Some(leader.clone());
            inner.broken_since = None;
        }
        self.rewrite().await
    }

    /// Ends the WAL receiver; returns when it has ended, with the end of durable WAL.
    pub(crate) async fn stop_receiver(&self, within: Duration) -> Result<Position, Error> {
        self.inner().upstream = None;
        self.rewrite().await?;
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let Look::Replica(replica, _) = self.try_look().await? else {
                return Err(Error::State("postgres is not in recovery".to_owned()));
            };
            if let (false, true, Some(flushed)) =
                (replica.receiver, replica.settled, replica.flushed)
            {
                return Ok(Position {
                    timeline: replica.timeline,
                    flushed,
                });
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::Timeout("ending the WAL receiver"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Sets `synchronous_standby_names`, and returns when every WAL sender acts on it, with where
    /// the server was then.
    pub(crate) async fn set_names(
        &self,
        names: &Names,
        within: Duration,
    ) -> Result<Position, Error> {
        self.inner().names = names.clone();
        self.rewrite().await?;
        let deadline = tokio::time::Instant::now() + within;
        loop {
            match self.try_look().await? {
                Look::Replica(replica, _) => {
                    return Ok(Position {
                        timeline: replica.timeline,
                        flushed: replica.flushed.unwrap_or_default(),
                    });
                }
                Look::Primary(primary, _) => {
                    let acted = self.session().await?.senders_act_on(names).await?;
                    if acted && primary.names.as_ref() == Some(names) {
                        // Later than every commit that was acknowledged under the old names.
                        return match self.try_look().await? {
                            Look::Primary(primary, _) => Ok(primary.position),
                            Look::Replica(..) => {
                                Err(Error::State("postgres went into recovery".to_owned()))
                            }
                        };
                    }
                }
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(Error::Timeout("changing synchronous_standby_names"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Leaves recovery; returns when writes are accepted.
    pub(crate) async fn promote(&self) -> Result<Position, Error> {
        if !self.fence.is_armed() {
            return Err(Error::State("the lease's deadline has passed".to_owned()));
        }
        let session = self.session().await?;
        session
            .execute("promote", "SELECT pg_promote(false)", STATEMENT_WITHIN)
            .await?;
        loop {
            if let Look::Primary(primary, _) = self.try_look().await? {
                {
                    let mut inner = self.inner();
                    inner.upstream = None;
                    inner.floors.clear();
                }
                // What was held up by the floors shows as pending from now on.
                self.rewrite().await?;
                return Ok(primary.position);
            }
            if !self.fence.is_armed() {
                return Err(Error::Timeout("the promotion"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Writes a checkpoint.
    pub(crate) async fn checkpoint(&self, within: Duration) -> Result<(), Error> {
        Ok(self
            .session()
            .await?
            .execute("write a checkpoint", "CHECKPOINT", within)
            .await?)
    }

    /// Runs one of PostgreSQL's programs to its end.
    async fn run_program(
        &self,
        program: &str,
        arguments: Vec<String>,
        password: Option<&Credentials>,
    ) -> Result<(), Error> {
        let log = self.log(program);
        let _ = std::fs::remove_file(&log);
        let mut argv = vec![self.config.program(program)];
        argv.extend(arguments);
        let env = password
            .map(|user| vec![("PGPASSWORD".to_owned(), user.password.clone())])
            .unwrap_or_default();
        let process = Process {
            argv,
            env,
            log: Some(log.clone()),
            writer: false,
            whole: false,
        };
        let (_, _, exit) = self.fence.spawn(process).await?;
        let exit = exit.await.map_err(|_| fence::Error::Gone)?;
        if exit.is_success() {
            return Ok(());
        }
        let output = std::fs::read_to_string(&log).unwrap_or_default();
        let tail: Vec<&str> = output.lines().rev().take(4).collect();
        let output = tail.into_iter().rev().collect::<Vec<_>>().join(" | ");
        if output.contains("No space left on device") {
            return Err(Error::NoSpace {
                program: program.to_owned(),
                output,
            });
        }
        Err(Error::Program {
            program: program.to_owned(),
            exit,
            output,
        })
    }
}

/// The major version that `postgres --version` tells: `postgres (PostgreSQL) 17.6 (Debian 17.6-1)`.
fn major_of(program: &str) -> Option<String> {
    let output = std::process::Command::new(program)
        .arg("--version")
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(version.chars().take_while(char::is_ascii_digit).collect())
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
