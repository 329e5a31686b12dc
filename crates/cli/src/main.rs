//! `kubectl mrg`: status, blast radius, breakers, queues, switchover, for people.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = mrg_cli::Arguments::parse();
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("failed to set up TLS");
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("failed to start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(mrg_cli::run(arguments)) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {}", mrg_telemetry::chain(&error));
            ExitCode::FAILURE
        }
    }
}
