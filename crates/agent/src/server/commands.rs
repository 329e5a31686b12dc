//! Steps of the election that act on the local server.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::fence::Process;
use crate::server::connection::STATEMENT_TIMEOUT;
use crate::server::provisioning::remove_if_there;
use crate::server::{Error, Server, programs};
use mrg_base::{MemberName, Position};
use mrg_election::StartAs;
use mrg_election::sync::Names;
use mrg_postgres::{DataState, Probe};

/// Postgres may take this long to accept connections before starting counts as under way rather
/// than done.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two probes for a change that postgres does not announce.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

impl Server {
    /// Starts postgres. Returns when it accepts connections, when it has ended, or when it is still
    /// busy after [`START_TIMEOUT`].
    pub(crate) async fn start(&self, role: &StartAs) -> Result<(), Error> {
        if self.is_running() {
            return Err(Error::state("postgres runs already"));
        }
        self.disk.answers().await?;
        let writer = *role == StartAs::Primary;
        let minimums = if writer {
            BTreeMap::new()
        } else {
            self.read_minimums().await?
        };
        self.settings
            .change(|settings| settings.set_minimums(minimums));
        self.read_mounted().await;
        self.validate().await?;
        self.prepare_start(role)?;
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
        let pid = self.postmaster.start(process).await?;
        let role = if writer { "primary" } else { "standby" };
        tracing::info!(pid, role, "postgres started");
        self.await_start().await
    }

