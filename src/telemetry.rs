//! Logs: JSON lines where a machine reads them, plain text on a terminal. `RUST_LOG` filters.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error.
pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if std::io::stderr().is_terminal() || std::env::var_os("MRG_LOG_TEXT").is_some() {
        builder.init();
    } else {
        builder.json().flatten_event(true).init();
    }
}
