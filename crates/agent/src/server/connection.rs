//! The session with the local server that commands and probes share.

use std::sync::Arc;
use std::time::Duration;

use crate::config::AgentConfig;
use crate::server::guarded::Guarded;
use mrg_postgres::{Error, Probe, Session, SessionSettings};

/// A statement on the local socket, and the connection itself.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);

pub(super) struct Connection {
    settings: SessionSettings,
    session: Guarded<Option<Arc<Session>>>,
}

impl Connection {
    pub(super) fn new(config: &AgentConfig) -> Self {
        Self {
            settings: SessionSettings {
                socket_directory: config.socket_directory(),
                port: config.listen.port,
                user: config.authentication.superuser.username.clone(),
                timeout: STATEMENT_TIMEOUT,
            },
            session: Guarded::default(),
        }
    }

    /// The open session, or a new one.
    pub(super) async fn session(&self) -> Result<Arc<Session>, Error> {
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let session = Arc::new(Session::open(&self.settings).await?);
        self.session
            .change(|shared| *shared = Some(session.clone()));
        Ok(session)
    }

    /// The open session, if there is one.
    pub(super) fn current(&self) -> Option<Arc<Session>> {
        self.session
            .read(Clone::clone)
            .filter(|session| !session.is_closed())
    }

    /// A session besides the shared one. Opening it, and each of its statements, may take
    /// `timeout`.
    pub(super) async fn open_another(&self, timeout: Duration) -> Result<Arc<Session>, Error> {
        let settings = SessionSettings {
            timeout,
            ..self.settings.clone()
        };
        Ok(Arc::new(Session::open(&settings).await?))
    }

    /// The next use opens a new session.
    pub(super) fn close(&self) {
        self.session.change(|session| *session = None);
    }

    /// Probes the server. A session that fails is not used again.
    pub(super) async fn probe(&self) -> Result<Probe, Error> {
        let probe = self.session().await?.probe().await;
        if probe.is_err() {
            self.close();
        }
        probe
    }
}
