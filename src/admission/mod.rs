//! The admission webhook: pods of enrolled workloads get their sidecar, wrong specs are refused
//! with words. The API server goes on without it (`failurePolicy: Ignore`): the data plane does not
//! need the control plane. Every replica serves.

mod admit;
mod certificate;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::middleware;
use axum::routing::post;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use kube::Client;
use kube::core::DynamicObject;
use kube::core::admission::AdmissionReview;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::kinds::service_resilience::Object;
use crate::kinds::service_resilience::inject::Image;
use mrg_kube_support::Cache;
use mrg_telemetry::chain;

/// Where it listens.
const PORT: u16 = 8443;
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// Why the webhook cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificate's Secret, or the configuration that names its issuer.
    #[error("failed to {action}")]
    Api {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: Box<kube::Error>,
    },
    /// A certificate cannot be made or read.
    #[error("failed to make or read the certificate: {0}")]
    Certificate(String),
    /// The port is taken.
    #[error("failed to listen")]
    Listen(#[source] std::io::Error),
}

/// What requests are answered from.
pub struct Webhook {
    /// Every ServiceResilience, as last seen.
    pub known: Arc<Cache<Object>>,
    /// The sidecar's image.
    pub image: Image,
}

/// Serves until the process ends.
///
/// # Errors
/// If it cannot begin.
pub async fn serve(
    client: Client,
    namespace: &str,
    image: Image,
    known: Arc<Cache<Object>>,
) -> Result<(), Error> {
    let identity = certificate::identity(&client, namespace).await?;
    certificate::publish(&client, &identity).await?;
    let acceptor = TlsAcceptor::from(Arc::new(identity.server()?));
    let router = Router::new()
        .route("/mutate", post(mutate))
        .route("/validate", post(validate))
        .layer(middleware::from_fn(mrg_bounds::contained))
        .with_state(Arc::new(Webhook { known, image }));
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)))
        .await
        .map_err(Error::Listen)?;
    tracing::info!(port = PORT, "the admission webhook serves");
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let (acceptor, service) = (acceptor.clone(), TowerToHyperService::new(router.clone()));
        tokio::spawn(async move {
            let Ok(Ok(stream)) =
                tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await
            else {
                return;
            };
            if let Err(error) = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await
            {
                tracing::debug!(error = chain(&*error), "webhook connection");
            }
        });
    }
}

async fn mutate(
    State(webhook): State<Arc<Webhook>>,
    axum::Json(review): axum::Json<AdmissionReview<DynamicObject>>,
) -> axum::Json<AdmissionReview<DynamicObject>> {
    axum::Json(admit::mutate(&webhook, review))
}

async fn validate(
    axum::Json(review): axum::Json<AdmissionReview<DynamicObject>>,
) -> axum::Json<AdmissionReview<DynamicObject>> {
    axum::Json(admit::validate(review))
}
