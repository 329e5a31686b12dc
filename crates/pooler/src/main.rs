//! PID 1 of a PgBouncer pod: `mrg-pooler FILE`.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use mrg_pooler::PoolerConfig;

const _: () = assert!(
    !mrg_election::mutant::COMPILED_IN,
    "a program that ships has none of the bugs of the proofs"
);

/// Keeps PgBouncer's connections on servers that are confirmed, and its clients waiting in between.
#[derive(Parser)]
#[command(name = "mrg-pooler", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration, JSON
    file: Option<PathBuf>,
    /// Check the configuration and end
    #[arg(long)]
    validate_config: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Copy this program to a path; for init containers
    #[command(hide = true)]
    Install { path: PathBuf },
}

fn main() -> anyhow::Result<()> {
    mrg_bounds::abort_unless_contained();
    let arguments = Arguments::parse();
    match (arguments.command, arguments.file) {
        (Some(Command::Install { path }), _) => {
            let program = std::env::current_exe().context("failed to find this program")?;
            std::fs::copy(&program, &path)
                .with_context(|| format!("failed to copy to {}", path.display()))?;
            Ok(())
        }
        (None, Some(file)) => {
            let config = PoolerConfig::load(&file, std::env::var("POD_NAME").ok())?;
            if arguments.validate_config {
                println!(
                    "{} is a valid configuration for the pool {}",
                    file.display(),
                    config.pool
                );
                return Ok(());
            }
            mrg_telemetry::start();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("failed to start the runtime")?;
            runtime.block_on(mrg_pooler::run(config))
        }
        (None, None) => anyhow::bail!(
            "no configuration file given; try `mrg-pooler pooler.json`, or `mrg-pooler --help`"
        ),
    }
}
