//! The session with the local server that commands and probes share.

use std::sync::Arc;
use std::time::Duration;

use crate::config::AgentConfig;
use crate::server::guarded::Guarded;
use mrg_postgres::{Error, Look, Session, SessionSettings};

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
                within: STATEMENT_TIMEOUT,
            },
            session: Guarded::default(),
        }
    }

    /// The open session, or a new one.
    pub(super) async fn session(&self) -> Result<Arc<Session>, Error> {
        let open = self.session.read(Clone::clone);
        if let Some(session) = open.filter(|session| !session.is_closed()) {
            return Ok(session);
        }
        let session = Arc::new(Session::open(&self.settings).await?);
        self.session
            .change(|shared| *shared = Some(session.clone()));
        Ok(session)
    }

    /// The next use opens a new session.
    pub(super) fn close(&self) {
        self.session.change(|session| *session = None);
    }

    /// Probes the server. A session that fails is not used again.
    pub(super) async fn look(&self) -> Result<Look, Error> {
        let look = self.session().await?.look().await;
        if look.is_err() {
            self.close();
        }
        look
    }
}
