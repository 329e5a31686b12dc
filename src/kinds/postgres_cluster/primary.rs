//! Which member leads, by the members' own REST APIs: for when etcd does not say it.

use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;

use super::build::REST_PORT;
use super::observe::Observed;
use mrg_base::Address;

const WITHIN: Duration = Duration::from_secs(2);

/// The member that says that it leads, by its lease or by its members' promises.
pub(super) async fn find(http: &reqwest::Client, observed: &Observed) -> Option<String> {
    let asked = observed
        .pods
        .iter()
        .map(|(name, pod)| async move { leads(http, pod).await.then(|| name.clone()) });
    join_all(asked).await.into_iter().flatten().next()
}

async fn leads(http: &reqwest::Client, pod: &Pod) -> bool {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.clone());
    let Some(host) = ip else {
        return false;
    };
    let address = Address {
        host,
        port: REST_PORT,
    };
    let request = http
        .get(format!("http://{address}/primary"))
        .timeout(WITHIN);
    let answer = request.send().await;
    answer.is_ok_and(|answer| answer.status() == reqwest::StatusCode::OK)
}
