//! `kubectl mrg`: status, blast radius, breakers, queues, switchover, for people.

use std::process::ExitCode;

use clap::Parser;
use mrg_operator::{cli, telemetry};

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("failed to set up TLS");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("failed to start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(cli::run(arguments)) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", telemetry::chain(&error));
            ExitCode::FAILURE
        }
    }
}
