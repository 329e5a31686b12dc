//! The HTTP client of a dependency.

use std::time::Duration;

use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::body::SentBody;
use mrg_policy::Dependency;

/// How long a connection may be idle. Requests get lost on connections that the upstream closes at
/// that moment, so the proxy closes them earlier than upstreams usually do.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// A client for upstreams, with its pool of connections.
pub(crate) type Upstream = Client<HttpsConnector<HttpConnector>, SentBody>;

/// Whether the connections of one configuration serve the other as well.
pub(super) fn same_connections(one: &Dependency, other: &Dependency) -> bool {
    let tls = |spec: &Dependency| spec.providers.iter().any(|provider| provider.url.tls);
    one.http2 == other.http2
        && one.timeout.connect == other.timeout.connect
        && tls(one) == tls(other)
}

/// Builds the client of a dependency.
///
/// # Errors
/// If a provider uses https and no certificate authorities are found.
pub(super) fn client(spec: &Dependency) -> std::io::Result<Upstream> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(spec.timeout.connect.0.duration()));
    tcp.enforce_http(false);
    let builder = hyper_rustls::HttpsConnectorBuilder::new();
    // Reading the certificates costs memory that a proxy without https has no use for.
    let builder = if spec.providers.iter().any(|provider| provider.url.tls) {
        builder.with_native_roots()?
    } else {
        builder.with_tls_config(
            rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth(),
        )
    };
    let builder = builder.https_or_http();
    let connector = if spec.http2 {
        builder.enable_http2().wrap_connector(tcp)
    } else {
        builder.enable_http1().wrap_connector(tcp)
    };
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http2_only(spec.http2)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .http2_keep_alive_timeout(Duration::from_secs(5))
        .http1_max_buf_size(64 << 10)
        .build(connector))
}