    async fn await_start(&self) -> Result<(), Error> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if !self.is_running() {
                let why = programs::reason_of_end(&self.postmaster.log_end());
                return Err(Error::state(format!(
                    "postgres ended while starting: {why}"
                )));
            }
            if self.query().await.is_ok() || Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL * 4).await;
        }
    }

    /// The minimum standby settings: what the primary had at the last checkpoint in the data.
    async fn read_minimums(&self) -> Result<BTreeMap<String, u64>, Error> {
        let program = "pg_controldata";
        let data = self.data().to_string_lossy().into_owned();
        programs::run(&self.config, &self.fence, program, vec![data]).await?;
        let printed = std::fs::read_to_string(programs::log(&self.config, program));
        Ok(mrg_postgres::minimum_standby_settings(
            &printed.unwrap_or_default(),
        ))
    }

    fn prepare_start(&self, role: &StartAs) -> Result<(), Error> {
        self.clear_locks()?;
        std::fs::create_dir_all(self.config.socket_directory())
            .map_err(Error::file("the socket directory"))?;
        self.write_passfile()?;
        let upstream = match role {
            StartAs::Primary => None,
            StartAs::Standby { upstream } => upstream.clone(),
        };
        self.settings.change(|settings| {
            settings.set_upstream(upstream, mrg_clock::now(), 0);
            settings.forget_written();
        });
        self.connection.close();
        let signal = self.data().join("standby.signal");
        match role {
            StartAs::Primary => remove_if_there(&signal),
            StartAs::Standby { .. } => std::fs::write(&signal, ""),
        }
        .map_err(Error::file("standby.signal"))?;
        self.write_configuration()?;
        Ok(())
    }

    /// Shuts postgres down ("fast"), and kills it if that takes longer than `timeout`. Gives the end
    /// of its WAL if it was shut down cleanly, now or before.
    pub(crate) async fn stop(&self, timeout: Duration) -> Result<Option<Position>, Error> {
        self.postmaster.stop(timeout).await?;
        self.note_exit();
        self.connection.close();
        Ok(match DataState::read(self.data()) {
            DataState::Present(control) if control.data.clean => Some(Position {
                timeline: control.data.timeline,
                flushed: control.data.checkpoint,
            }),
            _ => None,
        })
    }

    /// Kills every process that the fence runs, in whatever state the postmaster is: see
    /// [`Postmaster::kill`](super::process::Postmaster::kill). Returns when nothing runs.
    pub(crate) async fn kill(&self) -> Result<(), Error> {
        self.postmaster.kill().await?;
        self.connection.close();
        Ok(())
    }

    /// Kills what is left of a server that has ended.
    ///
    /// # Guarantees
    /// On success no process of a server runs on the data directory, not even one that this agent
    /// did not start.
    pub(crate) async fn leave_nothing(&self) -> Result<(), Error> {
        self.kill().await?;
        self.refuse_living_server()
    }

    /// Streams from this member from now on.
    pub(crate) async fn follow(&self, leader: &MemberName) -> Result<(), Error> {
        self.address(leader)?;
        let printed = self.postmaster.output().await?.bytes;
        self.settings.change(|settings| {
            settings.set_upstream(Some(leader.clone()), mrg_clock::now(), printed);
        });
        self.rewrite()
    }

    /// Ends the WAL receiver; returns when it has ended, with the end of durable WAL.
    pub(crate) async fn stop_receiver(&self, timeout: Duration) -> Result<Position, Error> {
        self.settings
            .change(|settings| settings.set_upstream(None, mrg_clock::now(), 0));
        self.rewrite()?;
        poll(timeout, "ending the WAL receiver", || async {
            let Probe::Replica(replica, _) = self.query().await? else {
                return Err(Error::state("postgres is not in recovery"));
            };
            let ended = !replica.receiver && replica.settled;
            Ok(replica.flushed.filter(|_| ended).map(|flushed| Position {
                timeline: replica.timeline,
                flushed,
            }))
        })
        .await
    }

    /// Sets `synchronous_standby_names`, and returns when every WAL sender acts on it, with where
    /// the server was then.
    pub(crate) async fn set_names(
        &self,
        names: &Names,
        timeout: Duration,
    ) -> Result<Position, Error> {
        self.settings.change(|settings| {
            settings.set_names(names.clone());
            // What is in force may come from elsewhere than the file that was written last.
            settings.forget_written();
        });
        self.rewrite()?;
        poll(timeout, "changing synchronous_standby_names", || {
            self.position_under(names)
        })
        .await
    }

    /// Where the server is, if every WAL sender acts on these names; a standby has none.
    async fn position_under(&self, names: &Names) -> Result<Option<Position>, Error> {
        let primary = match self.query().await? {
            Probe::Primary(primary, _) => primary,
            Probe::Replica(replica, _) => {
                return Ok(Some(Position {
                    timeline: replica.timeline,
                    flushed: replica.flushed.unwrap_or_default(),
                }));
            }
        };
        let acted = self.session().await?.senders_act_on(names).await?;
        if !acted || primary.names.as_ref() != Some(names) {
            return Ok(None);
        }
        // Later than every commit that was acknowledged under the old names.
        match self.query().await? {
            Probe::Primary(primary, _) => Ok(Some(primary.position)),
            Probe::Replica(..) => Err(Error::state("postgres went into recovery")),
        }
    }

    /// Leaves recovery; returns when writes are accepted. Only while the fence is armed.
    pub(crate) async fn promote(&self) -> Result<Position, Error> {
        if !self.fence.is_armed() {
            return Err(Error::state("the lease's deadline has passed"));
        }
        let session = self.session().await?;
        session
            .execute("promote", "SELECT pg_promote(false)", STATEMENT_TIMEOUT)
            .await?;
        loop {
            if let Probe::Primary(primary, _) = self.query().await? {
                self.settings.change(|settings| {
                    settings.set_upstream(None, mrg_clock::now(), 0);
                    settings.set_minimums(BTreeMap::new());
                });
                // Parameters that were held up by the minimums wait for a restart from now on.
                self.rewrite()?;
                return Ok(primary.position);
            }
            if !self.fence.is_armed() {
                return Err(Error::Timeout("the promotion"));
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Writes a checkpoint.
    pub(crate) async fn checkpoint(&self, timeout: Duration) -> Result<(), Error> {
        let session = self.session().await?;
        Ok(session
            .execute("write a checkpoint", "CHECKPOINT", timeout)
            .await?)
    }
}

/// Repeats an attempt until it gives something. At least one attempt is made.
async fn poll<T, F: Future<Output = Result<Option<T>, Error>>>(
    timeout: Duration,
    operation: &'static str,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(done) = attempt().await? {
            return Ok(done);
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout(operation));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
