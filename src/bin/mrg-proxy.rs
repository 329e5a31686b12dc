//! The sidecar: `mrg-proxy FILE`.

use anyhow::Context;
use clap::{Parser, Subcommand};
use mrg_operator::proxy;

/// Makes a workload's calls to its dependencies, with timeouts, retries, breakers, providers in order and fallbacks.
#[derive(Parser)]
#[command(name = "mrg-proxy", version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Serve
    Run(proxy::Arguments),
    /// Check a configuration and end
    Check {
        /// The configuration, JSON or YAML
        file: std::path::PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Command::parse().action {
        Action::Check { file } => {
            let workload = proxy::validate(&file)?;
            println!("{} is a valid configuration for {workload}", file.display());
            Ok(())
        }
        Action::Run(arguments) => {
            mrg_operator::telemetry::start();
            rustls::crypto::ring::default_provider().install_default().map_err(|_| anyhow::anyhow!("TLS was set up twice"))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start the runtime")?;
            runtime.block_on(proxy::run(arguments))
        }
    }
}
