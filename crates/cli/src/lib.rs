//! `kubectl mrg`: what the on-call asks first, on one screen, and the few things that people do by
//! hand.

mod ask;
mod breakers;
mod drill;
mod etcd;
mod forward;
mod queue;
mod rollout;
mod status;
mod switchover;
mod table;

use clap::{Parser, Subcommand};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

pub use breakers::Breakers;
pub use etcd::EtcdCommand;
pub use queue::QueueCommand;

/// The MRG platform: what serves, what fails, and what goes with it.
#[derive(Parser)]
#[command(name = "kubectl-mrg", bin_name = "kubectl mrg", version)]
pub struct Arguments {
    /// The context of the kubeconfig; the current one if not given
    #[arg(long, global = true)]
    context: Option<String>,
    /// The namespace; the context's own if not given
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The platform, its database, pools, breakers and changes, on one screen
    Status,
    /// What goes with each part that fails, and what holds it up
    Blast {
        /// Only this part, with the flows that it takes
        part: Option<String>,
        /// A Mermaid flowchart of the catalog's graph
        #[arg(long)]
        mermaid: bool,
    },
    /// Breakers: list them, force one open or closed for a time, release it
    #[command(subcommand)]
    Breakers(Breakers),
    /// Requests that wait for a dependency, or for a person to decide
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Changes that are being tried out; or says something to one: `kubectl mrg rollout fds
    /// promote`
    Rollout {
        /// The service
        #[arg(requires = "say")]
        service: Option<String>,
        /// What is said
        say: Option<rollout::Say>,
    },
    /// Kills a part on purpose, after asking, and says how long it was away
    Drill {
        /// A service, or `postgresql` for the leader
        part: String,
        /// Although something fails already
        #[arg(long)]
        anyway: bool,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
    /// The managed etcd of a PostgresCluster: shows it, or builds it again when its quorum is lost
    /// for good
    #[command(subcommand)]
    Etcd(EtcdCommand),
    /// Moves the lead of a PostgresCluster; clients of its pools are held meanwhile, and get no
    /// error
    Switchover {
        /// The PostgresCluster
        cluster: String,
        /// The member that is to lead; the best one if not given
        #[arg(long)]
        to: Option<String>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// What went wrong, for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No access.
    #[error("no access to Kubernetes; check the kubeconfig and --context")]
    Access(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A request failed.
    #[error("failed to {operation}")]
    Request {
        /// What was tried.
        operation: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// A pod could not be reached, or did not understand.
    #[error("failed to ask {pod}: {why}")]
    Pod {
        /// The pod.
        pod: String,
        /// Why.
        why: String,
    },
    /// What was asked for cannot be done.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    fn request(operation: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Request {
            operation,
            source: Box::new(source),
        }
    }
}

/// Where commands work.
struct Place {
    client: Client,
    namespace: String,
}

/// Runs a command; what it prints is the answer.
///
/// # Errors
/// With a way out in words.
pub async fn run(arguments: Arguments) -> Result<String, Error> {
    // The catalog's own graph needs nobody.
    if let Command::Blast { mermaid: true, .. } = arguments.command {
        return Ok(mrg_platform_catalog::blast_radius::mermaid(
            &mrg_platform_catalog::graph(&mrg_platform_catalog::PLATFORM),
        ));
    }
    let place = place(&arguments).await?;
    match arguments.command {
        Command::Status => status::status(&place).await,
        Command::Blast { part, .. } => status::blast(&place, part.as_deref()).await,
        Command::Breakers(command) => breakers::run(&place, command).await,
        Command::Queue(command) => queue::run(&place, command).await,
        Command::Rollout { service, say } => rollout::rollout(&place, service.zip(say)).await,
        Command::Etcd(command) => etcd::run(&place, command).await,
        Command::Drill { part, anyway, yes } => drill::drill(&place, &part, anyway, yes).await,
        Command::Switchover { cluster, to, yes } => {
            switchover::switchover(&place, &cluster, to.as_deref(), yes).await
        }
    }
}

async fn place(arguments: &Arguments) -> Result<Place, Error> {
    let options = KubeConfigOptions {
        context: arguments.context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = match Kubeconfig::read() {
        Ok(file) => kube::Config::from_custom_kubeconfig(file, &options)
            .await
            .map_err(|error| Error::Access(Box::new(error)))?,
        Err(_) if arguments.context.is_none() => kube::Config::infer()
            .await
            .map_err(|error| Error::Access(Box::new(error)))?,
        Err(error) => return Err(Error::Access(Box::new(error))),
    };
    let namespace = arguments
        .namespace
        .clone()
        .unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| Error::Access(Box::new(error)))?;
    Ok(Place { client, namespace })
}
