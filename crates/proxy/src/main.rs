//! The sidecar: `mrg-proxy FILE`.

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Makes a workload's calls to its dependencies, with timeouts, retries, breakers, providers in
/// order and fallbacks.
#[derive(Parser)]
#[command(name = "mrg-proxy", version)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Serve
    Run(mrg_proxy::Arguments),
    /// Tell the proxy in this pod that the pod is about to stop: callers are served, and sent
    /// elsewhere for their next request
    Drain {
        /// Where it is administrated
        #[arg(long, default_value = "http://127.0.0.1:15021")]
        admin: String,
        /// The file with the token for changing things
        #[arg(long)]
        token_file: std::path::PathBuf,
    },
    /// Check a configuration and end
    Check {
        /// The configuration, JSON or YAML
        file: std::path::PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    mrg_bounds::abort_unless_contained();
    match Command::parse().action {
        Action::Check { file } => {
            let workload = mrg_proxy::validate(&file)?;
            println!("{} is a valid configuration for {workload}", file.display());
            Ok(())
        }
        Action::Drain { admin, token_file } => runtime()?.block_on(drain(&admin, &token_file)),
        Action::Run(arguments) => {
            mrg_telemetry::start();
            runtime()?.block_on(mrg_proxy::run(arguments))
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("TLS was set up twice"))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")
}

async fn drain(admin: &str, token_file: &std::path::Path) -> anyhow::Result<()> {
    let token = std::fs::read_to_string(token_file)
        .with_context(|| format!("unable to read {}", token_file.display()))?;
    let client = reqwest::Client::builder()
        .timeout(std::time::Duration::from_secs(5))
        .no_proxy()
        .build()?;
    let answer = client
        .put(format!("{admin}/drain"))
        .bearer_auth(token.trim_end())
        .send()
        .await;
    answer
        .and_then(reqwest::Response::error_for_status)
        .with_context(|| format!("the proxy at {admin} was not told to drain"))?;
    Ok(())
}
