//! One request to a port of a pod, through the API server: the person at the terminal need not be
//! in the cluster's network.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::Api;

use super::{Error, Place};

/// Longer than a switchover is followed.
const WITHIN: Duration = Duration::from_secs(70);

pub(crate) struct Request<'a> {
    /// To which pod.
    pub pod: &'a str,
    /// At which port.
    pub port: u16,
    /// GET or POST.
    pub method: &'a str,
    pub path: &'a str,
    /// The `Authorization` header.
    pub authorization: String,
    /// The body; JSON.
    pub body: String,
}

/// Sends it; status and body of the answer.
///
/// # Errors
/// If the pod cannot be reached.
pub(crate) async fn send(place: &Place, request: Request<'_>) -> Result<(u16, String), Error> {
    let failed = |why: String| Error::Pod {
        pod: request.pod.to_owned(),
        why,
    };
    let exchange = async {
        let pods: Api<Pod> = Api::namespaced(place.client.clone(), &place.namespace);
        let mut forwarder = pods
            .portforward(request.pod, &[request.port])
            .await
            .map_err(|error| mrg_telemetry::chain(&error))?;
        let stream = forwarder
            .take_stream(request.port)
            .ok_or_else(|| "the port was not forwarded".to_owned())?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| mrg_telemetry::chain(&error))?;
        let driver = tokio::spawn(connection);
        let message = http::Request::builder()
            .method(request.method)
            .uri(request.path)
            .header("host", request.pod)
            .header("authorization", request.authorization)
            .header("content-type", "application/json")
            .header("connection", "close")
            .body(Full::new(Bytes::from(request.body)))
            .map_err(|error| error.to_string())?;
        let answer = sender
            .send_request(message)
            .await
            .map_err(|error| mrg_telemetry::chain(&error))?;
        let status = answer.status().as_u16();
        let body = answer
            .into_body()
            .collect()
            .await
            .map_err(|error| mrg_telemetry::chain(&error))?
            .to_bytes();
        driver.abort();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    match tokio::time::timeout(WITHIN, exchange).await {
        Ok(done) => done.map_err(failed),
        Err(_) => Err(failed(format!("no answer within {} s", WITHIN.as_secs()))),
    }
}

/// A value of a Secret.
///
/// # Errors
/// If it is not there, or this person may not read it.
pub(crate) async fn secret(place: &Place, name: &str, key: &str) -> Result<String, Error> {
    let secrets: Api<Secret> = Api::namespaced(place.client.clone(), &place.namespace);
    let secret = secrets
        .get(name)
        .await
        .map_err(Error::request(format!("read the Secret {name}")))?;
    let value = secret
        .data
        .and_then(|data| data.get(key).cloned())
        .and_then(|value| String::from_utf8(value.0).ok());
    value.ok_or_else(|| Error::Refused(format!("the Secret {name} has no key {key}")))
}
