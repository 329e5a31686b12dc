//! The operator: reconciles the kinds of `mrg.bluebird.id`. Two replicas run; one of them works.

use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::middleware;
use axum::routing::get;
use clap::{Parser, Subcommand};
use mrg_kube_support::{Election, hold};
use mrg_operator::{admission, dashboard, kinds, metrics};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The watches' JSON is a flood of small allocations beside what stays: with the system's allocator
/// a third of the processor's time, and memory in pieces.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps the MRG platform alive when its parts fail.
#[derive(Parser)]
#[command(name = "mrg-operator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The image with the agent, for the init containers
    #[arg(
        long,
        env = "MRG_IMAGE",
        default_value = "localhost/mrg-operator:latest"
    )]
    image: String,
    /// When that image is pulled
    #[arg(long, env = "MRG_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    image_pull_policy: String,
    /// The priority class of database and etcd pods
    #[arg(long, env = "MRG_PRIORITY_CLASS")]
    priority_class: Option<String>,
    /// What the priority classes of services begin with: `mrg-` for `mrg-p0`, `mrg-p1`, `mrg-p2`
    #[arg(long, env = "MRG_TIER_PRIORITY_CLASSES")]
    tier_priority_classes: Option<String>,
    /// The namespace of the operator's own lease
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// This replica
    #[arg(long, env = "POD_NAME", default_value = "mrg-operator")]
    identity: String,
}

#[derive(Subcommand)]
enum Command {
    /// Print the custom resource definitions
    Crds,
}

fn main() -> anyhow::Result<()> {
    mrg_bounds::abort_unless_contained();
    let arguments = Arguments::parse();
    if matches!(arguments.command, Some(Command::Crds)) {
        for (_, text) in mrg_api::definition_files()? {
            print!("{text}");
        }
        return Ok(());
    }
    mrg_telemetry::start();
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok()
        .context("failed to set up TLS")?;
    // They resolve names. Each keeps memory of its own in the allocator: with 200 platforms' stores
    // there were 190 of them.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder
        .enable_all()
        .max_blocking_threads(16)
        .build()
        .context("failed to start the runtime")?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let client = kube::Client::try_default()
        .await
        .context("no access to Kubernetes; run in a pod, or set KUBECONFIG")?;
    let (state, mut election) = watch::channel(Election::Standby);
    let (stopping, stop) = watch::channel(false);
    let working = Working::default();
    tokio::spawn(serve_health(working.clone()));
    // Every replica shows the page: who looks is not to depend on which one works.
    tokio::spawn(serve(
        "0.0.0.0:8082",
        "the page is",
        dashboard::router(client.clone()),
    ));
    let image = kinds::service_resilience::inject::Image {
        name: arguments.image.clone(),
        pull_policy: arguments.image_pull_policy.clone(),
    };
    let resilience = std::sync::Arc::new(mrg_operator::cache(&client));
    tokio::spawn(serve_webhook(
        client.clone(),
        arguments.namespace.clone(),
        image.clone(),
        resilience.clone(),
    ));
    let holding = hold(
        client.clone(),
        arguments.namespace,
        "mrg-operator".to_owned(),
        arguments.identity,
        state,
        stop.clone(),
    );
    let holding = tokio::spawn(holding);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop_requested = async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    };
    tokio::pin!(stop_requested);
    tokio::select! {
        () = &mut stop_requested => {
            stopping.send_replace(true);
            let _ = tokio::time::timeout(Duration::from_secs(5), holding).await;
            return Ok(());
        }
        leading = election.wait_for(|state| *state == Election::Leading) => { leading.context("the election ended")?; }
    }
    tracing::info!("this replica works now");
    let settings = kinds::postgres_cluster::Settings {
        agent_image: arguments.image,
        agent_pull_policy: arguments.image_pull_policy,
        priority_class: arguments.priority_class.filter(|class| !class.is_empty()),
    };
    let services = kinds::order_service_set::Settings {
        sidecar: image,
        priority_classes: arguments
            .tier_priority_classes
            .filter(|prefix| !prefix.is_empty()),
    };
    let asked = || {
        let mut stop = stop.clone();
        async move {
            let _ = stop.wait_for(|stop| *stop).await;
        }
    };
    let shared = std::sync::Arc::new(mrg_operator::Shared::new(&client, resilience));
    let _ = working.set(shared.clone());
    let clusters = kinds::postgres_cluster::run(shared.clone(), settings.clone(), asked());
    let pools = kinds::pgbouncer_pool::run(shared.clone(), settings, asked());
    let resilience = kinds::service_resilience::run(shared.clone(), asked());
    let sets = kinds::order_service_set::run(shared, services, asked());
    let controller = tokio::spawn(async move {
        tokio::join!(clusters, pools, resilience, sets);
    });
    let lost = tokio::select! {
        () = &mut stop_requested => false,
        _ = election.wait_for(|state| *state == Election::Lost) => true,
    };
    anyhow::ensure!(
        !lost,
        "the operator's lease was lost; another replica works"
    );
    // First the work ends, then the lease is handed over.
    controller.abort();
    stopping.send_replace(true);
    let _ = tokio::time::timeout(Duration::from_secs(5), holding).await;
    Ok(())
}

/// What is enrolled.
type Known = std::sync::Arc<mrg_kube_support::Cache<kinds::service_resilience::Object>>;

/// Admission goes on without it, so it is tried again and nothing else waits for it.
async fn serve_webhook(
    client: kube::Client,
    namespace: String,
    image: kinds::service_resilience::inject::Image,
    known: Known,
) {
    while let Err(error) =
        admission::serve(client.clone(), &namespace, image.clone(), known.clone()).await
    {
        tracing::warn!(
            error = mrg_telemetry::chain(&error),
            "the admission webhook does not serve; trying again"
        );
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// What this replica knows once it works.
type Working = std::sync::Arc<std::sync::OnceLock<std::sync::Arc<mrg_operator::Shared>>>;

async fn serve_health(working: Working) {
    let page = move || {
        let working = working.clone();
        async move {
            working
                .get()
                .map(|shared| metrics::page(shared))
                .unwrap_or_default()
        }
    };
    let router = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(|| async { "ok" }))
        .route("/metrics", get(page));
    serve("0.0.0.0:8080", "health checks are", router).await;
}

async fn serve(address: &str, what: &str, router: Router) {
    match tokio::net::TcpListener::bind(address).await {
        Ok(listener) => {
            let router = router.layer(middleware::from_fn(mrg_bounds::contained));
            let _ = axum::serve(listener, router).await;
        }
        Err(error) => tracing::error!(%error, address, "{what} not served"),
    }
}
