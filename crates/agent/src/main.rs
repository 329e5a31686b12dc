//! PID 1 of a PostgreSQL pod, or a service on any host: `mrg-agent FILE`, as `patroni FILE`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use mrg_agent::AgentConfig;

const _: () = assert!(
    !mrg_election::mutant::COMPILED_IN,
    "the mutants of the proofs must not be compiled into a program that ships"
);

/// Keeps one PostgreSQL server part of a highly available cluster.
#[derive(Parser)]
#[command(name = "mrg-agent", version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration, in Patroni's format
    file: Option<PathBuf>,
    /// Check the configuration and end
    #[arg(long)]
    validate_config: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Own postgres for an agent, and kill it when the agent's lease cannot be proved; started by
    /// the agent itself
    #[command(hide = true)]
    Fence,
    /// Become a program that dies with the fence; started by the fence
    #[command(hide = true)]
    Run {
        /// The fence's process id
        fence: u32,
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        argv: Vec<std::ffi::OsString>,
    },
    /// Copy this program to a path; for init containers
    #[command(hide = true)]
    Install { path: PathBuf },
    /// Write the configuration of a managed etcd member; for init containers
    #[command(hide = true)]
    ConfigureEtcd { file: PathBuf },
}

fn main() -> anyhow::Result<()> {
    mrg_bounds::abort_unless_contained();
    let arguments = Arguments::parse();
    match (arguments.command, arguments.file) {
        (Some(Command::Fence), _) => mrg_agent::fence::run().context("the fence failed"),
        (Some(Command::Run { fence, argv }), _) => {
            Err(mrg_agent::fence::become_program(fence, &argv)).context("failed to run a program")
        }
        (Some(Command::Install { path }), _) => install(&path),
        (Some(Command::ConfigureEtcd { file }), _) => {
            runtime()?.block_on(mrg_agent::etcd_member::configure(&file))
        }
        (None, Some(file)) => start(&file, arguments.validate_config),
        (None, None) => anyhow::bail!(
            "no configuration file given; try `mrg-agent patroni.yml`, or `mrg-agent --help`"
        ),
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")
}

fn install(path: &std::path::Path) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("failed to find this program")?;
    std::fs::copy(&program, path)
        .with_context(|| format!("failed to copy to {}", path.display()))?;
    Ok(())
}

fn start(file: &std::path::Path, only_validate: bool) -> anyhow::Result<()> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let config = AgentConfig::load(file, &environment)?;
    if only_validate {
        for found in config.ignored.iter().chain(&config.warnings) {
            println!("warning: {found}");
        }
        println!(
            "{} is a valid configuration for member {} of {}",
            file.display(),
            config.name,
            config.scope
        );
        return Ok(());
    }
    mrg_telemetry::start();
    for ignored in &config.ignored {
        tracing::warn!(
            setting = ignored.setting,
            why = ignored.why,
            "a setting has no effect"
        );
    }
    for found in &config.warnings {
        tracing::warn!(
            setting = found.setting,
            why = found.why,
            "a setting weakens what protects this member"
        );
    }
    let runtime = runtime()?;
    let ended = runtime.block_on(mrg_agent::run(config));
    // A write to a disk that hangs would be waited for.
    runtime.shutdown_background();
    ended
}
