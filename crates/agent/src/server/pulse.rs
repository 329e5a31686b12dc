//! What a client of the leader does: connect, and commit.

use std::time::Duration;

use crate::server::Server;
use mrg_postgres::Error;

/// A record in the WAL that nothing reads; with it the commit has something to bring to the disk.
const COMMIT: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'mrg', '')";

impl Server {
    /// Whether the running server was seen to be a primary.
    pub(crate) fn has_led(&self) -> bool {
        self.observation.read(|known| known.primary.is_some())
    }

    /// Opens a new connection and commits, both within `timeout` each. Where the server says that it has no
    /// place for another session, it lets others work: then the commit is tried in the shared
    /// session, and without one nothing more is asked. The commit waits for the local disk only.
    pub(crate) async fn pulse(&self, timeout: Duration) -> Result<(), Error> {
        let session = match self.connection.open_another(timeout).await {
            Ok(session) => session,
            Err(error) if error.is_full() => match self.connection.current() {
                Some(session) => session,
                None => return Ok(()),
            },
            Err(error) => {
                // A server that served and admits no new session is shutting down, and a smart
                // shutdown waits for every session: ours must not be what it waits for.
                if error.is_not_accepting() && self.has_led() {
                    self.connection.close();
                }
                return Err(error);
            }
        };
        session.execute("commit a pulse", COMMIT, timeout).await
    }
}
