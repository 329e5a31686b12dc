//! Reads the member's file again, for `POST /reload` and SIGHUP, as Patroni does.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{AgentConfig, Error as ConfigError};
use crate::context::Context;
use crate::rest::Ask;
use mrg_telemetry::chain;

/// Why nothing was reloaded. What was in force stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the file is refused, and nothing is reloaded: {0}")]
    File(#[from] ConfigError),
    #[error("the agent is stopping")]
    Stopping,
}

/// Reads the file. Returns what is for the agent's loop, and the settings that have changed and have
/// their effect only at the agent's next start.
pub(crate) async fn read(
    context: &Context,
) -> Result<(Box<AgentConfig>, Vec<&'static str>), Error> {
    let path = context.config.file.clone();
    let read = move || AgentConfig::load(&path, &std::env::vars().collect());
    let read = tokio::task::spawn_blocking(read).await;
    let new = read.map_err(|_| Error::Stopping)??;
    let needs_restart = context.config.needs_restart(&new);
    for found in &new.ignored {
        tracing::warn!(
            setting = found.setting,
            why = found.why,
            "a setting has no effect"
        );
    }
    tracing::info!(?needs_restart, "the file was read again");
    Ok((Box::new(new), needs_restart))
}

/// Reloads at every SIGHUP.
///
/// # Errors
/// If no handler can be installed.
pub(crate) fn on_hangup(context: Arc<Context>, asks: mpsc::Sender<Ask>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            match read(&context).await {
                // The receiver ends with the agent.
                Ok((new, _)) => drop(asks.send(Ask::Reload(new)).await),
                Err(error) => tracing::error!(error = chain(&error), "failed to reload"),
            }
        }
    });
    Ok(())
}
