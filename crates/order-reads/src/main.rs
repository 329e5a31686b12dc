//! The order query service: `mrg-orders serve | schema | archive`.

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Answers what became of orders, without troubling the leader for those that have ended.
#[derive(Parser)]
#[command(name = "mrg-orders", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve
    Serve(#[command(flatten)] Box<mrg_order_reads::ServeOptions>),
    /// Print the schema, or apply it
    Schema(#[command(flatten)] Box<mrg_order_reads::SchemaOptions>),
    /// Move orders that ended long ago to the archive, and end
    Archive(#[command(flatten)] mrg_order_reads::ArchiveOptions),
}

fn main() -> anyhow::Result<()> {
    mrg_bounds::abort_unless_contained();
    let arguments = Arguments::parse();
    mrg_telemetry::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(async {
        match arguments.command {
            Command::Serve(options) => mrg_order_reads::serve(*options).await,
            Command::Schema(options) => schema(&options).await,
            Command::Archive(options) => {
                let moved = mrg_order_reads::archive(&options).await?;
                tracing::info!(
                    orders = moved.orders,
                    parts = moved.parts,
                    changed = moved.changed,
                    "archived"
                );
                Ok(())
            }
        }
    })
}

async fn schema(options: &mrg_order_reads::SchemaOptions) -> anyhow::Result<()> {
    match (options.apply, &options.owner_dsn) {
        (true, Some(owner)) => {
            let roles = options.roles_dsn.as_deref();
            mrg_order_reads::apply_schema(owner, roles, &options.passwords).await?;
        }
        _ => print!("{}", mrg_order_reads::schema_text()),
    }
    Ok(())
}
