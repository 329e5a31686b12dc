//! A request without its body.

use http::uri::PathAndQuery;
use http::{HeaderMap, Method};

/// A request's head, without what belonged to the caller's connection.
pub(crate) struct Head {
    /// Its method.
    pub method: Method,
    /// Its path and query.
    pub path: PathAndQuery,
    /// Its headers.
    pub headers: HeaderMap,
    /// Whether it is a gRPC call.
    pub grpc: bool,
}
